//! A verdict as a table for people.

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Check, printable};

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
            check.name,
            check.result,
            printable(&check.expected),
            printable(&check.found)
        );
    }
    Ok(())
}

fn row(check: &Check) -> Vec<String> {
    vec![check.name.to_owned(), check.result.to_string(), short(&check.expected), short(&check.found)]
}

fn short(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= CELL {
        return text;
    }
    let begins: String = text.chars().take(CELL - 1).collect();
    format!("{begins}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_no_part_of_a_cell() {
        assert_eq!(short("a\u{1b}[2Kb\u{9b}c"), "a\u{fffd}[2Kb\u{fffd}c");
    }

    #[test]
    fn a_long_value_is_cut_to_a_cells_width() {
        assert_eq!(short(&"a".repeat(64)), format!("{}…", "a".repeat(43)));
    }
}
