//! A verdict as a table for people.

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Check};

use crate::output;

/// Longest value in a cell; the whole one is in the reasons below the table and in the JSON.
const CELL: usize = 44;

/// Prints the verdict, every check, and in full the checks that are why it is not affirming.
pub(crate) fn print(appraisal: &Appraisal, at: UnixTime) -> anyhow::Result<()> {
    println!("verdict: {}  (as of {at})\n", appraisal.verdict());
    let rows: Vec<Vec<String>> = appraisal.checks().iter().map(row).collect();
    output::table(&["CHECK", "RESULT", "EXPECTED", "FOUND"], &rows)?;
    let mut reasons = appraisal.reasons().peekable();
    if reasons.peek().is_some() {
        println!("\nwhy it is {}:", appraisal.verdict());
    }
    for check in reasons {
        println!(
            "  {} {}\n    expected  {}\n    found     {}",
            check.name, check.result, check.expected, check.found
        );
    }
    Ok(())
}

fn row(check: &Check) -> Vec<String> {
    vec![check.name.to_owned(), check.result.to_string(), short(&check.expected), short(&check.found)]
}

fn short(text: &str) -> String {
    if text.chars().count() <= CELL {
        return text.to_owned();
    }
    let begins: String = text.chars().take(CELL - 1).collect();
    format!("{begins}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_to_a_cells_width() {
        assert_eq!(short(&"a".repeat(64)), format!("{}…", "a".repeat(43)));
    }
}
