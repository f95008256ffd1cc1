//! What the service bears: the real process on loopback, over TLS 1.3, with guests that each make a key, answer a challenge
//! with evidence of a simulated SNP processor, and open the secret that they are given.
//!
//! ```text
//! cargo bench -p coffer-verifier --bench load                          throughput, then latency at 200 exchanges a second
//! cargo bench -p coffer-verifier --bench load -- --flood 10            ten seconds of 10,000 challenges a second beside guests
//! cargo bench -p coffer-verifier --bench load -- --soak 10             ten minutes at 100 a second, while certificate and
//!                                                                      key-encryption key are replaced
//! ```
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

use std::time::Duration;

use measure::{Paced, closed, paced};
use running::{Place, Service};

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
        arguments.get(place + 1)?.parse::<u64>().ok()
    };
    let seconds = Duration::from_secs(after("--seconds").unwrap_or(10));
    let place = guest::place();
    let service = place.start();
    guest::keep_secret(&service, &place);
    let good = match (after("--soak"), after("--flood")) {
        (Some(minutes), _) => soak::run(&service, &place, minutes),
        (None, Some(seconds)) => flood::run(&service, &place, Duration::from_secs(seconds)),
        (None, None) => {
            load(&service, &place, seconds, arguments.iter().any(|argument| argument == "--strict"))
        }
    };
    drop(service);
    if !good {
        std::process::exit(1);
    }
}

fn load(service: &Service, place: &Place, time: Duration, strict: bool) -> bool {
    // The first exchanges of a process are slower than all others.
    closed(service, place, 4, time / 10);
    let fast = closed(service, place, 8, time);
    let slow = paced(service, place, Paced { rate: 200, time }, |_, _| ());
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
    let memory = process::memory(service.id());
    let part = memory.peak as f64 / MEMORY as f64;
    println!("{:>7} KiB at most, {part:.2} of the limit; {} KiB resident", memory.peak, memory.resident);
    let [half, slowest] = process::durable_writes(&place.file("line"));
    println!(
        "        a line is on disk after {half:.1?}, in the slowest of a hundred cases after {slowest:.1?}"
    );
    let goals = fast.rate() >= RATE && slow.percentile(99) <= P99 && memory.peak <= MEMORY;
    fast.whole() && slow.whole() && (goals || !strict)
}
