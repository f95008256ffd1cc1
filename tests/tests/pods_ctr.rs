//! Containers through `ctr`: each is a pod of its own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_tests::containerd::Runtime;
use coffer_tests::node::Node;
use coffer_tests::pod_tests;
use coffer_tests::terminal::Terminal;
use coffer_tests::wait;
use serde_json::Value;

pod_tests! {
    everywhere run_brings_output_and_exit_code;
    everywhere exec_brings_output_and_exit_code;
    everywhere a_signal_arrives_and_a_killed_process_reports_it;
    everywhere a_paused_container_stands_still;
    everywhere metrics_count_memory_processor_and_processes;
    // With runc the first size is a race: its `ctr` sets it after the start, and the process was seen with 0 by 0.
    coffer_everywhere a_terminal_has_the_size_that_it_is_given;
    on_both_ends deleting_is_refused_while_running_and_not_found_after;
    on_both_ends an_id_can_be_used_again;
    on_both_ends the_image_s_layers_are_stacked;
    on_both_ends a_program_that_is_not_there_is_named;
    once an_exec_runs_as_the_user_and_in_the_directory_asked_for;
    once orphans_are_collected_and_no_exit_code_is_lost;
    once a_read_only_root_stays_read_only;
    once a_bind_mount_shows_the_node_s_files;
    once a_container_without_a_network_has_a_loopback;
    coffer_only the_kernel_is_not_the_node_s;
    coffer_only a_quota_holds_a_machine_s_processors_and_not_its_devices;
    coffer_only a_process_sees_itself_as_it_does_under_runc;
}

fn run_brings_output_and_exit_code(node: &mut Node) -> Result<()> {
    let ended =
        node.ctr_run(&["--rm"], "c1", &["sh", "-c", "echo to output; echo to errors >&2; exit 42"]).end()?;
    ensure!(ended.code() == 42, "{ended}");
    ensure!(ended.out() == "to output\n", "{ended}");
    ensure!(ended.err().contains("to errors"), "{ended}");
    Ok(())
}

fn exec_brings_output_and_exit_code(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&[], "c1", &["sleep", "1000"])?;
    let first = node.ctr_exec("c1", "e1", &["sh", "-c", "echo inside; exit 3"])?;
    ensure!(first.code() == 3 && first.out() == "inside\n", "{first}");
    let second = node.ctr_exec("c1", "e1", &["hostname"])?;
    ensure!(second.code() == 0, "the exec's id cannot be used again: {second}");
    node.ctr_remove("c1")
}

fn a_signal_arrives_and_a_killed_process_reports_it(node: &mut Node) -> Result<()> {
    let trap = ["testbox", "trap", "SIGUSR1", "SIGTERM"];
    let log = node.layout.data.join("out");
    let uri = format!("file://{}", log.display());
    node.ctr_run_detached(&["--log-uri", &uri], "c1", &trap)?;
    let says = |word: &str| fs::read_to_string(&log).is_ok_and(|text| text.contains(word));
    let limit = Duration::from_secs(20);
    wait::until_true("the process to be ready", limit, || says("ready"))?;
    node.ctr(["task", "kill", "--signal", "SIGUSR1", "c1"]).text()?;
    wait::until_true("the signal to arrive", limit, || says("SIGUSR1"))?;
    node.ctr(["task", "kill", "--signal", "SIGTERM", "c1"]).text()?;
    node.wait_for_state("c1", "STOPPED")?;
    ensure!(says("SIGTERM"), "SIGTERM did not arrive");
    let late = node.ctr(["task", "kill", "--signal", "SIGTERM", "c1"]).end()?;
    ensure!(late.code() != 0 && says_gone(&late.err()), "a process that has ended took a signal: {late}");
    node.ctr_remove("c1")?;
    node.ctr_run_detached(&[], "c2", &["sleep", "1000"])?;
    node.ctr(["task", "kill", "--signal", "SIGKILL", "c2"]).text()?;
    node.wait_for_state("c2", "STOPPED")?;
    let deleted = node.ctr(["task", "delete", "c2"]).end()?;
    ensure!(deleted.code() == 137 || deleted.err().contains("137"), "{deleted}");
    node.ctr(["container", "delete", "c2"]).text().map(drop)
}

fn a_paused_container_stands_still(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(
        &[],
        "c1",
        &["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i > /tmp/count; done"],
    )?;
    node.ctr(["task", "pause", "c1"]).text()?;
    ensure!(node.task_state("c1")?.as_deref() == Some("PAUSED"));
    let before = node.ctr(["task", "metrics", "--format", "json", "c1"]).text()?;
    let after = node.ctr(["task", "metrics", "--format", "json", "c1"]).text()?;
    ensure!(processor(&before)? == processor(&after)?, "a paused container used processor time");
    node.ctr(["task", "resume", "c1"]).text()?;
    ensure!(node.task_state("c1")?.as_deref() == Some("RUNNING"));
    let start = processor(&after)?;
    wait::until("a resumed container to use processor time", Duration::from_secs(20), || {
        let now = processor(&node.ctr(["task", "metrics", "--format", "json", "c1"]).text()?)?;
        Ok((now > start).then_some(()))
    })?;
    node.ctr_remove("c1")
}

fn metrics_count_memory_processor_and_processes(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&[], "c1", &["testbox", "burn", "24"])?;
    wait::until("24 MiB to be counted", Duration::from_secs(20), || {
        let metrics = node.ctr(["task", "metrics", "--format", "json", "c1"]).text()?;
        Ok((memory(&metrics)? > 24 << 20).then_some(()))
    })?;
    let metrics = node.ctr(["task", "metrics", "--format", "json", "c1"]).text()?;
    ensure!(processor(&metrics)? > 0, "no processor time in {metrics}");
    let processes = node.ctr(["task", "ps", "c1"]).text()?;
    ensure!(processes.lines().count() >= 2, "no process in {processes}");
    node.ctr_remove("c1")
}

fn a_terminal_has_the_size_that_it_is_given(node: &mut Node) -> Result<()> {
    let limit = Duration::from_secs(60);
    let command = node.ctr_run(&["--rm", "--tty"], "c1", &["sh"]).into_command();
    let mut terminal = Terminal::spawn(command, 90, 30)?;
    terminal.type_text("testbox size\n")?;
    terminal.wait_for("30 by 90", limit)?;
    terminal.resize(101, 33)?;
    // The new size travels on its own, so the shell asks until it has arrived.
    terminal
        .type_text("until [ \"$(testbox size)\" = '33 by 101' ]; do :; done; echo arrived $((40+2))\n")?;
    terminal.wait_for("arrived 42", limit)?;
    terminal.type_text("exit 5\n")?;
    let code = terminal.end(limit)?;
    ensure!(code == Some(5), "the shell ended with {code:?}");
    Ok(())
}

fn deleting_is_refused_while_running_and_not_found_after(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&[], "c1", &["sleep", "1000"])?;
    let early = node.ctr(["task", "delete", "c1"]).end()?;
    ensure!(early.code() != 0, "a running task was deleted");
    ensure!(node.task_state("c1")?.as_deref() == Some("RUNNING"), "refusing to delete it stopped it");
    node.ctr_remove("c1")?;
    let late = node.ctr(["task", "delete", "c1"]).end()?;
    ensure!(late.code() != 0 && says_gone(&late.err()), "{late}");
    Ok(())
}

fn an_id_can_be_used_again(node: &mut Node) -> Result<()> {
    let first = node.ctr_run(&["--rm"], "c1", &["true"]).end()?;
    first.succeeded()?;
    let second = node.ctr_run(&["--rm"], "c1", &["echo", "again"]).text()?;
    ensure!(second == "again\n", "{second:?}");
    Ok(())
}

fn the_image_s_layers_are_stacked(node: &mut Node) -> Result<()> {
    let look = "cd /layers; cat replaced; echo; ls; ls emptied; stat -c %u:%g owned; stat -c %h linked; stat -c %a /tmp";
    let seen = node.ctr_run(&["--rm"], "c1", &["sh", "-c", look]).text()?;
    let expected = "highest\nemptied\nlinked\nowned\nreplaced\nnew\n1000:1000\n2\n1777\n";
    ensure!(seen == expected, "{seen}");
    let write = "echo mine > /layers/replaced && rm /layers/owned && mkdir /new && cat /layers/replaced && ls /layers";
    let changed = node.ctr_run(&["--rm"], "c2", &["sh", "-c", write]).text()?;
    ensure!(changed == "mine\nemptied\nlinked\nreplaced\n", "{changed}");
    let fresh = node.ctr_run(&["--rm"], "c3", &["cat", "/layers/replaced"]).text()?;
    ensure!(fresh == "highest", "a container sees what another wrote: {fresh}");
    Ok(())
}

fn a_program_that_is_not_there_is_named(node: &mut Node) -> Result<()> {
    let ended = node.ctr_run(&["--rm"], "c1", &["/no/such/program"]).end()?;
    ensure!(ended.code() != 0 && ended.err().contains("/no/such/program"), "{ended}");
    ensure!(node.task_state("c1")?.is_none(), "the failed start left a task");
    node.ctr(["container", "delete", "c1"]).end()?;
    node.ctr_run_detached(&[], "c2", &["sleep", "1000"])?;
    let exec = node.ctr_exec("c2", "e1", &["/no/such/program"])?;
    ensure!(exec.code() != 0 && exec.err().contains("/no/such/program"), "{exec}");
    let next = node.ctr_exec("c2", "e1", &["true"])?;
    ensure!(next.code() == 0, "a failed exec spoils its id: {next}");
    node.ctr_remove("c2")
}

fn an_exec_runs_as_the_user_and_in_the_directory_asked_for(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&["--env", "GREETING=hello"], "c1", &["sleep", "1000"])?;
    let flags = ["task", "exec", "--exec-id", "e1", "--user", "1000:1000", "--cwd", "/tmp", "c1"];
    let seen = node.ctr(flags.iter().chain(&["sh", "-c", "id -u; id -g; pwd; echo $GREETING"])).text()?;
    ensure!(seen == "1000\n1000\n/tmp\nhello\n", "{seen}");
    node.ctr_remove("c1")
}

fn orphans_are_collected_and_no_exit_code_is_lost(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&[], "c1", &["sleep", "1000"])?;
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do testbox orphan $i; [ $? = $i ] || exit 99; done; exit 21";
    let ended = node.ctr_exec("c1", "e1", &["sh", "-c", script])?;
    ensure!(ended.code() == 21, "{ended}");
    node.ctr_remove("c1")
}

fn a_read_only_root_stays_read_only(node: &mut Node) -> Result<()> {
    let ended = node.ctr_run(&["--rm", "--read-only"], "c1", &["sh", "-c", "echo x > /layers/x"]).end()?;
    ensure!(ended.code() != 0 && ended.err().contains("Read-only file system"), "{ended}");
    Ok(())
}

fn a_bind_mount_shows_the_node_s_files(node: &mut Node) -> Result<()> {
    let directory = node.layout.data.join("shared");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("given"), "from the node")?;
    let mount =
        |options: &str| format!("type=bind,src={},dst=/shared,options={options}", directory.display());
    let write = "cat /shared/given; echo -n from inside > /shared/returned";
    let seen = node.ctr_run(&["--rm", "--mount", &mount("rbind:rw")], "c1", &["sh", "-c", write]).text()?;
    ensure!(seen == "from the node", "{seen}");
    let returned = std::fs::read_to_string(directory.join("returned")).context("nothing came back")?;
    ensure!(returned == "from inside", "{returned}");
    let refused =
        node.ctr_run(&["--rm", "--mount", &mount("rbind:ro")], "c2", &["touch", "/shared/more"]).end()?;
    ensure!(refused.code() != 0 && refused.err().contains("Read-only"), "{refused}");
    Ok(())
}

fn a_container_without_a_network_has_a_loopback(node: &mut Node) -> Result<()> {
    let script = "testbox serve 127.0.0.1:7000 yes & until testbox ask 127.0.0.1:7000 there 2>/dev/null; do :; done; kill %1";
    let seen = node.ctr_run(&["--rm"], "c1", &["sh", "-c", script]).text()?;
    ensure!(seen.contains("yes=there"), "{seen}");
    let links = node.ctr_run(&["--rm"], "c2", &["ls", "/sys/class/net"]).text()?;
    ensure!(links.split_whitespace().eq(["lo"]), "{links}");
    Ok(())
}

fn the_kernel_is_not_the_node_s(node: &mut Node) -> Result<()> {
    let inside = node.ctr_run(&["--rm"], "c1", &["cat", "/proc/version"]).text()?;
    let outside = std::fs::read_to_string("/proc/version")?;
    ensure!(inside != outside, "both say {outside}");
    Ok(())
}

fn a_quota_holds_a_machine_s_processors_and_not_its_devices(node: &mut Node) -> Result<()> {
    let quota = ["--cpu-quota", "20000", "--cpu-period", "100000"];
    node.ctr_run_detached(&quota, "c1", &["sh", "-c", "while :; do :; done"])?;
    let pod = node.machine_cgroup("c1")?;
    let limit = Duration::from_secs(30);
    let throttled = |group: &Path| {
        let counters = fs::read_to_string(group.join("cpu.stat")).unwrap_or_default();
        let count = counters.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
    };
    wait::until_true("the processors to be throttled", limit, || throttled(&pod.join("processors")) > 0)?;
    let [processors, others] = [threads(&pod.join("processors")), threads(&pod)];
    ensure!(processors.len() == 1 && processors[0].to_lowercase().starts_with("cpu"), "{processors:?}");
    ensure!(!others.is_empty() && !others.contains(&processors[0]), "{others:?} beside {processors:?}");
    ensure!(throttled(&pod) == 0, "the devices were throttled {} times", throttled(&pod));
    node.ctr_remove("c1")?;
    ensure!(!pod.exists(), "{} is left", pod.display());
    Ok(())
}

/// Names of the threads in a cgroup of either version.
fn threads(group: &Path) -> Vec<String> {
    let listed = ["cgroup.threads", "tasks"].map(|file| fs::read_to_string(group.join(file)));
    let listed = listed.into_iter().flatten().next().unwrap_or_default();
    let names = listed.lines().map(|thread| fs::read_to_string(format!("/proc/{thread}/comm")));
    names.flatten().map(|name| name.trim_end().to_owned()).collect()
}

fn a_process_sees_itself_as_it_does_under_runc(node: &mut Node) -> Result<()> {
    let flags = ["--rm", "--hostname", "named", "--env", "A=b", "--cwd", "/tmp", "--user", "1000:1000"];
    let facts = |node: &Node, id: &str| -> Result<Value> {
        Ok(serde_json::from_str(&node.ctr_run(&flags, id, &["testbox", "facts"]).text()?)?)
    };
    let ours = facts(node, "c1")?;
    node.runtime = Runtime::Runc;
    let theirs = facts(node, "c2")?;
    let same = |path: &str| {
        let (ours, theirs) = (ours.pointer(path), theirs.pointer(path));
        ensure!(ours == theirs, "{path} is {ours:?}, under runc {theirs:?}");
        Ok(())
    };
    same("/pid")?;
    same("/groups")?;
    same("/hostname")?;
    same("/directory")?;
    same("/environment")?;
    same("/status/Uid")?;
    same("/status/Gid")?;
    same("/status/CapInh")?;
    same("/status/CapPrm")?;
    same("/status/CapEff")?;
    same("/status/CapBnd")?;
    same("/status/CapAmb")?;
    same("/status/NoNewPrivs")?;
    same("/status/Seccomp")?;
    same("/status/Umask")?;
    // runc shows a node's kernel memory where the node's kernel has a file for it; the guest's has none.
    let devices = |facts: &Value| {
        let listed = facts.pointer("/devices").and_then(Value::as_array).cloned().unwrap_or_default();
        listed.into_iter().filter(|name| name != "core").collect::<Vec<_>>()
    };
    let (our_devices, their_devices) = (devices(&ours), devices(&theirs));
    ensure!(our_devices == their_devices, "/dev has {our_devices:?}, under runc {their_devices:?}");
    same("/writable_root")
}

/// Whether a message says that its process is no more, in containerd's words or in ours.
fn says_gone(message: &str) -> bool {
    message.contains("not found") || message.contains("ended already") || message.contains("does not exist")
}

/// The processor time in a task's metrics, as cgroups of either version have it.
fn processor(metrics: &str) -> Result<u64> {
    number(metrics, &["/cpu/usage_usec", "/cpu/usage/total"])
}

/// The memory in a task's metrics.
fn memory(metrics: &str) -> Result<u64> {
    number(metrics, &["/memory/usage", "/memory/usage/usage"])
}

fn number(metrics: &str, paths: &[&str]) -> Result<u64> {
    let metrics: Value = serde_json::from_str(metrics).with_context(|| format!("no JSON: {metrics}"))?;
    let found = paths.iter().filter_map(|path| metrics.pointer(path));
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    found.filter_map(number).next().with_context(|| format!("none of {paths:?} in {metrics}"))
}
