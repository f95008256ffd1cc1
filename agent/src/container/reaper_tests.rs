//! Tests of the reaper with many real children.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::harness::{Guest, exec_spec, finish, spec};
use super::reaper::{Reaper, exited};
use super::*;

/// The reaper waits for it.
fn shell(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command.spawn().unwrap()
}

#[tokio::test]
async fn two_hundred_children_that_exit_at_once_each_keep_their_code() {
    let guest = Guest::new();
    let watches: Vec<_> = (0..200u32)
        .map(|code| {
            let child = shell(&format!("exit {code}"));
            (code, guest.runtime.ground.launcher.watch(child).unwrap())
        })
        .collect();
    for (code, mut watch) in watches {
        assert_eq!(exited(&mut watch).await.status, code);
    }
}

#[tokio::test]
async fn a_child_killed_by_a_signal_has_128_added() {
    let guest = Guest::new();
    let child = shell("kill -TERM $$");
    let mut watch = guest.runtime.ground.launcher.watch(child).unwrap();
    assert_eq!(exited(&mut watch).await.status, 128 + 15);
}

#[test]
fn orphans_are_reaped_and_steal_no_exit_code() {
    // The kernel gives orphans to the main thread of a subreaper, so this needs a process of its own.
    run_alone("orphans-scenario");
}

#[test]
fn a_hundred_execs_leave_no_descriptor_child_or_cgroup() {
    run_alone("leaks-scenario");
}

/// Runs a scenario of `harness.rs` in a process of its own.
fn run_alone(scenario: &str) {
    let output = Command::new("/proc/self/exe").arg(scenario).stdin(Stdio::null()).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("as expected"), "{text}");
}

/// Runs before main, as the only thread of a fresh process.
pub(super) fn leaks_scenario() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let guest = Guest::new();
        let container = guest.create("c", &spec("exec sleep 1000")).await.unwrap();
        container.init().start().await.unwrap();
        let one = async |number: u32| {
            let id = format!("e{number}");
            let size = number.is_multiple_of(3).then_some(WindowSize { columns: 80, rows: 24 });
            let stdio = StdioRequest { stdin: true, stdout: true, stderr: true, terminal: size };
            let process = container.exec(&id, exec_spec("true"), stdio).await.unwrap();
            drop(process.take_stdio());
            process.start().await.unwrap();
            process.wait().await;
            container.forget(&id).unwrap();
        };
        one(0).await;
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        for number in 1..=100 {
            one(number).await;
        }
        // The last exec's own task still has to end.
        tokio::task::yield_now().await;
        assert_eq!(descriptors(), before);
        assert_eq!(container.pids().unwrap().len(), 1);
        container.destroy().await.unwrap();
        no_children_left().await;
    });
    println!("as expected");
}

/// Whatever has ended is reaped, soon: a helper of the last start may end after what it started.
async fn no_children_left() {
    let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap();
    let none = async {
        while !children().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), none).await;
    assert!(seen.is_ok(), "not reaped: {}", children());
}

/// Runs before main, as the only thread of a fresh process.
pub(super) fn orphans_scenario() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let reaper = Reaper::start().unwrap();
        let launcher = super::launch::Launcher::new(reaper);
        // Each child leaves four orphans behind and exits with a code of its own.
        let watches: Vec<_> = (0..50u32)
            .map(|code| {
                let script = format!("for i in 1 2 3 4; do (sleep 0.01; exit 99) & done; exit {code}");
                (code, launcher.watch(shell(&script)).unwrap())
            })
            .collect();
        for (code, mut watch) in watches {
            assert_eq!(exited(&mut watch).await.status, code);
        }
        no_children_left().await;
    });
    println!("as expected");
}

#[tokio::test]
async fn a_hundred_execs_at_once_each_keep_their_code() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let execs = (0..100u32).map(|code| {
        let container = container.clone();
        tokio::spawn(async move {
            let id = format!("e{code}");
            let spec = exec_spec(&format!("exit {code}"));
            let process = container.exec(&id, spec, StdioRequest::default()).await.unwrap();
            let (status, _) = finish(&process).await;
            assert_eq!(container.forget(&id).unwrap().status, status);
            (code, status)
        })
    });
    for exec in execs.collect::<Vec<_>>() {
        let (code, status) = exec.await.unwrap();
        assert_eq!(code, status);
    }
    container.destroy().await.unwrap();
}
