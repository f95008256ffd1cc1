//! Pods as a kubelet makes them, through the CRI.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coffer_tests::cri::Stream;
use coffer_tests::cri::messages::{AttachRequest, ExecRequest, Int64Value, Resources};
use coffer_tests::node::{Node, Pod, container, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::wait;

pod_tests! {
    everywhere two_containers_share_network_and_memory_and_nothing_else;
    everywhere a_container_is_restarted_beside_another;
    everywhere a_command_ends_with_its_exit_code_or_at_its_time_limit;
    on_both_ends the_pod_has_the_address_that_the_network_gave_it;
    on_both_ends a_port_of_the_pod_s_loopback_is_forwarded;
    on_both_ends attach_reaches_the_streams_of_the_first_process;
    on_both_ends an_exec_with_a_terminal_can_be_resized;
    on_both_ends logs_keep_output_and_errors_apart;
    on_both_ends statistics_grow_and_never_shrink;
    on_both_ends stopping_gives_the_process_its_grace;
    once a_container_over_its_memory_limit_is_killed_and_says_so;
    once a_container_s_limits_can_be_changed;
    coffer_only a_raised_limit_is_the_machine_s_too;
    once a_user_without_privileges_has_none;
    once a_privileged_container_may_do_what_others_may_not;
    once containers_of_a_pod_can_share_processes;
    once kernel_parameters_of_the_pod_are_set;
    once a_pod_without_containers_can_be_removed;
}

const SLEEP: &[&str] = &["sleep", "1000"];

fn two_containers_share_network_and_memory_and_nothing_else(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "shared"))?;
    let server = pod.run(&container("server", &["testbox", "serve", "127.0.0.1:8080", "served"]))?;
    let client = pod.run(&container("client", SLEEP))?;
    let ask = "until testbox ask 127.0.0.1:8080 me 2>/dev/null; do :; done";
    ensure!(pod.sh(&client, ask)? == "served=me\n");
    pod.sh(&server, "echo from server > /dev/shm/note; echo private > /note")?;
    ensure!(pod.sh(&client, "cat /dev/shm/note")? == "from server\n");
    ensure!(pod.sh(&client, "hostname")? == "shared\n");
    let other_root = pod.cri.exec(&client, &["cat", "/note"], None)?;
    ensure!(other_root.exit_code != 0, "a container sees another's root file system");
    let processes = pod.sh(&client, "ps -o args")?;
    ensure!(!processes.contains("serve"), "a container sees another's processes: {processes}");
    pod.remove()
}

fn a_container_is_restarted_beside_another(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "again"))?;
    let stays = pod.run(&container("stays", SLEEP))?;
    let ends = pod.run(&container("ends", &["sh", "-c", "exit 9"]))?;
    ensure!(pod.wait(&ends)?.exit_code == 9);
    pod.remove_container(&ends)?;
    let mut second = container("ends", &["sh", "-c", "echo second time; sleep 1000"]);
    second.metadata.get_or_insert_default().attempt = 1;
    let second = pod.run(&second)?;
    ensure!(pod.sh(&second, "echo here")? == "here\n");
    ensure!(pod.sh(&stays, "echo here too")? == "here too\n");
    pod.remove()
}

fn a_command_ends_with_its_exit_code_or_at_its_time_limit(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "exec"))?;
    let main = pod.run(&container("main", SLEEP))?;
    let ended = pod.cri.exec(&main, &["sh", "-c", "echo out; echo err >&2; exit 17"], None)?;
    ensure!(ended.exit_code == 17 && ended.stdout == b"out\n" && ended.stderr == b"err\n", "{ended:?}");
    let start = Instant::now();
    let late = pod.cri.exec(&main, &["sleep", "600"], Some(Duration::from_secs(2)));
    let error = late.err().context("a command outlived its time limit")?;
    ensure!(
        format!("{error:#}").contains("imeout") || format!("{error:#}").contains("deadline"),
        "{error:#}"
    );
    ensure!(start.elapsed() < Duration::from_secs(30), "the time limit of 2 s took {:?}", start.elapsed());
    wait::until("the command to be gone", Duration::from_secs(10), || {
        Ok((!pod.sh(&main, "ps -o args")?.contains("sleep 600")).then_some(()))
    })?;
    pod.remove()
}

fn the_pod_has_the_address_that_the_network_gave_it(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "net"))?;
    let main = pod.run(&container("main", &["testbox", "serve", "0.0.0.0:80", "reached"]))?;
    let address = pod.cri.sandbox_status(&pod.id)?.network.context("a pod without network")?.ip;
    let inside = pod.sh(&main, "ip -4 -o addr show dev eth0; ip route")?;
    ensure!(inside.contains(&address) && inside.contains("default via"), "{address}: {inside}");
    let ask = || {
        coffer_tests::run::Run::new(coffer_tests::artefacts::testbox()?)
            .args(["ask", &format!("{address}:80"), "node"])
            .end()
    };
    let answer = wait::until("the pod to answer", Duration::from_secs(20), || {
        Ok(Some(ask()?).filter(|ended| ended.code() == 0))
    })?;
    ensure!(answer.out() == "reached=node\n", "{answer}");
    let mtu = pod.sh(&main, "cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu == "1500\n", "{mtu}");
    pod.remove()
}

fn a_port_of_the_pod_s_loopback_is_forwarded(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "forward"))?;
    let main = pod.run(&container("main", &["testbox", "serve", "127.0.0.1:9000", "loopback"]))?;
    pod.sh(&main, "until testbox ask 127.0.0.1:9000 x 2>/dev/null; do :; done")?;
    let mut stream = Stream::forward(&pod.cri.forward_url(&pod.id, 9000)?, 9000)?;
    stream.send(b"forwarded\n")?;
    let carried = stream.read_forwarded()?;
    ensure!(carried.output == b"loopback=forwarded\n", "{carried:?}");
    let mut closed = Stream::forward(&pod.cri.forward_url(&pod.id, 9001)?, 9001)?;
    let refused = closed.read_forwarded()?;
    ensure!(refused.output.is_empty(), "a closed port answered: {refused:?}");
    pod.remove()
}

fn attach_reaches_the_streams_of_the_first_process(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "attach"))?;
    let mut config = container("main", &["sh", "-c", "while read line; do echo got $line; done; echo ended"]);
    config.stdin = true;
    config.stdin_once = true;
    let main = pod.run(&config)?;
    let request =
        AttachRequest { container_id: main.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let mut stream = Stream::open(&pod.cri.attach_url(&request)?)?;
    stream.send(b"first\n")?;
    stream.read_until("got first")?;
    drop(stream);
    ensure!(pod.wait(&main)?.exit_code == 0, "the end of the stream did not end the process");
    ensure!(pod.log("main")?.contains("got first\nended"), "{}", pod.log("main")?);
    pod.remove()
}

fn an_exec_with_a_terminal_can_be_resized(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "terminal"))?;
    let main = pod.run(&container("main", SLEEP))?;
    let cmd = [
        "sh",
        "-c",
        "until [ \"$(testbox size)\" = '41 by 141' ]; do :; done; echo right size; read x; echo $x; exit 4",
    ];
    let request = ExecRequest {
        container_id: main,
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut stream = Stream::open(&pod.cri.exec_url(&request)?)?;
    stream.resize(141, 41)?;
    stream.read_until("right size")?;
    stream.send(b"typed\n")?;
    let carried = stream.read_to_end()?;
    ensure!(String::from_utf8_lossy(&carried.output).contains("typed"), "{carried:?}");
    ensure!(carried.status.contains("\"4\""), "the exit code is not in {}", carried.status);
    pod.remove()
}

fn logs_keep_output_and_errors_apart(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "logs"))?;
    let main =
        pod.run(&container("main", &["sh", "-c", "echo to output; echo to errors >&2; printf unfinished"]))?;
    pod.wait(&main)?;
    let text = fs::read_to_string(format!("{}/main.log", pod.config.log_directory))?;
    ensure!(text.contains(" stdout F to output\n") && text.contains(" stderr F to errors\n"), "{text}");
    ensure!(text.contains(" stdout P unfinished\n"), "{text}");
    pod.remove()
}

fn statistics_grow_and_never_shrink(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "stats"))?;
    let main = pod.run(&container("main", &["sh", "-c", "while true; do :; done"]))?;
    let used = || -> Result<(u64, u64)> {
        let stats = pod.cri.stats(&main)?;
        let processor =
            stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).context("no processor time")?.value;
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).context("no memory")?.value;
        Ok((processor, memory))
    };
    let (first, memory) = used()?;
    ensure!(memory > 0, "no memory is used");
    let second = wait::until("processor time to grow", Duration::from_secs(30), || {
        Ok(Some(used()?.0).filter(|now| *now > first))
    })?;
    ensure!(used()?.0 >= second, "processor time shrank");
    pod.remove()
}

fn stopping_gives_the_process_its_grace(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "stop"))?;
    let polite = pod.run(&container("polite", &["testbox", "trap", "SIGTERM"]))?;
    let deaf = pod.run(&container("deaf", &["testbox", "trap", "SIGUSR1"]))?;
    wait::until("both to be ready", Duration::from_secs(20), || {
        Ok((pod.log("polite")?.contains("ready") && pod.log("deaf")?.contains("ready")).then_some(()))
    })?;
    let start = Instant::now();
    pod.cri.stop(&polite, Duration::from_secs(60))?;
    ensure!(start.elapsed() < Duration::from_secs(30), "a polite process was waited for");
    ensure!(pod.cri.status(&polite)?.exit_code == 0, "{:?}", pod.cri.status(&polite)?);
    pod.cri.stop(&deaf, Duration::from_secs(1))?;
    ensure!(pod.cri.status(&deaf)?.exit_code == 137, "{:?}", pod.cri.status(&deaf)?);
    pod.remove()
}

fn a_container_over_its_memory_limit_is_killed_and_says_so(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "oom"))?;
    let stays = pod.run(&container("stays", SLEEP))?;
    let mut config = container("greedy", &["testbox", "burn", "200"]);
    let limits = Resources { memory_limit_in_bytes: 32 << 20, ..Resources::default() };
    config.linux.get_or_insert_default().resources = Some(limits);
    let greedy = pod.run(&config)?;
    let status = pod.wait(&greedy)?;
    ensure!(status.exit_code == 137 && status.reason == "OOMKilled", "{status:?}");
    ensure!(pod.sh(&stays, "echo alive")? == "alive\n");
    pod.remove()
}

fn a_container_s_limits_can_be_changed(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "update"))?;
    let mut config = container("main", SLEEP);
    let limits = Resources { memory_limit_in_bytes: 64 << 20, ..Resources::default() };
    config.linux.get_or_insert_default().resources = Some(limits);
    let main = pod.run(&config)?;
    let wider = Resources { memory_limit_in_bytes: 96 << 20, ..Resources::default() };
    pod.cri.update(&main, wider)?;
    let read = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let seen = pod.sh(&main, read)?;
    ensure!(seen == format!("{}\n", 96 << 20), "{seen}");
    pod.remove()
}

fn a_raised_limit_is_the_machine_s_too(node: &mut Node) -> Result<()> {
    let cpu = |cpu_quota| Resources { cpu_period: 100_000, cpu_quota, ..Resources::default() };
    let mut config = sandbox(node, "quota");
    config.linux.get_or_insert_default().resources = Some(cpu(40_000));
    let mut pod = Pod::start(node, config)?;
    let mut config = container("main", SLEEP);
    config.linux.get_or_insert_default().resources = Some(cpu(40_000));
    let main = pod.run(&config)?;
    let processors = node.machine_cgroup(&pod.id)?.join("processors");
    let quota = || {
        let files = ["cpu.max", "cpu.cfs_quota_us"].map(|file| fs::read_to_string(processors.join(file)));
        let quota = files.into_iter().flatten().next().unwrap_or_default();
        quota.split_whitespace().next().unwrap_or_default().to_owned()
    };
    ensure!(quota() == "40000", "{}", quota());
    pod.cri.update(&main, cpu(70_000))?;
    ensure!(quota() == "70000", "after it was raised: {}", quota());
    pod.cri.update(&main, cpu(20_000))?;
    ensure!(quota() == "40000", "after it was lowered: {}", quota());
    pod.remove()
}

fn a_user_without_privileges_has_none(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "user"))?;
    let mut config = container("main", SLEEP);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.run_as_user = Some(Int64Value { value: 1000 });
    security.run_as_group = Some(Int64Value { value: 1000 });
    security.supplemental_groups = vec![2000];
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    let main = pod.run(&config)?;
    ensure!(pod.sh(&main, "id -u; id -g; id -G")? == "1000\n1000\n1000 2000\n", "{}", pod.sh(&main, "id")?);
    let status = pod.sh(&main, "grep -E 'CapEff|NoNewPrivs' /proc/self/status")?;
    ensure!(status == "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n", "{status}");
    let write = pod.cri.exec(&main, &["touch", "/tmp/x"], None)?;
    ensure!(write.exit_code != 0, "a read-only root was written to");
    pod.remove()
}

fn a_privileged_container_may_do_what_others_may_not(node: &mut Node) -> Result<()> {
    let mut config = sandbox(node, "privileged");
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let mut pod = Pod::start(node, config)?;
    let ordinary = pod.run(&container("ordinary", SLEEP))?;
    let mut config = container("privileged", SLEEP);
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let privileged = pod.run(&config)?;
    let mount = ["mount", "-t", "tmpfs", "none", "/tmp"];
    ensure!(pod.cri.exec(&ordinary, &mount, None)?.exit_code != 0, "an ordinary container may mount");
    let mounted = pod.cri.exec(&privileged, &mount, None)?;
    ensure!(
        mounted.exit_code == 0,
        "a privileged container may not mount: {}",
        String::from_utf8_lossy(&mounted.stderr)
    );
    pod.remove()
}

fn containers_of_a_pod_can_share_processes(node: &mut Node) -> Result<()> {
    let mut config = sandbox(node, "processes");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = coffer_tests::cri::messages::POD;
    let mut pod = Pod::start(node, config)?;
    let shared = |name: &str, command: &[&str]| {
        let mut config = container(name, command);
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().pid = coffer_tests::cri::messages::POD;
        config
    };
    let seen = pod.run(&shared("seen", &["sleep", "4321"]))?;
    let sees = pod.run(&shared("sees", SLEEP))?;
    let processes = pod.sh(&sees, "ps -o args")?;
    ensure!(processes.contains("sleep 4321"), "{processes}");
    pod.sh(&sees, "kill -9 $(ps -o pid,args | grep '[s]leep 4321' | sed 's/ sleep.*//')")?;
    ensure!(pod.wait(&seen)?.exit_code == 137);
    pod.remove()
}

fn kernel_parameters_of_the_pod_are_set(node: &mut Node) -> Result<()> {
    let mut config = sandbox(node, "sysctl");
    let sysctls = [("net.ipv4.ip_local_port_range", "2000 3000"), ("kernel.shm_rmid_forced", "1")];
    config.linux.get_or_insert_default().sysctls =
        sysctls.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    let mut pod = Pod::start(node, config)?;
    let main = pod.run(&container("main", SLEEP))?;
    let seen =
        pod.sh(&main, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced")?;
    ensure!(seen == "2000\t3000\n1\n", "{seen}");
    pod.remove()
}

fn a_pod_without_containers_can_be_removed(node: &mut Node) -> Result<()> {
    let pod = Pod::start(node, sandbox(node, "empty"))?;
    ensure!(pod.cri.sandbox_status(&pod.id)?.state == 0, "an empty pod is not ready");
    let (cri, id) = (pod.cri.clone(), pod.id.clone());
    pod.remove()?;
    cri.stop_sandbox(&id)?;
    cri.remove_sandbox(&id)
}
