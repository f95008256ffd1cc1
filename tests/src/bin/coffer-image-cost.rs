//! `cargo image-cost`: what it costs that only verified images run, in one run on one machine.
//!
//! Starts are compared pair by pair with the start of the same image that nobody judges. Numbers of a guest in software emulation
//! say nothing about hardware; that a start does not depend on the image's size, how much memory a guest needs to unpack one, and
//! how often the node reads one do not depend on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use coffer_tests::containerd::{Runtime, Version};
use coffer_tests::cri::messages::{ContainerConfig, ImageSpec};
use coffer_tests::figures::{mebi, median, millis, ratio};
use coffer_tests::images::{Image, Layer, busybox};
use coffer_tests::leftovers::of_node;
use coffer_tests::memory::keep_in_memory;
use coffer_tests::node::{Node, Pod, container, on_node, quoted, sandbox};
use coffer_tests::publish::{Published, key, policy};
use rustix::fs::{Advice, fadvise};
use serde_json::Value;

const SCOPE: &str = "coffer.test/trusted";
const FILE: usize = 16 << 20;
const SMALL: usize = 100 << 20;
const LARGE: usize = 1 << 30;
const PODS: usize = 10;
/// Unpacking in an emulated guest takes minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// Measures starts of sealed images, the guest's memory while it unpacks one, and what ten pods read of one.
#[derive(Parser)]
struct Arguments {
    /// Starts of each kind
    #[arg(long, default_value_t = 7)]
    starts: usize,
    /// Starts alone
    #[arg(long)]
    starts_only: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut met = true;
    let measured = on_node(Version::V2, Runtime::Coffer, |node| {
        met = measure(node, &arguments)?;
        Ok(())
    });
    match measured {
        Ok(()) if met => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("coffer-image-cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(node: &Node, arguments: &Arguments) -> Result<bool> {
    let small = publish(node, "small", SMALL)?;
    let large = publish(node, "large", LARGE)?;
    let starts = starts_of(node, arguments.starts, &small, &large)?;
    if arguments.starts_only {
        return Ok(starts);
    }
    let memory = memory_of_unpacking(node, &large)?;
    let read = read_by_many(node, &small)?;
    Ok(starts && memory && read)
}

/// The same image twice.
struct Pair {
    plain: Published,
    sealed: Published,
}

/// An image with `bytes` that cannot be compressed, signed.
fn publish(node: &Node, name: &str, bytes: usize) -> Result<Pair> {
    let mut image = Image { name: format!("{SCOPE}/{name}:1"), ..busybox()? };
    let mut layer = Layer::new().directory("large", 0o755)?;
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    for number in 0..bytes.div_ceil(FILE) {
        layer =
            layer.file(&format!("large/{number:03}"), 0o644, noise.take(FILE.min(bytes - number * FILE)))?;
    }
    image.layers.push(layer);
    let plain = Published::new(node, image)?;
    let sealed = plain.sealed(node, &format!("{SCOPE}/{name}:1-sealed"))?;
    for published in [&plain, &sealed] {
        published.sign(node, &key("p256.pem"))?;
        published.bring_signatures(node)?;
        published.import(node)?;
    }
    Ok(Pair { plain, sealed })
}

/// Marsaglia's xorshift64.
struct Noise(u64);

impl Noise {
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        });
        words.take(bytes / 8).flat_map(u64::to_le_bytes).collect()
    }
}

/// The next pods' images are judged, or not.
fn judging(node: &Node, judged: bool) -> Result<()> {
    if !judged {
        return node.write_coffer_config(&[]);
    }
    let path = node.layout.data.join("image-policy.json");
    fs::write(&path, policy(SCOPE, &key("p256.pub.pem"))?.to_string())?;
    node.write_coffer_config(&[("image.policy", &quoted(&path))])
}

fn of(image: &Published, name: &str) -> ContainerConfig {
    let image = Some(ImageSpec { image: image.name.clone() });
    ContainerConfig { image, ..container(name, &["sleep", "10000"]) }
}

/// Times of one kind of start.
#[derive(Default)]
struct Starts {
    /// From nothing to the running container.
    whole: Vec<Duration>,
    /// The container's own part.
    container: Vec<Duration>,
    /// By phase of the start (`coffer trace`).
    phases: BTreeMap<String, Vec<Duration>>,
}

/// How long each phase of the pod's start took.
fn phases(node: &Node, pod: &Pod, to: &mut BTreeMap<String, Vec<Duration>>) -> Result<()> {
    let trace: Value =
        serde_json::from_str(&node.coffer_command().args(["--json", "trace", &pod.id]).text()?)?;
    for span in trace["spans"].as_array().context("a trace without phases")? {
        let phase = span["phase"].as_str().context("a span without a phase")?;
        let length = span["length_us"].as_u64().context("a span without a length")?;
        to.entry(phase.to_owned()).or_default().push(Duration::from_micros(length));
    }
    Ok(())
}

fn start(node: &Node, image: &Published, judged: bool, to: &mut Starts) -> Result<()> {
    judging(node, judged)?;
    let begin = Instant::now();
    let mut pod = Pod::start(node, sandbox(node, "timed"))?;
    let sandboxed = begin.elapsed();
    pod.run(&of(image, "main"))?;
    let whole = begin.elapsed();
    to.whole.push(whole);
    to.container.push(whole.saturating_sub(sandboxed));
    phases(node, &pod, &mut to.phases)?;
    pod.remove()
}

fn starts_of(node: &Node, rounds: usize, small: &Pair, large: &Pair) -> Result<bool> {
    let kinds = [
        ("not judged, 100 MiB", &small.plain, false),
        ("sealed, 100 MiB", &small.sealed, true),
        ("sealed, 1 GiB", &large.sealed, true),
    ];
    let mut starts = [Starts::default(), Starts::default(), Starts::default()];
    for (_, image, judged) in kinds {
        // The first start fills caches that every later one finds.
        start(node, image, judged, &mut Starts::default())?;
    }
    for round in 0..rounds {
        // Whoever comes first in one round comes last in the next.
        for index in (0..kinds.len()).map(|index| (index + round) % kinds.len()) {
            if let (Some((_, image, judged)), Some(starts)) = (kinds.get(index), starts.get_mut(index)) {
                start(node, image, *judged, starts)?;
            }
        }
    }
    println!("{:22} {:>9} {:>13}", "start", "whole ms", "container ms");
    for ((name, ..), starts) in kinds.iter().zip(&starts) {
        let (whole, container) = (median(&starts.whole), median(&starts.container));
        println!("{name:22} {:>9.0} {:>13.0}", millis(whole), millis(container));
        let phases =
            starts.phases.iter().map(|(phase, times)| format!("{phase} {:.0}", millis(median(times))));
        println!("  {}", phases.collect::<Vec<_>>().join(", "));
    }
    let [unjudged, small, large] = &starts;
    let parts = ratio(&small.container, &unjudged.container);
    let grown = ratio(&large.container, &small.container);
    println!("{:44} {parts:>6.2}", "  container's part, sealed to not judged");
    println!("{:44} {grown:>6.2}", "  container's part, 1 GiB to 100 MiB");
    let sizes = ratio(&large.whole, &small.whole);
    // Neither may be longer than the other by more.
    let size = within("start, 1 GiB to 100 MiB, or the other way", sizes.max(1.0 / sizes), 1.10);
    Ok(within("start, sealed to not judged", ratio(&small.whole, &unjudged.whole), 1.15) && size)
}

/// A container that tells the most memory that anything but the page cache had, in KiB, until it is asked.
const WATCH: &str = "most=0; while ! test -e /stop; do \
    set -- $(awk '/^MemTotal|^MemFree|^Buffers|^Cached|^SReclaimable/ {print $2}' /proc/meminfo); \
    now=$(($1 - $2 - $3 - $4 - $5)); test $now -gt $most && most=$now; echo $most > /most; sleep 0.2; done";

fn memory_of_unpacking(node: &Node, large: &Pair) -> Result<bool> {
    judging(node, true)?;
    let mut watcher = Image { name: format!("{SCOPE}/watch:1"), ..busybox()? };
    // Another image than busybox, which the policy does not take.
    watcher.layers.push(Layer::new().file("watch", 0o755, WATCH)?);
    let watcher = Published::new(node, watcher)?;
    watcher.sign(node, &key("p256.pem"))?;
    watcher.bring_signatures(node)?;
    watcher.import(node)?;
    let mut pod = Pod::start(node, sandbox(node, "unpacking"))?.patient(PATIENCE);
    let watch =
        ContainerConfig { command: ["sh", "-c", WATCH].map(str::to_owned).to_vec(), ..of(&watcher, "watch") };
    let watch = pod.run(&watch)?;
    let most = |pod: &Pod| -> Result<u64> {
        // The first look is there as soon as the loop has come round.
        let text = pod.sh(&watch, "until test -s /most; do sleep 0.1; done; cat /most")?;
        Ok(text.trim().parse::<u64>()? << 10)
    };
    let before = most(&pod)?;
    let begin = Instant::now();
    let main = pod.run(&of(&large.plain, "main"))?;
    let took = begin.elapsed();
    let more = most(&pod)?.saturating_sub(before);
    let there = pod.sh(&main, "cat /large/* | wc -c")?;
    ensure!(there.trim() == LARGE.to_string(), "the image has {there} bytes in its files");
    println!("unpacking 1 GiB in the guest took {:.0} s", took.as_secs_f64());
    let met = within("guest memory beyond the page cache, MiB", mebi(more), 64.0);
    pod.remove()?;
    Ok(met)
}

/// The files of the sealed image, as the snapshotter has them.
fn sealed_files(node: &Node, bytes: u64) -> Result<Vec<PathBuf>> {
    let snapshots = node.layout.data.join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let directories = fs::read_dir(snapshots)?.flatten().map(|entry| entry.path().join("fs/.coffer"));
    let files = directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let sized = files.map(|file| Ok((file.metadata()?.len(), file.path()))).collect::<Result<Vec<_>>>()?;
    // The tree of hashes makes it less than a tenth longer.
    let fits = |length: u64| length >= bytes && length < bytes + bytes / 10;
    Ok(sized.into_iter().filter(|(length, _)| fits(*length)).map(|(_, path)| path).collect())
}

fn read_by_many(node: &Node, small: &Pair) -> Result<bool> {
    judging(node, true)?;
    let bytes = u64::try_from(SMALL)?;
    let files = sealed_files(node, bytes)?;
    ensure!(files.len() == 1, "one file of the sealed image was expected: {files:?}");
    let mut pods = Vec::new();
    for number in 0..PODS {
        let mut pod = Pod::start(node, sandbox(node, &format!("reader{number}")))?.patient(PATIENCE);
        let main = pod.run(&of(&small.sealed, "main"))?;
        pods.push((pod, main));
    }
    // What machines read of kernel, initrd and their own program is behind them now.
    for file in &files {
        let file = File::open(file)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed).context("cannot empty the page cache of a file")?;
    }
    let before = read_of_machines(node)?;
    let mut first = 0;
    for (number, (pod, main)) in pods.iter().enumerate() {
        let there = pod.sh(main, "cat /large/* | wc -c")?;
        ensure!(there.trim() == SMALL.to_string(), "the image has {there} bytes in its files");
        if number == 0 {
            first = read_of_machines(node)?.saturating_sub(before);
            files.iter().try_for_each(|file| keep_in_memory(file))?;
        }
    }
    let all = read_of_machines(node)?.saturating_sub(before);
    println!("{:44} {:>6.1}", "read from disk for the first of ten pods, MiB", mebi(first));
    ensure!(first >= bytes, "the first pod read only {first} bytes from disk: the cache was not empty");
    let met = within("read from disk for ten pods, MiB", mebi(all), mebi(bytes) * 1.1);
    pods.into_iter().try_for_each(|(pod, _)| pod.remove())?;
    Ok(met)
}

/// What the processes of the node's pods have made the disks read, in bytes (proc_pid_io(5), `read_bytes`).
fn read_of_machines(node: &Node) -> Result<u64> {
    let machines = of_node(&node.layout).into_iter().filter(|found| found.is_machine());
    let read = machines.map(|machine| {
        let text = fs::read_to_string(format!("/proc/{}/io", machine.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        Ok(line.context("no read_bytes")?.trim().parse::<u64>()?)
    });
    read.sum()
}

fn within(what: &str, found: f64, most: f64) -> bool {
    let met = found <= most;
    println!("{what:44} {found:>6.2}  at most {most:>6.2}: {}", if met { "met" } else { "missed" });
    met
}
