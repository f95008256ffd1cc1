//! Where a guest was left for a device: ports, and registers that the monitor answers, by address.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// Where the kernel tells of what happens, and what it is to tell of.
const TRACING: &str = "/sys/kernel/debug/tracing";
const EVENTS: [&str; 3] = ["kvm_pio", "kvm_mmio", "kvm_userspace_exit"];

/// Notes it from now on.
pub(super) struct Watch(());

impl Watch {
    pub(super) fn begin() -> Result<Watch> {
        fs::write(format!("{TRACING}/buffer_size_kb"), "4096").context("no tracing")?;
        fs::write(format!("{TRACING}/trace"), "")?;
        switch("1")?;
        Ok(Watch(()))
    }

    /// What was noted, the most frequent first; nothing is noted from now on.
    pub(super) fn end(self) -> Result<Vec<(String, u64)>> {
        switch("0")?;
        let mut places: Vec<_> =
            count(&fs::read_to_string(format!("{TRACING}/trace"))?).into_iter().collect();
        places.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Ok(places)
    }
}

fn switch(state: &str) -> Result<()> {
    for event in EVENTS {
        fs::write(format!("{TRACING}/events/kvm/{event}/enable"), state).context(event)?;
    }
    Ok(())
}

/// Counts by kind and address. KVM answers some registers itself: of those the monitor hears nothing, and they are left out.
fn count(trace: &str) -> BTreeMap<String, u64> {
    let (mut counted, mut register) = (BTreeMap::new(), None);
    for line in trace.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| word.starts_with("kvm_")) else { continue };
        let place = match words.get(at..).unwrap_or_default() {
            ["kvm_pio:", kind, "at", port, ..] => Some(format!("{kind} {port}")),
            ["kvm_mmio:", "mmio", kind, "len", _, "gpa", address, ..] => {
                register = Some(format!("{kind} {address}"));
                None
            }
            ["kvm_userspace_exit:", "reason", "KVM_EXIT_MMIO", ..] => register.take(),
            _ => None,
        };
        if let Some(place) = place {
            *counted.entry(place).or_default() += 1;
        }
    }
    counted
}
