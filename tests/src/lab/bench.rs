//! What the benchmark's figures say: the table, whether two rounds agree, and whether the goals are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

/// Two rounds of a start may differ by this part of the shorter, in thousandths.
const AGREEMENT: u64 = 10;

/// KiB beside the guest's memory: its own, and in all.
const ANONYMOUS: u64 = 410;
const MEMORY: u64 = 3584;

/// Port and MMIO exits until the first process runs, with a pod's devices.
const EXITS: u64 = 293;

/// A goal for the time of ours: guest, other monitor, most thousandths of the other's.
const TIMES: [(&str, &str, u64); 3] =
    [("tiny", "firecracker", 1000), ("pod", "firecracker", 700), ("pod", "qemu-microvm", 500)];

const OURS: &str = "coffer-vmm";

/// One start.
type Start = BTreeMap<String, u64>;

/// Every start, by guest and monitor, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures(BTreeMap<(String, String), Vec<Start>>);

impl Figures {
    /// Takes `ROUND GUEST MONITOR name=number…`; the first round only warms up.
    pub(super) fn note(&mut self, words: &str) -> Option<()> {
        let mut words = words.split_whitespace();
        let (round, guest, monitor) = (words.next()?, words.next()?, words.next()?);
        let numbers = words.map(|word| {
            let (name, number) = word.split_once('=')?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        let start: Start = numbers.collect::<Option<_>>()?;
        if round != "0" {
            self.0.entry((guest.to_owned(), monitor.to_owned())).or_default().push(start);
        }
        Some(())
    }

    /// The number `name` of a start in the middle of all rounds'.
    fn middle(&self, guest: &str, monitor: &str, name: &str) -> Option<u64> {
        let starts = self.0.get(&(guest.to_owned(), monitor.to_owned()))?;
        let mut numbers: Vec<u64> = starts.iter().filter_map(|start| start.get(name).copied()).collect();
        numbers.sort_unstable();
        numbers.get(numbers.len() / 2).copied()
    }

    /// One line per guest and monitor.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:6} {:18} {:>9} {:>7} {:>10} {:>8} {:>8} {:>7} {:>6} {:>6}\n",
            "guest",
            "monitor",
            "mark ms",
            "spread",
            "anonymous",
            "file KiB",
            "threads",
            "exits",
            "ports",
            "mmio"
        );
        for (guest, monitor) in self.0.keys() {
            let get = |name| self.middle(guest, monitor, name).unwrap_or(0);
            let mark = get("mark_ns") / 1000;
            let spread = self.spread(guest, monitor);
            // Writing into a string does not fail.
            let _ = writeln!(
                table,
                "{guest:6} {monitor:18} {:>5}.{:03} {:>5.1} % {:>10} {:>8} {:>8} {:>7} {:>6} {:>6}",
                mark / 1000,
                mark % 1000,
                spread as f64 / 10.0,
                get("anonymous"),
                get("file"),
                get("threads"),
                get("exits"),
                get("ports"),
                get("memory")
            );
        }
        table
    }

    /// How far the rounds are apart, in thousandths of the shortest.
    fn spread(&self, guest: &str, monitor: &str) -> u64 {
        let starts = self.0.get(&(guest.to_owned(), monitor.to_owned()));
        let times: Vec<u64> =
            starts.into_iter().flatten().filter_map(|start| start.get("mark_ns").copied()).collect();
        match (times.iter().min(), times.iter().max()) {
            (Some(shortest), Some(longest)) if *shortest > 0 => (longest - shortest) * 1000 / shortest,
            _ => 0,
        }
    }

    /// What is not as it should be: rounds that do not agree, goals that are not kept.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        for (guest, monitor) in self.0.keys() {
            let spread = self.spread(guest, monitor);
            if spread > AGREEMENT {
                complaints.push(format!("{monitor} with {guest}: the rounds differ by {spread} thousandths"));
            }
        }
        for (guest, other, most) in TIMES {
            let mark = |monitor| self.middle(guest, monitor, "mark_ns");
            let Some(theirs) = mark(other) else { continue };
            let ours = mark(OURS).context("no figures of our own")?;
            let part = ours * 1000 / theirs.max(1);
            if part > most {
                complaints.push(format!(
                    "{guest}: {part} thousandths of {other}'s time, and at most {most} are wanted"
                ));
            }
        }
        for guest in ["tiny", "slim", "pod"] {
            let get = |name| self.middle(guest, OURS, name).context("no figures of our own");
            let (anonymous, file) = (get("anonymous")?, get("file")?);
            if anonymous > ANONYMOUS || anonymous + file > MEMORY {
                complaints
                    .push(format!("{guest}: {anonymous} KiB of memory of its own and {file} KiB of files"));
            }
        }
        let exits = ["ports", "memory"].map(|name| self.middle("pod", OURS, name).unwrap_or(u64::MAX));
        if exits[0].saturating_add(exits[1]) > EXITS {
            complaints
                .push(format!("pod: {} port and {} MMIO exits, and {EXITS} are wanted", exits[0], exits[1]));
        }
        Ok(complaints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ours: [u64; 2], theirs: u64) -> Figures {
        let mut figures = Figures::default();
        let small = "anonymous=300 file=2000 threads=2 exits=9 ports=100 memory=100";
        for guest in ["tiny", "slim", "pod"] {
            for (round, mark) in (1..).zip(ours) {
                figures.note(&format!("{round} {guest} coffer-vmm mark_ns={mark} {small}")).unwrap();
            }
        }
        figures.note(&format!("1 tiny firecracker mark_ns={theirs}")).unwrap();
        figures
    }

    #[test]
    fn rounds_that_agree_and_keep_the_goals_are_fine() {
        assert_eq!(figures([10_000, 10_099], 10_100).complaints().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn rounds_that_differ_are_complained_about() {
        assert_eq!(figures([10_000, 10_200], 20_000).complaints().unwrap().len(), 3);
    }

    #[test]
    fn a_goal_that_is_missed_is_named() {
        let complaints = figures([10_000, 10_000], 9000).complaints().unwrap();
        assert_eq!(complaints, ["tiny: 1111 thousandths of firecracker's time, and at most 1000 are wanted"]);
    }

    #[test]
    fn the_round_that_warms_up_does_not_count() {
        let mut figures = Figures::default();
        figures.note("0 tiny coffer-vmm mark_ns=1").unwrap();
        assert_eq!(figures, Figures::default());
    }

    #[test]
    fn without_figures_there_is_no_verdict() {
        assert!(Figures::default().complaints().is_err());
    }
}
