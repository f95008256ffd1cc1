//! What a process in a container sees of itself and of its machine, as one line of JSON.

use std::ffi::CString;
use std::io;
use std::process::ExitCode;

use nix::unistd::{getgroups, gethostname, getpid};
use serde_json::{Value, json};

/// Prints what this process is: ids, limits, namespaces, mounts, capabilities, environment.
pub(crate) fn facts() -> io::Result<ExitCode> {
    let groups: Vec<u32> = getgroups()?.iter().map(|group| group.as_raw()).collect();
    let namespaces: Vec<Value> = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"]
        .iter()
        .map(|name| {
            let link = std::fs::read_link(format!("/proc/self/ns/{name}"));
            json!({ "name": name, "link": link.map(|path| path.display().to_string()).unwrap_or_default() })
        })
        .collect();
    let facts = json!({
        "pid": getpid().as_raw(),
        "groups": groups,
        "hostname": gethostname()?.to_string_lossy(),
        "directory": std::env::current_dir()?.display().to_string(),
        "environment": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        "kernel": text("/proc/sys/kernel/osrelease"),
        "status": pairs(&text("/proc/self/status")),
        "limits": text("/proc/self/limits").lines().collect::<Vec<_>>(),
        "mounts": text("/proc/self/mountinfo").lines().collect::<Vec<_>>(),
        "cgroup": text("/proc/self/cgroup"),
        "namespaces": namespaces,
        "devices": names("/dev"),
        "writable_root": writable("/"),
    });
    println!("{facts}");
    Ok(ExitCode::SUCCESS)
}

/// Prints rows and columns of the terminal on standard input.
pub(crate) fn size() -> io::Result<ExitCode> {
    let size = rustix::termios::tcgetwinsize(io::stdin())?;
    println!("{} by {}", size.ws_row, size.ws_col);
    Ok(ExitCode::SUCCESS)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| format!("unreadable: {error}"))
}

fn pairs(status: &str) -> Value {
    let pairs = status.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_owned(), Value::from(value.trim())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn names(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn writable(path: &str) -> bool {
    CString::new(path)
        .is_ok_and(|path| nix::unistd::access(path.as_c_str(), nix::unistd::AccessFlags::W_OK).is_ok())
}
