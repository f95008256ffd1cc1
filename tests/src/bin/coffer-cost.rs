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
use coffer_tests::figures::{mebi, median, millis};
use coffer_tests::leftovers::{Process, of_node};
use coffer_tests::node::{Node, number_of, numbers, on_node};
use serde_json::Value;

/// Measures starts and memory of pods and prints a table.
#[derive(Parser)]
struct Arguments {
    /// Starts of each kind
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Fail when a target of time is missed, too
    #[arg(long)]
    strict: bool,
}

/// What the starts of one runtime cost.
#[derive(Default)]
struct Cost {
    start: Vec<Duration>,
    /// By the phases of [`PHASES`], for each start.
    phases: Vec<Vec<Duration>>,
    private: BTreeMap<String, u64>,
    /// Resident memory of the agent, in KiB.
    agent: u64,
}

/// The phases of a start, and where each is spent.
const PHASES: [(&str, Place); 8] = [
    ("network", Place::Beside),
    ("layers", Place::Beside),
    ("vm_process", Place::Host),
    ("kernel", Place::Boot),
    ("agent", Place::Boot),
    ("sandbox", Place::Guest),
    ("container", Place::Guest),
    ("process", Place::Guest),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On the host, side by side with other phases.
    Beside,
    /// On the host.
    Host,
    /// The guest's own boot.
    Boot,
    /// By the agent in the guest that has booted.
    Guest,
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
    let mut reference = None;
    println!(
        "{:8} {:>9} {:>8} {:>12}  private memory of an idle pod's processes, KiB",
        "runtime", "start ms", "to runc", "private KiB"
    );
    for runtime in [Runtime::Runc, Runtime::Runsc, Runtime::Coffer] {
        on_node(Version::V1_7, runtime, |node| {
            let cost = of_runtime(node, arguments.starts)?;
            let start = median(&cost.start);
            println!(
                "{}",
                cost.line(runtime, start.as_secs_f64() / reference.get_or_insert(start).as_secs_f64())
            );
            if runtime == Runtime::Coffer {
                cost.print_phases();
                met &= cost.meets_targets(guest_size(node)?, arguments.strict);
                second_pod_converts_nothing(node)?;
                ten_at_once(node)?;
            }
            Ok(())
        })?;
    }
    Ok(met)
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
            cost.phases.push(phases(node, &id)?);
            cost.agent = number_of(&numbers(node)?, "coffer_agent_resident_bytes")? / 1024;
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

/// The length of each of [`PHASES`], and of both of containerd's calls together as the last.
fn phases(node: &Node, id: &str) -> Result<Vec<Duration>> {
    let run = node.coffer_command();
    let trace: Value = serde_json::from_str(&run.args(["--json", "trace", id]).text()?)?;
    let spans = trace.get("spans").and_then(Value::as_array).context("a trace without phases")?;
    let length = |phase: &str| -> u64 {
        let wanted = spans.iter().filter(|span| span["phase"].as_str() == Some(phase));
        wanted.filter_map(|span| span["length_us"].as_u64()).sum()
    };
    let calls = length("containerd_call") + length("process");
    let lengths = PHASES.iter().map(|(phase, _)| length(phase)).chain([calls]);
    Ok(lengths.map(Duration::from_micros).collect())
}

/// Bytes of what a guest boots.
fn guest_size(node: &Node) -> Result<u64> {
    let guest = node.guest()?;
    let size = |name: &str| fs::metadata(guest.join(name)).map(|found| found.len());
    Ok(size("vmlinux")? + size("initrd.img")?)
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
    fn line(&self, runtime: Runtime, ratio: f64) -> String {
        let private: Vec<String> =
            self.private.iter().map(|(program, size)| format!("{program} {size}")).collect();
        let sum: u64 = self.private.values().sum();
        let start = median(&self.start).as_millis();
        format!("{:8} {start:>9} {ratio:>8.1} {sum:>12}  {}", runtime.handler(), private.join(", "))
    }

    /// The median of phase number `index`, over all starts.
    fn phase(&self, index: usize) -> Duration {
        median(&self.phases.iter().filter_map(|start| start.get(index).copied()).collect::<Vec<_>>())
    }

    /// The median of what `kinds` of phases took of each start.
    fn spent(&self, place: Place) -> Duration {
        let of_start = |start: &Vec<Duration>| -> Duration {
            let wanted = PHASES.iter().zip(start).filter(|((_, at), _)| *at == place);
            wanted.map(|(_, length)| *length).sum()
        };
        median(&self.phases.iter().map(of_start).collect::<Vec<_>>())
    }

    /// containerd's calls, less the guest's boot, and less the agent's work in the guest as well.
    fn outside(&self) -> (Duration, Duration) {
        let calls = self.phase(PHASES.len());
        let rest = calls.saturating_sub(self.spent(Place::Boot));
        (rest, rest.saturating_sub(self.spent(Place::Guest)))
    }

    fn print_phases(&self) {
        for (index, (phase, place)) in PHASES.iter().enumerate() {
            println!("         {phase:12} {:>8.1} ms  {place:?}", millis(self.phase(index)));
        }
        println!(
            "         {:12} {:>8.1} ms  of containerd, Create and Start",
            "calls",
            millis(self.phase(PHASES.len()))
        );
    }

    /// Whether the targets are met: all of them when `strict`, else those that no other load on the machine can spoil.
    fn meets_targets(&self, guest: u64, strict: bool) -> bool {
        let (outside, host) = self.outside();
        let shim = self.private.get("containerd-shim-coffer-v2").copied().unwrap_or(u64::MAX >> 10);
        let targets = [
            ("outside the guest's boot, ms", millis(outside), 60.0, strict),
            ("  of it on the host, ms", millis(host), 60.0, strict),
            ("shim, private, MiB", mebi(shim << 10), 12.0, true),
            ("agent, resident, MiB", mebi(self.agent << 10), 8.0, true),
            ("kernel and initrd, MiB", mebi(guest), 24.0, true),
        ];
        for (what, found, most, _) in targets {
            let met = if found <= most { "met" } else { "missed" };
            println!("         {what:30} {found:>7.1}  at most {most:>4.0}: {met}");
        }
        targets.iter().all(|(_, found, most, counts)| found <= most || !counts)
    }
}
