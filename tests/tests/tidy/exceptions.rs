//! What is let through, and why.

use coffer_tests::artefacts::workspace;

/// A rule, the beginning of the finding that is let through (a path, or a path and a line's text), and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "may panic",
        "guest-image/src/image.rs:181 ",
        "names that are constants of this program, checked like any other",
    ),
    (
        "may panic",
        "shim/src/hypervisor/guest_init.rs",
        "a guest's init that a test compiles by itself; no part of the shim",
    ),
    (
        "long function",
        "shim/src/hypervisor/guest_init.rs",
        "the same: one dispatch over the words that the test sends",
    ),
];

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
