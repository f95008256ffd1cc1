//! Streams: complete, independent of each other, and never what an exit waits for.

use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coffer_tests::artefacts::testbox;
use coffer_tests::leftovers::{Process, of_node};
use coffer_tests::node::{Node, Pod, container, number_of, numbers, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::progress::step;
use coffer_tests::run::{Run, ends_within};
use coffer_tests::wait;

pod_tests! {
    // With runc it hangs when `ctr` meets the end of its input before it has the task: runc's shim holds the pipe open itself.
    coffer_everywhere a_pipe_into_a_container_ends_by_itself;
    once a_gibibyte_arrives_unchanged;
    once a_large_input_arrives_unchanged;
    once a_stalled_reader_delays_nobody;
    coffer_only a_grandchild_that_holds_the_pipe_does_not_hold_the_exit;
    once output_of_a_process_that_ends_at_once_is_complete;
    coffer_only a_thousand_execs_leave_nothing_behind;
}

/// Nothing is decided by it: making and hashing of 1 GiB, with a pod between or without, takes an emulated processor minutes.
const GIBIBYTE: Duration = Duration::from_secs(600);

fn a_pipe_into_a_container_ends_by_itself(node: &mut Node) -> Result<()> {
    let ended = node.ctr_run(&["--rm"], "c1", &["cat"]).input("hi\n").end()?;
    ensure!(ended.code() == 0 && ended.out() == "hi\n", "{ended}");
    node.ctr_run_detached(&[], "c2", &["sleep", "1000"])?;
    let exec = node.ctr(["task", "exec", "--exec-id", "e1", "c2", "cat"]).input("to exec\n").end()?;
    ensure!(exec.code() == 0 && exec.out() == "to exec\n", "{exec}");
    node.ctr_remove("c2")
}

fn a_gibibyte_arrives_unchanged(node: &mut Node) -> Result<()> {
    const BYTES: u64 = 1 << 30;
    // It ends with its input, and that only when all has arrived: `ctr` stops reading at an exit, whatever still comes.
    let script = format!("testbox bytes {BYTES} 11; exec cat");
    let file = node.layout.data.join("gibibyte");
    let mut ctr = node.ctr_run(&["--rm"], "c1", &["sh", "-c", &script]).into_command();
    let mut ctr = ctr.stdin(Stdio::piped()).stdout(File::create(&file)?).spawn()?;
    let input = ctr.stdin.take();
    step("1 GiB through standard output", || {
        wait::until("the whole gibibyte", GIBIBYTE, || {
            ensure!(ctr.try_wait()?.is_none(), "ctr ended with {} bytes", file.metadata()?.len());
            Ok((file.metadata()?.len() >= BYTES).then_some(()))
        })
    })?;
    drop(input);
    ensure!(ends_within(&ctr, GIBIBYTE)? && ctr.wait()?.success(), "ctr failed");
    let hash = |script: &str| {
        let run = Run::new("/bin/sh").args(["-c", script]).arg(testbox()?).arg(&file);
        run.arg(BYTES.to_string()).limit(GIBIBYTE).text()
    };
    let arrived = hash(r#""$0" hash < "$1""#)?;
    let made = hash(r#""$0" bytes "$2" 11 | "$0" hash"#)?;
    ensure!(arrived == made, "{arrived} arrived of {made}");
    Ok(fs::remove_file(&file)?)
}

fn a_large_input_arrives_unchanged(node: &mut Node) -> Result<()> {
    let input = Run::new(testbox()?).args(["bytes", "20000003", "3"]).end()?.stdout;
    let expected = Run::new(testbox()?).arg("hash").input(input.clone()).text()?;
    let ended = node.ctr_run(&["--rm"], "c1", &["testbox", "hash"]).input(input).end()?;
    ensure!(ended.code() == 0 && ended.out() == expected, "{ended}, not {expected}");
    Ok(())
}

fn a_stalled_reader_delays_nobody(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "stalled"))?;
    let main = pod.run(&container("main", &["sleep", "1000"]))?;
    // Nobody reads what this prints once the pipe is full.
    let mut stalled =
        node.ctr_in("k8s.io", ["task", "exec", "--exec-id", "stalled", &main, "yes"]).spawn()?;
    let mut first = [0; 1024];
    stalled.stdout.as_mut().context("no pipe")?.read_exact(&mut first)?;
    let start = Instant::now();
    ensure!(pod.sh(&main, "echo quick")? == "quick\n");
    let other = pod.run(&container("other", &["sh", "-c", "echo said; exit 6"]))?;
    ensure!(pod.wait(&other)?.exit_code == 6);
    ensure!(pod.log("other")? == "said", "{}", pod.log("other")?);
    node.ctr_in("k8s.io", ["task", "kill", "--exec-id", "stalled", "--signal", "SIGKILL", &main]).text()?;
    ensure!(
        start.elapsed() < Duration::from_secs(60),
        "a stalled reader held the others for {:?}",
        start.elapsed()
    );
    // Its reader comes back, so that it can end.
    let mut rest = Vec::new();
    stalled.stdout.take().context("no pipe")?.read_to_end(&mut rest)?;
    let code = stalled.wait()?.code();
    ensure!(code == Some(137), "the killed exec ended with {code:?}");
    pod.remove()
}

fn a_grandchild_that_holds_the_pipe_does_not_hold_the_exit(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&[], "c1", &["sleep", "1000"])?;
    let start = Instant::now();
    let ended = node.ctr_exec("c1", "e1", &["testbox", "hold-output", "600"])?;
    ensure!(ended.code() == 7 && ended.out().contains("holds this pipe"), "{ended}");
    ensure!(start.elapsed() < Duration::from_secs(45), "the exit took {:?}", start.elapsed());
    node.ctr_remove("c1")
}

fn output_of_a_process_that_ends_at_once_is_complete(node: &mut Node) -> Result<()> {
    node.ctr_run_detached(&[], "c1", &["sleep", "1000"])?;
    let expected: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    let ended = node.ctr_exec("c1", "e1", &["seq", "1", "2000"])?;
    ensure!(
        ended.code() == 0 && ended.out() == expected,
        "{} of {} bytes",
        ended.stdout.len(),
        expected.len()
    );
    node.ctr_remove("c1")
}

fn a_thousand_execs_leave_nothing_behind(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "many"))?;
    let main = pod.run(&container("main", &["sleep", "1000"]))?;
    let run = |count: u32| -> Result<()> {
        for _ in 0..count {
            let ended = pod.cri.exec(&main, &["true"], None)?;
            ensure!(ended.exit_code == 0, "an exec ended with {}", ended.exit_code);
        }
        Ok(())
    };
    // What is made once and kept is made by the first few.
    run(20)?;
    let inside = guest_counts(node, &pod, &main)?;
    let outside = held(node);
    step("1,000 execs", || run(1000))?;
    wait::until("what 1,000 execs used to be given back", Duration::from_secs(10), || {
        let (now, now_inside) = (held(node), guest_counts(node, &pod, &main)?);
        Ok((now.fits(&outside) && now_inside.fits(&inside)).then_some(()))
    })
    .with_context(|| {
        format!(
            "before: {outside:?}, inside {inside:?}; after: {:?}, inside {:?}",
            held(node),
            guest_counts(node, &pod, &main)
        )
    })?;
    pod.remove()
}

/// What the node's shims and machines hold.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    processes: usize,
    threads: usize,
    descriptors: usize,
}

impl Held {
    /// Whether this is no more than `before`. A thread pool or a cached descriptor may differ by a few, a leak by hundreds.
    fn fits(&self, before: &Self) -> bool {
        self.processes <= before.processes
            && self.threads <= before.threads + 4
            && self.descriptors <= before.descriptors + 8
    }
}

fn held(node: &Node) -> Held {
    let ours = |found: &Process| {
        ["containerd-shim", "qemu", "coffer"].iter().any(|name| found.program.contains(name))
    };
    let processes: Vec<Process> = of_node(&node.layout).into_iter().filter(ours).collect();
    let count = |directory: &str| -> usize {
        let counts = processes.iter().map(|found| {
            std::fs::read_dir(format!("/proc/{}/{directory}", found.pid)).map_or(0, Iterator::count)
        });
        counts.sum()
    };
    Held { processes: processes.len(), threads: count("task"), descriptors: count("fd") }
}

/// What the guest holds: the agent's descriptors and threads, processes, mounts, and what the container itself sees.
#[derive(Debug)]
struct Guest {
    descriptors: u64,
    threads: u64,
    processes: u64,
    mounts: u64,
    seen: usize,
}

impl Guest {
    /// Whether this is no more than `before`, give or take a thread pool.
    fn fits(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors + 8
            && self.threads <= before.threads + 8
            && self.processes <= before.processes
            && self.mounts <= before.mounts
            && self.seen <= before.seen
    }
}

fn guest_counts(node: &Node, pod: &Pod, container: &str) -> Result<Guest> {
    let all = numbers(node)?;
    let number = |name: &str| number_of(&all, name);
    Ok(Guest {
        descriptors: number("coffer_agent_open_files")?,
        threads: number("coffer_agent_threads")?,
        processes: number("coffer_guest_processes")?,
        mounts: number("coffer_guest_mounts")?,
        // The exec's own processes are among these.
        seen: pod.sh(container, "ls -d /proc/[0-9]*")?.lines().count(),
    })
}
