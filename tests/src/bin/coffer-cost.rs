//! `cargo cost`: what a pod costs in time and memory, beside runc and gVisor, in one run on one machine.
//!
//! Medians of a few starts. Numbers of a guest in software emulation say nothing about hardware; the ratios between the parts of
//! a start, and what it costs outside of the guest's own boot, do.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use coffer_tests::containerd::{Runtime, Version};
use coffer_tests::leftovers::{Process, of_node};
use coffer_tests::node::{Node, on_node};
use coffer_tests::run::Run;
use serde_json::Value;

/// Measures starts and memory of pods and prints a table.
#[derive(Parser)]
struct Arguments {
    /// Starts of each kind
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Fail when a target is missed
    #[arg(long)]
    strict: bool,
}

/// One line of the table.
#[derive(Default)]
struct Cost {
    start: Vec<Duration>,
    outside: Vec<Duration>,
    private: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("coffer-cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let mut met = true;
    println!(
        "{:8} {:>12} {:>26} {:>34}",
        "runtime", "start ms", "outside the guest's boot", "private memory of an idle pod, KiB"
    );
    for runtime in [Runtime::Runc, Runtime::Runsc, Runtime::Coffer] {
        on_node(Version::V1_7, runtime, |node| {
            let cost = of_runtime(node, arguments.starts)?;
            println!("{}", cost.line(runtime));
            met &= cost.meets_targets(runtime);
            if runtime == Runtime::Coffer {
                second_pod_converts_nothing(node)?;
                ten_at_once(node)?;
            }
            Ok(())
        })?;
    }
    Ok(met || !arguments.strict)
}

fn of_runtime(node: &Node, starts: usize) -> Result<Cost> {
    // The first start fills caches that every later one finds.
    start(node, "warm")?;
    node.ctr_remove("warm")?;
    let mut cost = Cost::default();
    for number in 0..starts {
        let id = format!("c{number}");
        cost.start.push(start(node, &id)?);
        if node.runtime == Runtime::Coffer {
            cost.outside.push(outside_the_boot(node, &id)?);
        }
        if number == 0 {
            cost.private = private_memory(node);
        }
        node.ctr_remove(&id)?;
    }
    Ok(cost)
}

fn start(node: &Node, id: &str) -> Result<Duration> {
    let begin = Instant::now();
    node.ctr_run_detached(&[], id, &["sleep", "1000"])?;
    Ok(begin.elapsed())
}

/// containerd's calls up to the running process, less what the guest's kernel and agent took to come up.
fn outside_the_boot(node: &Node, id: &str) -> Result<Duration> {
    let run = Run::new(node.binaries().join("coffer")).arg("--config").arg(node.layout.coffer_config());
    let trace: Value = serde_json::from_str(&run.args(["--json", "trace", id]).text()?)?;
    let spans = trace.get("spans").and_then(Value::as_array).context("a trace without phases")?;
    let sum = |phases: &[&str]| -> u64 {
        let wanted =
            spans.iter().filter(|span| span["phase"].as_str().is_some_and(|phase| phases.contains(&phase)));
        wanted.filter_map(|span| span["length_us"].as_u64()).sum()
    };
    Ok(Duration::from_micros(sum(&["containerd_call", "process"]).saturating_sub(sum(&["kernel", "agent"]))))
}

/// Private memory of the processes of the node's only pod by program, without the guest's own.
fn private_memory(node: &Node) -> BTreeMap<String, u64> {
    let ours = |found: &Process| !found.program.starts_with("containerd") || found.program.contains("shim");
    let mut by_program = BTreeMap::new();
    for found in of_node(&node.layout).into_iter().filter(ours) {
        *by_program.entry(found.program).or_default() += private_of(found.pid);
    }
    by_program
}

fn private_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut guest = false;
    let mut total = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        match first.strip_suffix(':') {
            Some("Private_Clean" | "Private_Dirty") if !guest => {
                total += words.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
            }
            Some(_) => {}
            // The guest's memory is a memfd that QEMU and the vsock device share.
            None => guest = line.contains("/memfd:"),
        }
    }
    total
}

fn second_pod_converts_nothing(node: &Node) -> Result<()> {
    let blobs = || fs::read_dir(node.layout.layers().join("blobs")).map_or(0, Iterator::count);
    let before = blobs();
    start(node, "second")?;
    ensure!(before > 0 && blobs() == before, "the second pod of an image converted a layer");
    println!("         the second pod of an image converted nothing");
    node.ctr_remove("second")
}

fn ten_at_once(node: &Node) -> Result<()> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let starting: Vec<_> =
            (0..10).map(|number| scope.spawn(move || start(node, &format!("ten{number}")))).collect();
        starting
            .into_iter()
            .try_for_each(|started| started.join().map_err(|_| anyhow::anyhow!("a start failed"))?.map(drop))
    })?;
    println!("         ten pods at once: all run after {} ms", begin.elapsed().as_millis());
    (0..10).try_for_each(|number| node.ctr_remove(&format!("ten{number}")))
}

impl Cost {
    fn line(&self, runtime: Runtime) -> String {
        let outside =
            median(&self.outside).map_or_else(|| "-".into(), |time| format!("{} ms", time.as_millis()));
        let private: Vec<String> =
            self.private.iter().map(|(program, size)| format!("{program} {size}")).collect();
        let start = median(&self.start).unwrap_or_default().as_millis();
        format!("{:8} {start:>12} {outside:>26}   {}", runtime.handler(), private.join(", "))
    }

    /// The targets that do not depend on how the guest's processor is made.
    fn meets_targets(&self, runtime: Runtime) -> bool {
        if runtime != Runtime::Coffer {
            return true;
        }
        let quick = median(&self.outside).is_some_and(|time| time <= Duration::from_millis(60));
        let small = self.private.get("containerd-shim-coffer-v2").is_some_and(|size| *size <= 12 * 1024);
        println!(
            "         targets: at most 60 ms outside the boot: {}; shim at most 12 MiB: {}",
            yes(quick),
            yes(small)
        );
        quick && small
    }
}

fn yes(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}
