//! Tests of limits, counters and device rules. They look at nothing where the machine's cgroup v2 hierarchy lacks the
//! controller, and say so; in the guest's own kernel all of them are there.

use serde_json::json;

use super::harness::{Guest, chain, exec_spec, finish, spec};
use super::*;

/// A number of the memory devices that no driver serves: whoever may open it hears so.
const NOBODY_S_DEVICE: &str = "1 200";

#[tokio::test]
async fn limits_of_the_specification_are_in_the_cgroup() {
    let guest = Guest::new();
    if !(guest.has("memory") && guest.has("cpu") && guest.has("pids")) {
        return;
    }
    let mut spec = spec("sleep 1000");
    spec["linux"]["resources"] = json!({
        "memory": { "limit": 67_108_864, "reservation": 33_554_432 }, "pids": { "limit": 50 },
        "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0-7" },
    });
    let container = guest.create("c", &spec).await.unwrap();
    let read = |file: &str| std::fs::read_to_string(guest.cgroup.join("c").join(file)).unwrap();
    assert_eq!(read("memory.max"), "67108864\n");
    assert_eq!(read("memory.low"), "33554432\n");
    assert_eq!(read("pids.max"), "50\n");
    assert_eq!(read("cpu.weight"), "39\n");
    assert_eq!(read("cpu.max"), "50000 100000\n");
    let update = ResourceUpdate::parse(br#"{"memory":{"limit":134217728},"cpu":{"quota":-1}}"#).unwrap();
    container.update(&update).await.unwrap();
    assert_eq!(read("memory.max"), "134217728\n");
    assert_eq!(read("cpu.max"), "max 100000\n");
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn a_limit_that_the_kernel_refuses_is_reported_with_file_and_value() {
    let guest = Guest::new();
    let mut spec = spec("true");
    spec["linux"]["resources"] = json!({ "unified": { "memory.no_such_file": "1" } });
    let error = guest.create("c", &spec).await.unwrap_err();
    assert!(chain(&error).contains("cannot write \"1\" to") && chain(&error).contains("memory.no_such_file"));
    assert!(!guest.cgroup.join("c").exists());
}

#[tokio::test]
async fn a_process_that_eats_all_memory_is_reported_before_its_exit() {
    let guest = Guest::new();
    if !guest.has("memory") {
        return;
    }
    let mut events = guest.runtime.oom_events().unwrap();
    let mut spec = spec("head -c 200000000 /dev/zero | tail");
    spec["linux"]["resources"] =
        json!({ "memory": { "limit": 20_000_000 }, "unified": { "memory.oom.group": "1" } });
    let container = guest.create("c", &spec).await.unwrap();
    container.init().start().await.unwrap();
    let exit = container.init().wait().await;
    assert_eq!((exit.status, exit.oom_killed), (137, true));
    assert_eq!(events.try_recv().unwrap(), "c");
    assert!(container.stats().unwrap().memory_events.oom_kill > 0);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_fork_beyond_the_limit_fails() {
    let guest = Guest::new();
    if !guest.has("pids") {
        return;
    }
    let mut spec = spec("for i in 1 2 3 4 5 6; do sleep 1000 & done; echo all");
    spec["linux"]["resources"] = json!({ "pids": { "limit": 4 } });
    let (status, output) = guest.run(&spec).await;
    assert!(status != 0 && !output.contains("all"), "{status} {output}");
}

#[tokio::test]
async fn counters_count_and_stay_after_the_exit() {
    let guest = Guest::new();
    let container =
        guest.create("c", &spec("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")).await.unwrap();
    finish(&container.init()).await;
    let stats = container.stats().unwrap();
    assert!(stats.cpu.usage_usec > 0 || !guest.has("cpu"));
    assert!(stats.memory.max_usage > 0 || !guest.has("memory"));
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_device_outside_the_rules_cannot_be_opened() {
    let guest = Guest::new();
    if !super::device_filter::can_load() {
        super::harness::skip("this machine lets nobody load BPF programs");
        return;
    }
    // It may be made, as anything may, and not be opened.
    let script = format!("mknod /tmp/dev c {NOBODY_S_DEVICE} && : </tmp/dev");
    let mut spec = spec(&format!("sh -c '{script}' 2>&1; head -c 1 /dev/zero | wc -c"));
    let caps = json!(["CAP_MKNOD"]);
    spec["process"]["capabilities"] = json!({ "bounding": caps, "effective": caps, "permitted": caps });
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("Operation not permitted") && output.ends_with("1\n"), "{output}");
}

#[tokio::test]
async fn new_device_rules_replace_the_old_ones() {
    let guest = Guest::new();
    if !super::device_filter::can_load() {
        super::harness::skip("this machine lets nobody load BPF programs");
        return;
    }
    let rules = |access: &str| {
        let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 200, "access": access });
        json!({ "devices": [rule] })
    };
    let mut spec = spec("sleep 1000");
    spec["linux"]["resources"] = rules("rm");
    spec["linux"]["devices"] = json!([{ "path": "/dev/nobody", "type": "c", "major": 1, "minor": 200 }]);
    let container = guest.create("c", &spec).await.unwrap();
    container.init().start().await.unwrap();
    let open = exec_spec(": </dev/nobody");
    let permitted = container.exec("permitted", open.clone(), super::harness::PIPES).await.unwrap();
    let (_, output) = finish(&permitted).await;
    assert!(output.contains("No such device or address"), "{output}");
    container.update(&ResourceUpdate::parse(rules("m").to_string().as_bytes()).unwrap()).await.unwrap();
    let denied = container.exec("denied", open, super::harness::PIPES).await.unwrap();
    let (_, output) = finish(&denied).await;
    assert!(output.contains("Operation not permitted"), "{output}");
    container.destroy().await.unwrap();
}

#[tokio::test]
async fn an_exec_works_in_a_container_that_manages_cgroups_of_its_own() {
    let guest = Guest::new();
    if !guest.has("pids") {
        return;
    }
    let script = "cd /sys/fs/cgroup && mkdir -p a/b && echo 1 >a/b/cgroup.procs && echo +pids >cgroup.subtree_control && \
                  echo ready && exec sleep 1000";
    let mut spec = spec(script);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap()["options"] = json!(["rw"]);
    let container = guest.create("c", &spec).await.unwrap();
    let Some(Stdio::Pipes { stdout: Some(stdout), .. }) = container.init().take_stdio() else {
        panic!("no pipes")
    };
    container.init().start().await.unwrap();
    let ready = tokio::task::spawn_blocking(move || {
        rustix::io::ioctl_fionbio(&stdout, false).unwrap();
        rustix::io::read(&stdout, &mut [0; 16]).unwrap()
    });
    assert_eq!(ready.await.unwrap(), "ready\n".len());
    let exec = container.exec("e", exec_spec("grep '^0:' /proc/self/cgroup"), super::harness::PIPES).await;
    let exec = exec.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(finish(&exec).await, (0, "0::/a/b\n".to_owned()));
    container.destroy().await.unwrap();
}
