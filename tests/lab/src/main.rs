//! `coffer-lab`: the first and only process of the nested machine, where `/dev/kvm` is real. It boots guests with
//! coffer-vmm, says what became of each on the console, and switches the machine off.
//!
//! ```text
//! outside (cargo lab) ── kernel, initrd with this program as /init ──▶ nested machine
//!                     ◀── lines "LAB …" on the console ──
//! ```
//! The same program is the first process of the guests that are told `lab.role=…`: see `inside`. If the initrd has a file
//! `/node`, the machine is a node instead, on which the pods' test suites run: see `node`.

mod bench;
mod busy;
mod cases;
mod disks;
mod guest;
mod inside;
mod memory;
mod net;
mod node;
mod obedient;
mod slow;
mod stage;
mod wire;

use std::time::Instant;

fn main() {
    if std::process::id() != 1 {
        eprintln!("coffer-lab is the first process of a nested machine: run `cargo lab`");
        std::process::exit(2);
    }
    if let Err(error) = stage::mount_all() {
        println!("LAB broken: {error:#}");
        stage::switch_off();
    }
    if let Some(role) = stage::argument("lab.role") {
        inside::play(&role);
    }
    if let Some(told) = node::told() {
        match node::play(&told) {
            Ok((passed, failed)) => println!("LAB done {passed} passed {failed} failed"),
            Err(error) => println!("LAB broken: {error:#}"),
        }
        stage::switch_off();
    }
    if let Err(error) = stage::prepare() {
        println!("LAB broken: {error:#}");
        stage::switch_off();
    }
    if let Some(which) = stage::argument("lab.bench") {
        match if which == "io" { bench::run_io() } else { bench::run() } {
            Ok(()) => println!("LAB done with the benchmark"),
            Err(error) => println!("LAB fail bench {error:#}"),
        }
        stage::switch_off();
    }
    let wanted = stage::argument("lab.case").unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(wanted.as_str())) {
        println!("LAB begin {name}");
        let start = Instant::now();
        match case() {
            Ok(note) => {
                passed += 1;
                println!("LAB pass {name} {} ms {note}", start.elapsed().as_millis());
            }
            Err(error) => {
                failed += 1;
                println!("LAB fail {name} {error:#}");
            }
        }
    }
    println!("LAB done {passed} passed {failed} failed");
    stage::switch_off();
}
