//! Tests of a container's life with real processes: states, signals, exits, what is left.

use std::time::SystemTime;

use serde_json::json;

use super::error::SetupError;
use super::harness::{Guest, PIPES, chain, exec_spec, finish, process, spec};
use super::*;

#[tokio::test]
async fn a_container_ends_with_the_code_of_its_script() {
    let guest = Guest::new();
    assert_eq!(guest.run(&spec("echo out; echo err >&2; exit 42")).await, (42, "out\nerr\n".to_owned()));
}

#[tokio::test]
async fn a_process_goes_from_created_over_running_to_stopped() {
    let guest = Guest::new();
    let before = SystemTime::now();
    let container = guest.create("c", &spec("read line")).await.unwrap();
    let init = container.init();
    assert_eq!(init.state(), ProcessState::Created);
    init.start().await.unwrap();
    assert_eq!(init.wait().await.status, 1);
    assert_eq!(init.state(), ProcessState::Stopped);
    assert_eq!(init.wait().await, init.exit().unwrap());
    assert!(init.exit().unwrap().at >= before);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_process_starts_only_once() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let error = container.init().start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(chain(&error), "cannot start a process of container c in state running");
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_missing_program_is_reported_as_runc_does() {
    let guest = Guest::new();
    let mut spec = spec("");
    spec["process"]["args"] = json!(["no-such-program"]);
    let error = guest.create("c", &spec).await.unwrap_err();
    assert!(
        chain(&error).ends_with("exec: \"no-such-program\": executable file not found in $PATH"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_path_is_reported_with_the_path() {
    let guest = Guest::new();
    let mut spec = spec("");
    spec["process"]["args"] = json!(["/no/such/program"]);
    let error = guest.create("c", &spec).await.unwrap_err();
    assert!(
        chain(&error).ends_with("exec: \"/no/such/program\": no such file or directory"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_file_that_is_no_program_fails_at_start() {
    let guest = Guest::new();
    let path = guest.root().join("etc/noise");
    std::fs::write(&path, [0u8, 1, 2, 3]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = spec("");
    spec["process"]["args"] = json!(["/etc/noise"]);
    let container = guest.create("c", &spec).await.unwrap();
    let error = container.init().start().await.unwrap_err();
    assert!(chain(&error).ends_with("exec: \"/etc/noise\": exec format error"), "{}", chain(&error));
    assert_eq!(container.init().state(), ProcessState::Stopped);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_signal_reaches_the_handler_of_the_program() {
    let guest = Guest::new();
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let container = guest.create("c", &spec(script)).await.unwrap();
    let init = container.init();
    let Some(Stdio::Pipes { stdout: Some(stdout), .. }) = init.take_stdio() else { panic!("no pipes") };
    init.start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        rustix::io::ioctl_fionbio(&stdout, false).unwrap();
        rustix::io::read(&stdout, &mut [0; 16]).unwrap();
    })
    .await
    .unwrap();
    init.signal(libc::SIGTERM).unwrap();
    assert_eq!(init.wait().await.status, 7);
    assert!(matches!(init.signal(libc::SIGTERM), Err(ContainerError::Finished { .. })));
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_killed_process_has_137_and_is_not_called_out_of_memory() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    container.init().signal(libc::SIGKILL).unwrap();
    let exit = container.init().wait().await;
    assert_eq!((exit.status, exit.oom_killed), (137, false));
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_container_that_was_never_started_can_be_killed_and_deleted() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("true")).await.unwrap();
    container.init().signal(libc::SIGKILL).unwrap();
    assert_eq!(container.init().wait().await.status, 137);
    container.delete().await.unwrap();
    container.delete().await.unwrap();
    assert!(!guest.cgroup.join("c").exists());
}

#[tokio::test]
async fn a_running_container_is_not_deleted() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    assert_eq!(container.delete().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn an_exec_has_its_own_code_user_and_directory() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let mut request = process("id -u; pwd; echo $FOO; exit 5");
    request["user"] = json!({ "uid": 1000, "gid": 1000 });
    request["cwd"] = json!("/tmp");
    request["env"] = json!(["FOO=bar"]);
    let request = ProcessSpec::parse(request.to_string().as_bytes()).unwrap();
    let exec = container.exec("e", request, PIPES).await.unwrap();
    assert_eq!(exec.state(), ProcessState::Created);
    assert_eq!(finish(&exec).await, (5, "1000\n/tmp\nbar\n".to_owned()));
    assert_eq!(container.forget("e").unwrap().status, 5);
    assert!(container.process("e").is_none());
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn an_exec_id_is_taken_until_it_is_forgotten() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let exec = container.exec("e", exec_spec("true"), StdioRequest::default()).await.unwrap();
    let again = container.exec("e", exec_spec("true"), StdioRequest::default()).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(container.forget("e").unwrap_err().kind(), ErrorKind::FailedPrecondition);
    finish(&exec).await;
    container.forget("e").unwrap();
    assert_eq!(container.forget("e").unwrap_err().kind(), ErrorKind::NotFound);
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_failed_exec_leaves_its_id_free() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let mut request = process("");
    request["args"] = json!(["no-such-program"]);
    let request = ProcessSpec::parse(request.to_string().as_bytes()).unwrap();
    let error = container.exec("e", request, StdioRequest::default()).await.unwrap_err();
    assert!(matches!(error, ContainerError::Setup { source: SetupError::NotInPath { .. }, .. }));
    container.exec("e", exec_spec("true"), StdioRequest::default()).await.unwrap();
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn the_end_of_init_ends_the_execs_whose_exits_come_first() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let exec = container.exec("e", exec_spec("sleep 1000"), StdioRequest::default()).await.unwrap();
    exec.start().await.unwrap();
    let waiting = container.exec("never-started", exec_spec("true"), StdioRequest::default()).await.unwrap();
    container.init().signal(libc::SIGKILL).unwrap();
    container.init().wait().await;
    assert_eq!(exec.exit().unwrap().status, 137);
    assert_eq!(waiting.exit().unwrap().status, 137);
    assert!(exec.exit().unwrap().at <= container.init().exit().unwrap().at);
    let late = container.exec("late", exec_spec("true"), StdioRequest::default()).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_background_process_does_not_outlive_its_container() {
    let guest = Guest::new();
    let (status, _) = guest.run(&spec("sleep 1000 >/dev/null 2>&1 & exit 3")).await;
    assert_eq!(status, 3);
}

#[tokio::test]
async fn a_frozen_container_reports_paused_and_refuses_execs() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    container.pause().await.unwrap();
    assert_eq!(container.init().state(), ProcessState::Paused);
    let refused = container.exec("e", exec_spec("true"), StdioRequest::default()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    container.resume().await.unwrap();
    assert_eq!(container.init().state(), ProcessState::Running);
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_frozen_container_can_be_killed() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    container.pause().await.unwrap();
    container.init().signal(libc::SIGKILL).unwrap();
    assert_eq!(container.init().wait().await.status, 137);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_signal_to_all_reaches_the_execs_too() {
    let guest = Guest::new();
    // The first process of a pid namespace ignores what it has no handler for.
    let container = guest.create("c", &spec("exec sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let exec = container.exec("e", exec_spec("exec sleep 1000"), StdioRequest::default()).await.unwrap();
    exec.start().await.unwrap();
    assert!(container.pids().unwrap().len() >= 2);
    container.signal_all(libc::SIGUSR1).unwrap();
    assert_eq!(exec.wait().await.status, 128 + 10);
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_creation_that_nobody_awaits_any_more_leaves_nothing() {
    let guest = Guest::new();
    let spec = spec("sleep 1000");
    let first_step = futures::FutureExt::now_or_never(guest.create("c", &spec));
    assert!(first_step.is_none());
    tokio::task::yield_now().await;
    assert!(guest.cgroup.join("c").exists());
    while guest.cgroup.join("c").exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_refused_creation_leaves_nothing() {
    let guest = Guest::new();
    let mut spec = spec("true");
    spec["mounts"].as_array_mut().unwrap().push(
        json!({ "destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"] }),
    );
    let error = guest.create("c", &spec).await.unwrap_err();
    assert_eq!(
        chain(&error),
        "failed to create container process of c: error mounting \"/no/such/source\" to rootfs at \"/x\": \
         open the source: no such file or directory"
    );
    assert!(!guest.cgroup.join("c").exists());
}

#[tokio::test]
async fn an_id_that_is_a_path_is_refused() {
    let guest = Guest::new();
    assert_eq!(guest.create("../x", &spec("true")).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn an_id_in_use_is_refused() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    assert!(matches!(guest.create("c", &spec("true")).await, Err(ContainerError::Cgroup { .. })));
    assert_eq!(container.init().state(), ProcessState::Created);
    container.destroy().await.unwrap();
}
