//! Minutes of steady load while certificate and key-encryption key are replaced under it.

use std::time::Duration;

use rustix::process::Signal;

use crate::measure::{Paced, paced};
use crate::process;
use crate::running::{Place, Service};
use crate::target::Target;

/// Runs for `minutes`. Each minute begins with a new certificate, and has a new key-encryption key in its middle.
pub(crate) fn run(service: &Service, place: &Place, minutes: u64) -> bool {
    let wanted = Paced { rate: 100, time: Duration::from_secs(60 * minutes) };
    let target = Target::ours(service, place);
    let seen = paced(&target, wanted, |second| match second % 60 {
        5 => {
            place.renew_certificate();
            target.look_again(place);
        }
        // Shown when no guest is left that began without knowing it.
        8 => service.signal(Signal::HUP),
        25 => {
            place.renew_key();
            service.signal(Signal::HUP);
        }
        45 => {
            place.keep_only_the_newest_key();
            service.signal(Signal::HUP);
        }
        _ => {}
    });
    println!("{seen}");
    println!("{:>7.1} ms p99, {:.1} ms p50 at 100 a second", seen.percentile(99), seen.percentile(50));
    let memory = process::memory(service.id());
    println!("{:>7} KiB resident, {} KiB at most", memory.resident, memory.peak);
    seen.whole()
}
