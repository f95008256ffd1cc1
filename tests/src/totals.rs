//! How many tests passed, failed and were skipped, read from what their runners print.

/// What was run so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tests and checks that passed.
    pub passed: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were not run, each for a reason that was said.
    pub skipped: u64,
}

impl Totals {
    /// Counts `test result: ok. 5 passed; 0 failed; 1 ignored; …` and `skipped: NAME: reason`. A skipped test has also passed
    /// as its runner sees it.
    pub fn add(&mut self, line: &str) {
        if line.starts_with("skipped: ") {
            self.skipped += 1;
            self.passed = self.passed.saturating_sub(1);
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let part = counts.split(['.', ';']).map(str::trim).find_map(|part| part.strip_suffix(what));
            part.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        self.skipped += number("ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn a_result_line_is_counted() {
        let mut totals = Totals::default();
        totals.add("test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.2s");
        assert_eq!(totals, Totals { passed: 12, failed: 3, skipped: 1 });
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let mut totals = Totals { passed: 0, failed: 0, skipped: 0 };
        totals.add("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("skipped: a_test: needs root");
        assert_eq!(totals, Totals { passed: 1, failed: 0, skipped: 1 });
    }
}
