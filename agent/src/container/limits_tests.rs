//! Tests of limits, counters and device rules. They look at nothing where the machine's cgroup v2 hierarchy lacks the
//! controller, and say so; in the guest's own kernel all of them are there.

use serde_json::json;

use super::harness::{Guest, chain, exec_spec, finish, spec};
use super::*;

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
        eprintln!("this machine lets nobody load BPF programs: nothing was tested");
        return;
    }
    // kmsg may be made, as anything may, and not be read.
    let script = "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg 2>&1; head -c 1 /dev/zero | wc -c";
    let mut spec = spec(script);
    let caps = json!(["CAP_MKNOD"]);
    spec["process"]["capabilities"] = json!({ "bounding": caps, "effective": caps, "permitted": caps });
    let (_, output) = guest.run(&spec).await;
    assert!(output.contains("Operation not permitted") && output.ends_with("1\n"), "{output}");
    spec["linux"]["resources"] =
        json!({ "devices": [{ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" }] });
    let (_, output) = guest.run(&spec).await;
    assert!(!output.contains("Operation not permitted"), "{output}");
}

#[tokio::test]
async fn new_device_rules_replace_the_old_ones() {
    let guest = Guest::new();
    if !super::device_filter::can_load() {
        eprintln!("this machine lets nobody load BPF programs: nothing was tested");
        return;
    }
    let container = guest.create("c", &spec("sleep 1000")).await.unwrap();
    container.init().start().await.unwrap();
    let rules = br#"{"devices":[{"allow":false,"type":"c","major":1,"minor":5,"access":"r"}]}"#;
    container.update(&ResourceUpdate::parse(rules).unwrap()).await.unwrap();
    let read = exec_spec("head -c 1 /dev/zero 2>&1 | wc -c");
    let denied = container.exec("denied", read.clone(), super::harness::PIPES).await.unwrap();
    // The rules of the runtime itself come last, and permit what every container needs.
    assert_eq!(finish(&denied).await.1, "1\n");
    container.destroy().await.unwrap();
}
