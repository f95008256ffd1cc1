//! What is let through, and why.

use coffer_tests::artefacts::workspace;

/// A rule, the beginning of the finding that is let through (a path, or a path and a line's text), and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Whether `finding` is let through.
pub(crate) fn allows(rule: &str, finding: &str) -> bool {
    EXCEPTIONS.iter().any(|(of, begins, _)| *of == rule && finding.starts_with(begins))
}

/// Exceptions whose file is gone.
pub(crate) fn stale() -> Vec<&'static str> {
    let file = |begins: &'static str| begins.split([':', ' ']).next().unwrap_or(begins);
    EXCEPTIONS
        .iter()
        .map(|(_, begins, _)| *begins)
        .filter(|begins| !workspace().join(file(begins)).exists())
        .collect()
}
