//! Which processes belong to a test's containerd.

use std::fs;
use std::path::Path;

use crate::containerd::Layout;

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// File name of the program that it runs.
    pub program: String,
    /// Its command line.
    pub line: String,
    /// Whether it is the first process of a process id namespace.
    pub first: bool,
}

impl Process {
    /// Whether it runs a guest's processors: QEMU, or the built-in monitor, not the process that waits for it and not the vsock
    /// device beside QEMU.
    pub fn is_machine(&self) -> bool {
        match self.program.as_str() {
            "qemu-system-x86_64" => true,
            "coffer-vmm" => self.first && self.line.contains("coffer-vmm run "),
            _ => false,
        }
    }
}

/// All processes that carry a mark of `layout` in their command line, environment or working directory, or have an ancestor that does.
pub fn of_node(layout: &Layout) -> Vec<Process> {
    let marks = layout.marks();
    let all: Vec<(u32, u32, bool)> = pids().map(|pid| (pid, parent(pid), carries(pid, &marks))).collect();
    let own = std::process::id();
    let belongs = |pid: u32| {
        let mut at = pid;
        // Deeper than any chain of processes here; a bound, since parents change while this looks.
        for _ in 0..64 {
            match all.iter().find(|(found, _, _)| *found == at) {
                Some((found, _, _)) if *found == own => return false,
                Some((_, _, true)) => return true,
                Some((_, parent, false)) => at = *parent,
                None => return false,
            }
        }
        false
    };
    all.iter().filter(|(pid, _, _)| belongs(*pid)).filter_map(|(pid, _, _)| describe(*pid)).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn carries(pid: u32, marks: &[String]) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let text = |name: &str| fs::read(process.join(name)).unwrap_or_default();
    let in_bytes = |bytes: &[u8]| {
        marks.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == mark.as_bytes()))
    };
    let directory = fs::read_link(process.join("cwd")).unwrap_or_default();
    in_bytes(&text("environ"))
        || in_bytes(&text("cmdline"))
        || in_bytes(directory.as_os_str().as_encoded_bytes())
}

fn describe(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // Its parent has still to collect it; it holds nothing.
    if status.lines().any(|line| line.starts_with("State:") && line.contains('Z')) {
        return None;
    }
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program =
        program.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or_default();
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let first = inner.split_whitespace().nth(1) == Some("1");
    Some(Process { pid, program, line, first })
}
