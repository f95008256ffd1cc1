//! A report of one processor with the certificate of another.

use coffer_attestation::snp::Evidence;

use super::case::{Case, NOW, VECTORS, Vector, invalid, judge};

/// Every report with every other VCEK.
pub(crate) fn cases() -> Vec<Case> {
    let pairs = VECTORS.iter().flat_map(|report| VECTORS.iter().map(move |vek| (report, vek)));
    pairs.filter(|(report, vek)| report != vek).map(|(report, vek)| case(report, vek)).collect()
}

fn case(report: &Vector, vek: &Vector) -> Case {
    let evidence = Evidence { vek: vek.evidence().vek, ..report.evidence() };
    Case {
        name: format!("{}'s report with {}'s VCEK", report.name, vek.name),
        seen: judge(&evidence, &report.expectations(), NOW),
        expected: invalid(reasons(report.name, vek.name)),
    }
}

/// Versions by boot loader, tee, snp, microcode: milan-v2 3 0 8 115, milan-v3 4 0 24 219, genoa-v3 10 0 23 25,
/// turin-v5 1 0 2 71 and fmc 0. All have tee 0, so it never differs.
fn reasons(report: &str, vek: &str) -> &'static [&'static str] {
    match (report, vek) {
        // The generation of version 2 comes from the VCEK: Milan's bytes are read in Turin's layout.
        ("milan-v2", "turin-v5") => &[
            "report-signature",
            "reserved-fields",
            "minimum-tcb",
            "memory-aliases",
            "chip-id",
            "tcb-boot-loader",
            "tcb-snp",
            "tcb-microcode",
            "tcb-fmc",
            "provisional-firmware",
        ],
        ("milan-v2", _) => &[
            "report-signature",
            "chip-id",
            "tcb-boot-loader",
            "tcb-snp",
            "tcb-microcode",
            "provisional-firmware",
            "memory-aliases",
        ],
        ("milan-v3", "milan-v2") => {
            &["report-signature", "chip-id", "tcb-boot-loader", "tcb-snp", "tcb-microcode"]
        }
        (_, "turin-v5") | ("turin-v5", _) => &[
            "report-signature",
            "generation",
            "chip-id",
            "tcb-boot-loader",
            "tcb-snp",
            "tcb-microcode",
            "tcb-fmc",
        ],
        _ => &["report-signature", "generation", "chip-id", "tcb-boot-loader", "tcb-snp", "tcb-microcode"],
    }
}
