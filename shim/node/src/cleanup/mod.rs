//! Undoes what a pod made, by its record: after an ordinary end, after a crash, any number of times.
//!
//! ```text
//! record ── plan (pure) ──► steps ── undo ──► report
//! ```
//! A step that finds nothing to do succeeds. A step that fails is reported and the others go on. Two cleanups of one
//! pod take turns. Never here: a decision on whether the pod should end.

mod plan;
mod scan;
mod turn;
mod undo;

use std::fmt;

pub use plan::{Step, plan};
pub use scan::{PodOnNode, Standing, scan};
pub use undo::{clean, clean_unrecorded};

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum Outcome {
    /// There was something, and now there is not.
    Removed,
    /// There was nothing.
    Nothing,
    /// It is still there.
    Failed(String),
}

/// What a cleanup did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Each step, as text, and what became of it.
    pub steps: Vec<(String, Outcome)>,
}

impl Report {
    /// Whether nothing of the pod is left.
    pub fn is_complete(&self) -> bool {
        !self.steps.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, outcome) in &self.steps {
            match outcome {
                Outcome::Removed => writeln!(f, "{step}: done")?,
                Outcome::Nothing => writeln!(f, "{step}: nothing to do")?,
                Outcome::Failed(reason) => writeln!(f, "{step}: FAILED: {reason}")?,
            }
        }
        Ok(())
    }
}
