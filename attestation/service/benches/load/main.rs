//! What the service bears: the real process on loopback, over TLS 1.3, with guests that each make a key, answer a challenge
//! with evidence of a simulated SNP processor, and open the secret that they are given.
//!
//! ```text
//! cargo bench -p coffer-verifier --bench load                          throughput, then latency at 200 exchanges a second
//! cargo bench -p coffer-verifier --bench load -- --beside ADDRESS,PROCESS,CERTIFICATE
//!                                                                      the same of another service too, and the ratios
//! cargo bench -p coffer-verifier --bench load -- --flood 10            ten seconds of 10,000 challenges a second beside guests
//! cargo bench -p coffer-verifier --bench load -- --soak 10             ten minutes at 100 a second, while certificate and
//!                                                                      key-encryption key are replaced
//! ```
//! Another service is one that speaks the same protocol (Trustee's KBS), believes the simulated processor whose certificates
//! `--certificates FILE` writes (ASK, then ARK), keeps the same secret under the same path (`--secret` prints both) and
//! releases it to anybody whose evidence verifies. Both are asked in turns, each alone.
//!
//! What must be on disk is in a folder of its own, which `TMPDIR` places: where others write much to the same disk, that is most
//! of an exchange's time. An exchange is a connection of its own with three requests: challenge, evidence, secret. The guests run on the same
//! processors as the service and what they cost is printed beside it. It fails when an exchange fails, or with `--strict`
//! when a goal is missed.

mod flood;
mod guest;
mod measure;
mod process;
#[path = "../../tests/running/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests, of which each uses a part")]
mod running;
#[path = "../../tests/simulated/mod.rs"]
mod simulated;
mod soak;
mod target;

use std::time::Duration;

use measure::{Paced, Seen, closed, paced};
use running::{Place, Service};
use target::Target;

/// Exchanges in one second that are hoped for on two processors.
const RATE: f64 = 300.0;
/// The slowest of a hundred at 200 a second, in milliseconds.
const P99: f64 = 30.0;
/// Resident memory of the service, in KiB.
const MEMORY: u64 = 64 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)
    };
    if let Some(file) = after("--certificates") {
        std::fs::write(file, guest::authorities()).expect("written");
        return;
    }
    if arguments.iter().any(|argument| argument == "--secret") {
        println!("{} {}", guest::PATH, String::from_utf8_lossy(guest::SECRET));
        return;
    }
    let number = |name: &str| after(name)?.parse::<u64>().ok();
    let seconds = Duration::from_secs(number("--seconds").unwrap_or(10));
    let place = guest::place();
    let service = place.start();
    guest::keep_secret(&service, &place);
    let beside = after("--beside").map(|line| Target::told(line).unwrap_or_else(|error| panic!("{error}")));
    let strict = arguments.iter().any(|argument| argument == "--strict");
    let good = match (number("--soak"), number("--flood")) {
        (Some(minutes), _) => soak::run(&service, &place, minutes),
        (None, Some(seconds)) => flood::run(&service, &place, Duration::from_secs(seconds)),
        (None, None) => load(&service, &place, beside, Limits { time: seconds, strict }),
    };
    drop(service);
    if !good {
        std::process::exit(1);
    }
}

/// How long each figure takes, and whether a missed goal is a failure.
struct Limits {
    time: Duration,
    strict: bool,
}

/// What a service bore.
struct Borne {
    fast: Seen,
    slow: Seen,
    memory: process::Memory,
}

fn load(service: &Service, place: &Place, beside: Option<Target>, limits: Limits) -> bool {
    let ours = borne(&Target::ours(service, place), limits.time);
    let [half, slowest] = process::durable_writes(&place.file("line"));
    println!(
        "        a line is on disk after {half:.1?}, in the slowest of a hundred cases after {slowest:.1?}"
    );
    if let Some(target) = beside {
        println!("beside it:");
        let theirs = borne(&target, limits.time);
        println!(
            "ours to the one beside it: {:.2} of its exchanges a second, {:.2} of its p99, {:.2} of its memory, \
             {:.2} of its processor time",
            ours.fast.rate() / theirs.fast.rate(),
            ours.slow.percentile(99) / theirs.slow.percentile(99),
            ours.memory.peak as f64 / theirs.memory.peak as f64,
            ours.fast.service_each() / theirs.fast.service_each(),
        );
    }
    let goals = ours.fast.rate() >= RATE && ours.slow.percentile(99) <= P99 && ours.memory.peak <= MEMORY;
    ours.fast.whole() && ours.slow.whole() && (goals || !limits.strict)
}

fn borne(target: &Target, time: Duration) -> Borne {
    // The first exchanges of a process are slower than all others.
    closed(target, 4, time / 10);
    let fast = closed(target, 8, time);
    let slow = paced(target, Paced { rate: 200, time }, |_| ());
    println!(
        "{:>7.0} exchanges a second, {:.2} of the goal; {:.0}, {:.2} of it, if nothing else ran ({fast})",
        fast.rate(),
        fast.rate() / RATE,
        fast.alone(),
        fast.alone() / RATE
    );
    println!(
        "{:>7.1} ms p99 at 200 a second, {:.2} of the limit; {:.1} ms p50 ({slow})",
        slow.percentile(99),
        slow.percentile(99) / P99,
        slow.percentile(50)
    );
    let memory = process::memory(target.process);
    let part = memory.peak as f64 / MEMORY as f64;
    println!("{:>7} KiB at most, {part:.2} of the limit; {} KiB resident", memory.peak, memory.resident);
    Borne { fast, slow, memory }
}
