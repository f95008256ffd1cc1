//! What the figures of guests' I/O say: the table, whether rounds agree, and whether ours is as fast as the best of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Result, ensure};

/// The same exchange may take this part longer than the shortest one, in thousandths.
const AGREEMENT: u64 = 50;

const OURS: &str = "coffer-vmm";

/// How often an exchange took how long, of how many bytes or turns it consists, and how often guests were left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exchange {
    nanoseconds: Vec<u64>,
    exits: Vec<u64>,
    count: u64,
}

/// Every exchange, by its name and the monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanges(BTreeMap<(String, String), Exchange>);

impl Exchanges {
    /// Takes `NAME MONITOR NANOSECONDS COUNT EXITS`.
    pub(super) fn note(&mut self, words: &str) -> Option<()> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let [name, monitor, numbers @ ..] = &words[..] else { return None };
        let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [nanoseconds, count, exits] = numbers[..] else { return None };
        let exchange = self.0.entry(((*name).to_owned(), (*monitor).to_owned())).or_default();
        exchange.nanoseconds.push(nanoseconds);
        exchange.exits.push(exits);
        exchange.count = count;
        Some(())
    }

    /// One line per exchange and monitor, with what the best of the others took as parts of what that one took.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:12} {:18} {:>12} {:>8} {:>7} {:>10} {:>6}\n",
            "exchange", "monitor", "rate", "µs each", "spread", "exits each", "best x"
        );
        for ((name, monitor), exchange) in &self.0 {
            let best = self.best_of_others(name, monitor);
            let times =
                best.map_or(0.0, |(_, best)| best as f64 / middle(&exchange.nanoseconds).max(1) as f64);
            let _ = writeln!(
                table,
                "{name:12} {monitor:18} {:>12} {:>8.2} {:>5.1} % {:>10.3} {times:>6.2}",
                exchange.rate(name),
                middle(&exchange.nanoseconds) as f64 / exchange.pieces(name) / 1000.0,
                exchange.spread() as f64 / 10.0,
                middle(&exchange.exits) as f64 / exchange.pieces(name),
            );
        }
        table
    }

    /// Who of those that are not `monitor` took the least time, and how long.
    fn best_of_others(&self, name: &str, monitor: &str) -> Option<(&str, u64)> {
        let others = self.0.iter().filter(|((of, by), _)| of == name && by != monitor);
        others
            .map(|((_, by), exchange)| (by.as_str(), middle(&exchange.nanoseconds)))
            .min_by_key(|best| best.1)
    }

    /// What is not as it should be: exchanges that do not take the same time again, and those where another one is faster.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        for ((name, monitor), exchange) in &self.0 {
            let spread = exchange.spread();
            if spread > AGREEMENT {
                complaints.push(format!("{name} with {monitor}: the rounds differ by {spread} thousandths"));
            }
        }
        let names: BTreeSet<&str> = self.0.keys().map(|(name, _)| name.as_str()).collect();
        let mut compared = 0;
        for name in names {
            let ours = self.0.get(&(name.to_owned(), OURS.to_owned()));
            let (Some(ours), Some((other, best))) = (ours, self.best_of_others(name, OURS)) else { continue };
            compared += 1;
            let part = best * 1000 / middle(&ours.nanoseconds).max(1);
            if part < 1000 {
                complaints.push(format!("{name}: {part} thousandths of what {other} moves"));
            }
        }
        ensure!(compared > 0, "nothing was measured with ours and with another monitor");
        Ok(complaints)
    }
}

impl Exchange {
    /// How far the slowest is from the fastest, in thousandths.
    fn spread(&self) -> u64 {
        match (self.nanoseconds.iter().min(), self.nanoseconds.iter().max()) {
            (Some(shortest), Some(longest)) if *shortest > 0 => (longest - shortest) * 1000 / shortest,
            _ => 0,
        }
    }

    /// Reads, round trips, or pieces of 64 KiB.
    fn pieces(&self, name: &str) -> f64 {
        self.count as f64 / if counts_bytes(name) { 65536.0 } else { 1.0 }
    }

    fn rate(&self, name: &str) -> String {
        let each = middle(&self.nanoseconds).max(1) as f64 / self.count.max(1) as f64;
        if counts_bytes(name) {
            format!("{:.0} MB/s", 1000.0 / each)
        } else {
            format!("{:.0} /s", 1e9 / each)
        }
    }
}

/// Whether an exchange of this name moves bytes, or makes turns.
fn counts_bytes(name: &str) -> bool {
    ["-read", "-in", "-out"].iter().any(|end| name.ends_with(end))
}

fn middle(numbers: &[u64]) -> u64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchanges(lines: &[&str]) -> Exchanges {
        let mut exchanges = Exchanges::default();
        for line in lines {
            exchanges.note(line).unwrap();
        }
        exchanges
    }

    #[test]
    fn the_better_one_of_the_others_is_what_counts() {
        let lines = ["net-in coffer-vmm 100 1 0", "net-in slow 200 1 0", "net-in fast 90 1 0"];
        let complaints = exchanges(&lines).complaints().unwrap();
        assert_eq!(complaints, ["net-in: 900 thousandths of what fast moves"]);
    }

    #[test]
    fn as_fast_as_the_best_is_fast_enough() {
        let lines = ["net-in coffer-vmm 90 1 0", "net-in slow 200 1 0", "net-in fast 90 1 0"];
        assert_eq!(exchanges(&lines).complaints().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn rounds_that_differ_are_complained_about() {
        let lines = ["net-in coffer-vmm 100 1 0", "net-in coffer-vmm 106 1 0", "net-in fast 200 1 0"];
        assert_eq!(exchanges(&lines).complaints().unwrap().len(), 1);
    }

    #[test]
    fn what_only_ours_has_is_no_comparison() {
        assert!(exchanges(&["scsi-read coffer-vmm 100 1 0"]).complaints().is_err());
    }

    #[test]
    fn a_line_of_other_words_is_refused() {
        assert_eq!(Exchanges::default().note("net-in coffer-vmm 100 1"), None);
        assert_eq!(Exchanges::default().note("net-in coffer-vmm 100 1 x"), None);
    }
}
