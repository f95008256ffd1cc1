//! Which crate may use which: only those of a lower floor, and never a neighbour.

use std::fs;

use coffer_tests::artefacts::workspace;

use crate::tree;

/// Each of our crates by its folder, and those of ours that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("agent/protocol", &[]),
    ("vmm", &[]),
    ("attestation", &["coffer-protocol"]),
    // The service is above the formats that it shares with guests, and nothing of a guest or a node is above it.
    ("attestation/service", &["coffer-attestation"]),
    ("guest-image", &["coffer-protocol"]),
    // Both the agent and the command line judge images by it; certificates and verdicts are attestation's.
    ("agent/image", &["coffer-protocol", "coffer-attestation"]),
    // Both the agent and the command line unpack and seal by it.
    ("agent/layer", &["coffer-protocol"]),
    ("agent", &["coffer-protocol", "coffer-attestation", "coffer-image", "coffer-layer"]),
    // What shim and CLI share of a node: below both, above the middle.
    (
        "shim/node",
        &[
            "coffer-protocol",
            "coffer-vmm",
            "coffer-guest-image",
            "coffer-attestation",
            "coffer-image",
            "coffer-layer",
        ],
    ),
    (
        "shim",
        &[
            "coffer-protocol",
            "coffer-vmm",
            "coffer-guest-image",
            "coffer-attestation",
            "coffer-node",
            "coffer-image",
            "coffer-layer",
        ],
    ),
    (
        "cli",
        &[
            "coffer-protocol",
            "coffer-vmm",
            "coffer-guest-image",
            "coffer-attestation",
            "coffer-node",
            "coffer-image",
            "coffer-layer",
        ],
    ),
    // The harness runs the product from outside, so that it cannot lean on what it tests.
    ("tests", &[]),
    // It calls what reads other people's bytes, from inside.
    (
        "tests/fuzz",
        &[
            "coffer-vmm",
            "coffer-attestation",
            "coffer-node",
            "coffer-image",
            "coffer-layer",
            "coffer-protocol",
            "coffer-guest-image",
        ],
    ),
    ("tests/lab", &[]),
    ("tests/testbox", &[]),
];

/// Crates that the lowest floor must not bring in: it has no I/O and nothing asynchronous.
const NOT_ON_THE_GROUND: &[&str] = &["tokio", "nix", "rustix", "libc", "futures", "async-trait", "ttrpc"];

pub(crate) fn findings() -> Vec<String> {
    let manifests = tree::files()
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml") && path.components().count() > 1);
    manifests
        .flat_map(|path| {
            let folder = path.parent().expect("a manifest in a folder").to_string_lossy().into_owned();
            let text = fs::read_to_string(workspace().join(&path)).expect("a manifest");
            let manifest: toml::Table = text.parse().expect("a manifest that cargo read");
            of_crate(&folder, &manifest)
        })
        .collect()
}

fn of_crate(folder: &str, manifest: &toml::Table) -> Vec<String> {
    let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == folder) else {
        return vec![format!("{folder} has no floor")];
    };
    let names = manifest
        .get("dependencies")
        .and_then(|table| table.as_table())
        .into_iter()
        .flat_map(|table| table.keys());
    let ours = |name: &&String| name.starts_with("coffer-") || name.starts_with("containerd-shim-coffer");
    let names: Vec<&String> = names.collect();
    let upward = names.iter().copied().filter(ours).filter(|name| !allowed.contains(&name.as_str()));
    let mut findings: Vec<String> = upward.map(|name| format!("{folder} uses {name}")).collect();
    if folder == "agent/protocol" {
        let heavy = names.iter().filter(|name| NOT_ON_THE_GROUND.contains(&name.as_str()));
        findings.extend(heavy.map(|name| format!("{folder} uses {name}")));
    }
    findings
}
