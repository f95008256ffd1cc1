//! Tests of what a process sees and may do in a container.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::harness::{Guest, exec_spec, finish, spec};
use super::*;

fn push(spec: &mut Value, list: &str, value: Value) {
    spec[list].as_array_mut().unwrap().push(value);
}

#[tokio::test]
async fn a_container_sees_only_its_own_processes_and_name() {
    let guest = Guest::new();
    let (status, output) = guest.run(&spec("echo $$; uname -n; cd /proc; echo [0-9]*")).await;
    assert_eq!((status, output.as_str()), (0, "1\nbox\n1\n"));
}

#[tokio::test]
async fn masked_files_are_empty_and_masked_directories_too() {
    let guest = Guest::new();
    let script = "wc -c </proc/keys; ls -A /sys/firmware | wc -l; [ -c /proc/keys ] && echo null";
    assert_eq!(guest.run(&spec(script)).await.1, "0\n0\nnull\n");
}

#[tokio::test]
async fn read_only_paths_refuse_writes() {
    let guest = Guest::new();
    let (_, output) = guest.run(&spec("echo x 2>&1 >/proc/sys/kernel/domainname")).await;
    assert!(output.contains("Read-only file system"), "{output}");
}

#[tokio::test]
async fn capabilities_are_exactly_those_of_the_specification() {
    let guest = Guest::new();
    let (_, output) =
        guest.run(&spec("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status")).await;
    // chown 0, kill 5, setgid 6, setuid 7, net_bind_service 10
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000000004e1\nCapEff:\t00000000000004e1\n\
                    CapBnd:\t00000000000004e1\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";
    assert_eq!(output, expected);
}

#[tokio::test]
async fn ambient_capabilities_survive_a_change_of_user() {
    let guest = Guest::new();
    let mut spec = spec("grep -E 'Cap(Eff|Amb)' /proc/self/status");
    let kill = json!(["CAP_KILL"]);
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    spec["process"]["capabilities"] = json!({ "bounding": kill, "effective": kill, "permitted": kill, "inheritable": kill, "ambient": kill });
    let expected = "CapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n";
    assert_eq!(guest.run(&spec).await.1, expected);
}

#[tokio::test]
async fn a_process_without_capabilities_in_its_specification_has_none() {
    let guest = Guest::new();
    let mut spec = spec("grep -E 'Cap(Prm|Bnd)' /proc/self/status");
    spec["process"]["capabilities"] = Value::Null;
    assert_eq!(guest.run(&spec).await.1, "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\n");
}

#[tokio::test]
async fn user_groups_umask_and_home_are_as_given() {
    let guest = Guest::new();
    let mut spec = spec("id -u; id -g; id -G; umask; echo $HOME");
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 77], "umask": 0o027 });
    assert_eq!(guest.run(&spec).await.1, "1000\n1001\n1001 5 77\n0027\n/home/user\n");
}

#[tokio::test]
async fn a_user_can_open_its_standard_output_again() {
    let guest = Guest::new();
    let mut spec = spec("echo again >/dev/stdout");
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(guest.run(&spec).await, (0, "again\n".to_owned()));
}

#[tokio::test]
async fn a_missing_working_directory_is_made() {
    let guest = Guest::new();
    let mut spec = spec("pwd");
    spec["process"]["cwd"] = json!("/srv/deep/down");
    assert_eq!(guest.run(&spec).await.1, "/srv/deep/down\n");
}

#[tokio::test]
async fn resource_limits_are_set() {
    let guest = Guest::new();
    let mut spec = spec("ulimit -Sn; ulimit -Hn; ulimit -c");
    spec["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
    ]);
    assert_eq!(guest.run(&spec).await.1, "100\n200\n0\n");
}

fn filtered(mut spec: Value) -> Value {
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            { "names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42,
              "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] },
        ],
    });
    spec
}

#[tokio::test]
async fn seccomp_refuses_the_right_call_with_the_right_error() {
    let guest = Guest::new();
    let spec = filtered(spec("mkdir /tmp/a 2>&1; grep Seccomp: /proc/self/status; kill -0 $$ && echo ok"));
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("No space left on device"), "{output}");
    assert!(output.contains("Seccomp:\t2\n") && output.contains("ok\n"), "{output}");
}

#[tokio::test]
async fn seccomp_without_no_new_privs_is_loaded_all_the_same() {
    let guest = Guest::new();
    let mut spec = filtered(spec("mkdir /tmp/a 2>&1; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status"));
    spec["process"]["noNewPrivileges"] = json!(false);
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("No space left on device") && output.contains("NoNewPrivs:\t0\n"), "{output}");
}

#[tokio::test]
async fn an_exec_is_filtered_like_init() {
    let guest = Guest::new();
    let container = guest.create("c", &filtered(spec("sleep 1000"))).await.unwrap();
    container.init().start().await.unwrap();
    let exec = container.exec("e", exec_spec("mkdir /tmp/a 2>&1"), super::harness::PIPES).await.unwrap();
    let (_, output) = finish(&exec).await;
    assert!(output.contains("No space left on device"), "{output}");
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_one_and_has_its_size() {
    let guest = Guest::new();
    let spec = spec("tty; stty size; [ -t 2 ] && echo yes; [ -c /dev/console ] && echo console");
    let stdio =
        StdioRequest { terminal: Some(WindowSize { columns: 90, rows: 30 }), ..StdioRequest::default() };
    let container = guest.create_with("c", &spec, stdio).await.unwrap();
    let (_, output) = finish(&container.init()).await;
    assert_eq!(output, "/dev/pts/0\r\n30 90\r\nyes\r\nconsole\r\n");
    container.delete().await.unwrap();
}

#[tokio::test]
async fn an_exec_gets_a_terminal_of_the_container_and_can_be_resized() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let stdio =
        StdioRequest { terminal: Some(WindowSize { columns: 1, rows: 1 }), ..StdioRequest::default() };
    let exec = container.exec("e", exec_spec("tty; stty size"), stdio).await.unwrap();
    exec.resize(WindowSize { columns: 132, rows: 43 }).unwrap();
    assert_eq!(finish(&exec).await, (0, "/dev/pts/0\r\n43 132\r\n".to_owned()));
    let no_terminal = container.init().resize(WindowSize::default()).unwrap_err();
    assert_eq!(no_terminal.kind(), ErrorKind::FailedPrecondition);
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_terminal_without_a_devpts_is_refused() {
    let guest = Guest::new();
    let mut spec = spec("true");
    spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
    std::fs::create_dir_all(guest.root().join("dev/pts")).unwrap();
    let stdio = StdioRequest { terminal: Some(WindowSize::default()), ..StdioRequest::default() };
    let error = guest.create_with("c", &spec, stdio).await.unwrap_err();
    assert!(super::harness::chain(&error).contains("/dev/pts/ptmx"), "{error}");
}

#[tokio::test]
async fn standard_input_reaches_the_process_and_ends() {
    let guest = Guest::new();
    let stdio = StdioRequest { stdin: true, stdout: true, stderr: false, terminal: None };
    let container = guest.create_with("c", &spec("cat"), stdio).await.unwrap();
    let init = container.init();
    let Some(Stdio::Pipes { stdin: Some(stdin), stdout: Some(stdout), .. }) = init.take_stdio() else {
        panic!("no pipes")
    };
    init.start().await.unwrap();
    rustix::io::write(&stdin, b"hello").unwrap();
    drop(stdin);
    assert_eq!(init.wait().await.status, 0);
    assert_eq!(super::harness::read_all(stdout), "hello");
    container.delete().await.unwrap();
}

#[tokio::test]
async fn no_descriptor_of_the_agent_is_left_in_the_process() {
    let guest = Guest::new();
    let container = guest.create("c", &spec("ls /proc/self/fd | tr '\\n' ' '")).await.unwrap();
    let exec_output = "0 1 2 3 ";
    assert_eq!(finish(&container.init()).await.1, exec_output);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn the_usual_devices_are_there() {
    let guest = Guest::new();
    let script = "cd /dev; for d in null zero full random urandom tty; do [ -c $d ] && stat -c '%n %t:%T %a' $d; done; \
                  for l in ptmx fd stdin; do readlink $l; done; echo x >null";
    let expected = "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n\
                    pts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n";
    assert_eq!(guest.run(&spec(script)).await.1, expected);
}

#[tokio::test]
async fn a_further_device_has_its_mode_and_owner() {
    let guest = Guest::new();
    let mut spec = spec("stat -c '%n %t:%T %a %u:%g' /dev/deep/fuse");
    spec["linux"]["devices"] = json!([{ "path": "/dev/deep/fuse", "type": "c", "major": 10, "minor": 229,
        "fileMode": 0o640, "uid": 7, "gid": 8 }]);
    assert_eq!(guest.run(&spec).await.1, "/dev/deep/fuse a:e5 640 7:8\n");
}

#[tokio::test]
async fn a_read_only_root_refuses_writes_and_its_tmpfs_does_not() {
    let guest = Guest::new();
    let mut spec = spec("touch /x 2>&1; touch /tmp/y && stat -c %a /tmp");
    spec["root"]["readonly"] = json!(true);
    std::fs::set_permissions(guest.root().join("tmp"), PermissionsExt::from_mode(0o1770)).unwrap();
    push(&mut spec, "mounts", json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("Read-only file system") && output.ends_with("1770\n"), "{output}");
    assert!(!guest.root().join("x").exists());
}

#[tokio::test]
async fn a_read_only_bind_mount_refuses_writes_and_keeps_the_source_writable() {
    let guest = Guest::new();
    let source = tempfile::tempdir().unwrap();
    let mut spec = spec("touch /data/x 2>&1; grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6");
    push(
        &mut spec,
        "mounts",
        json!({ "destination": "/data", "type": "bind", "source": source.path(),
                "options": ["rbind", "ro", "nosuid", "nodev", "noexec"] }),
    );
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(output.contains("ro,nosuid,nodev,noexec"), "{output}");
    std::fs::write(source.path().join("y"), "").unwrap();
}

#[tokio::test]
async fn a_recursive_read_only_bind_covers_the_mounts_below() {
    let guest = Guest::new();
    let mut spec = spec("touch /deep/mqueue/x 2>&1; touch /deep/x 2>&1");
    push(
        &mut spec,
        "mounts",
        json!({ "destination": "/deep", "type": "bind", "source": "/dev", "options": ["rbind", "rro"] }),
    );
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("Read-only file system") && !output.contains("Permission"), "{output}");
}

#[tokio::test]
async fn a_single_file_is_bound_onto_a_missing_one() {
    let guest = Guest::new();
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), "127.0.0.1 localhost\n").unwrap();
    let mut spec = spec("cat /etc/sub/hosts");
    push(
        &mut spec,
        "mounts",
        json!({ "destination": "/etc/sub/hosts", "type": "bind", "source": source.path(), "options": ["bind"] }),
    );
    assert_eq!(guest.run(&spec).await.1, "127.0.0.1 localhost\n");
}

#[tokio::test]
async fn a_symbolic_link_in_the_image_leads_no_mount_outside() {
    let guest = Guest::new();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), guest.root().join("data")).unwrap();
    let mut spec = spec("ls -d /data/sub");
    push(&mut spec, "mounts", json!({ "destination": "/data/sub", "type": "tmpfs", "source": "tmpfs" }));
    assert_eq!(guest.run(&spec).await.0, 0);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(guest.root().join(outside.path().strip_prefix("/").unwrap()).join("sub").is_dir());
}

#[tokio::test]
async fn a_link_with_dots_stays_in_the_image_too() {
    let guest = Guest::new();
    std::os::unix::fs::symlink("../../../../escape", guest.root().join("etc/link")).unwrap();
    let mut spec = spec("true");
    push(&mut spec, "mounts", json!({ "destination": "/etc/link/a", "type": "tmpfs", "source": "tmpfs" }));
    assert_eq!(guest.run(&spec).await.0, 0);
    assert!(guest.root().join("escape/a").is_dir());
}

#[tokio::test]
async fn a_volume_s_link_leads_no_mount_outside_the_volume() {
    let guest = Guest::new();
    let volume = tempfile::tempdir().unwrap();
    std::fs::create_dir(volume.path().join("real")).unwrap();
    std::fs::write(volume.path().join("real/file"), "inside").unwrap();
    std::os::unix::fs::symlink("/real/file", volume.path().join("link")).unwrap();
    let mut json = spec("cat /data");
    push(
        &mut json,
        "mounts",
        json!({ "destination": "/data", "type": "bind", "source": "later", "options": ["bind"] }),
    );
    let mut spec = ContainerSpec::parse(json.to_string().as_bytes()).unwrap();
    let mount = spec.mounts.iter_mut().find(|mount| mount.destination.ends_with("data")).unwrap();
    assert!(mount.is_bind());
    mount.source = MountSource::Inside { root: volume.path().to_owned(), path: "link".into() };
    let rootfs = guest.root().to_owned();
    let params =
        CreateParams { id: "c".into(), spec, rootfs, pid_namespace: None, stdio: super::harness::PIPES };
    let container = guest.runtime.create(params).await.unwrap();
    assert_eq!(finish(&container.init()).await.1, "inside");
    container.delete().await.unwrap();
}

#[tokio::test]
async fn proc_is_not_mounted_through_a_link() {
    let guest = Guest::new();
    std::os::unix::fs::symlink("/etc", guest.root().join("proc")).unwrap();
    let error = guest.create("c", &spec("true")).await.unwrap_err();
    assert!(super::harness::chain(&error).contains("without following links"), "{error}");
}

#[tokio::test]
async fn mounts_of_a_container_do_not_reach_the_agent() {
    let guest = Guest::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    let rootfs = guest.root().display().to_string();
    let during = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!during.contains(&rootfs), "{before}\n---\n{during}");
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn the_old_root_is_gone_from_the_container() {
    let guest = Guest::new();
    let (_, output) = guest.run(&spec("cut -d' ' -f5 /proc/self/mountinfo | sort")).await;
    assert!(output.starts_with("/\n/dev\n"), "{output}");
    assert!(!output.contains("/sys/fs/cgroup/unified") && !output.contains("/tmp"), "{output}");
}

#[tokio::test]
async fn a_cgroup_namespace_shows_the_container_as_the_root() {
    let guest = Guest::new();
    let (_, output) =
        guest.run(&spec("grep '^0:' /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | wc -l")).await;
    assert_eq!(output.lines().next(), Some("0::/"), "{output}");
}

#[tokio::test]
async fn a_sysctl_of_an_own_namespace_is_set() {
    let guest = Guest::new();
    let mut spec = spec("cat /proc/sys/kernel/shmmni; cat /proc/sys/fs/mqueue/msg_max");
    spec["linux"]["sysctl"] = json!({ "kernel.shmmni": "2048", "fs.mqueue.msg_max": "33" });
    assert_eq!(guest.run(&spec).await.1, "2048\n33\n");
}

#[tokio::test]
async fn an_unknown_sysctl_is_refused_by_name() {
    let guest = Guest::new();
    let mut spec = spec("true");
    spec["linux"]["sysctl"] = json!({ "kernel.no_such_thing": "1" });
    let error = guest.create("c", &spec).await.unwrap_err();
    assert!(super::harness::chain(&error).contains("\"kernel/no_such_thing\""), "{error}");
}

#[tokio::test]
async fn a_time_namespace_has_its_offset() {
    let guest = Guest::new();
    let mut spec = spec("cut -d. -f1 /proc/uptime");
    push(&mut spec["linux"], "namespaces", json!({ "type": "time" }));
    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000_000 } });
    let uptime: u64 = guest.run(&spec).await.1.trim().parse().unwrap();
    assert!(uptime > 1_000_000_000, "{uptime}");
}

/// The image belongs to the mapped root, as an identity-mapped root file system would show it.
fn with_user_namespace(guest: &Guest, mut spec: Value) -> Value {
    let chown = std::process::Command::new("chown").args(["-hR", "100000:100000"]).arg(guest.root()).spawn();
    chown.unwrap().wait().unwrap();
    std::fs::set_permissions(guest.root(), PermissionsExt::from_mode(0o755)).unwrap();
    push(&mut spec["linux"], "namespaces", json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    spec
}

#[tokio::test]
async fn a_user_namespace_maps_its_root_to_somebody_else() {
    if !super::harness::has_user_namespaces() {
        return;
    }
    let guest = Guest::new();
    let script = "id -u; tr -s ' ' </proc/self/uid_map; touch /x && stat -c %u /x; echo y >/dev/null && \
                  ls /sys/kernel >/dev/null && cat /proc/self/oom_score_adj; cut -d. -f1 /proc/uptime";
    let mut spec = with_user_namespace(&guest, spec(script));
    spec["process"]["oomScoreAdj"] = json!(500);
    push(&mut spec["linux"], "namespaces", json!({ "type": "time" }));
    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000_000 } });
    let (_, output) = guest.run(&spec).await;
    let uptime = output.strip_prefix("0\n 0 100000 65536\n0\n500\n").unwrap_or_else(|| panic!("{output}"));
    assert!(uptime.trim().parse::<u64>().unwrap() > 1_000_000_000);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(guest.root().join("x")).unwrap());
    assert_eq!(owner, 100_000);
}

#[tokio::test]
async fn an_exec_enters_the_user_namespace_too() {
    if !super::harness::has_user_namespaces() {
        return;
    }
    let guest = Guest::new();
    let container = guest.create("c", &with_user_namespace(&guest, spec("sleep 1000"))).await.unwrap();
    container.init().start().await.unwrap();
    let script = "id -u; tr -s ' ' </proc/self/uid_map; grep '^0:' /proc/self/cgroup";
    let exec = container.exec("e", exec_spec(script), super::harness::PIPES).await;
    let exec = exec.unwrap_or_else(|error| panic!("{}", super::harness::chain(&error)));
    assert_eq!(finish(&exec).await, (0, "0\n 0 100000 65536\n0::/\n".to_owned()));
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn an_ipc_namespace_of_the_pod_still_has_its_message_queues() {
    if !super::harness::has_user_namespaces() {
        return;
    }
    let guest = Guest::new();
    let mut spec = with_user_namespace(&guest, spec("grep -c mqueue /proc/self/mountinfo"));
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "ipc");
    assert_eq!(guest.run(&spec).await.1, "1\n");
}

#[tokio::test]
async fn containers_with_a_shared_pid_namespace_see_each_other_and_end_alone() {
    let guest = Guest::new();
    let shared = guest.runtime.shared_pid_namespace().await.unwrap();
    let create = async |id: &str, script: &str| {
        let spec = ContainerSpec::parse(spec(script).to_string().as_bytes()).unwrap();
        let params = CreateParams {
            id: id.to_owned(),
            spec,
            rootfs: guest.root().to_owned(),
            pid_namespace: Some(shared.clone()),
            stdio: super::harness::PIPES,
        };
        guest.runtime.create(params).await.unwrap()
    };
    let first = create("first", "sleep 1111 & sleep 1112").await;
    first.init().start().await.unwrap();
    let second = create("second", "cat /proc/1/comm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; exit 4").await;
    let (status, output) = finish(&second.init()).await;
    assert_eq!(status, 4);
    assert!(output.contains("pause") && output.contains("sleep 1111"), "{output}");
    assert_eq!(first.init().state(), ProcessState::Running);
    // Nothing but the cgroup ends the first one's background process, and nobody but the first process reaps it.
    first.init().signal(libc::SIGKILL).unwrap();
    first.init().wait().await;
    first.delete().await.unwrap();
    second.delete().await.unwrap();
}
