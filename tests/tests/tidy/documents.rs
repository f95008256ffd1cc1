//! Rules about text: paths that documents name, and names that no file may have.

use std::fs;

use coffer_tests::artefacts::workspace;

use crate::tree;

/// Where a path of the workspace begins.
const TOP: &[&str] =
    &["agent", "attestation", "cli", "docs", "guest-image", "shim", "tests", "vmm", ".ci", ".cargo"];

/// Paths in backquotes in a document that are not in the workspace.
pub(crate) fn missing_paths() -> Vec<String> {
    let documents =
        tree::files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents
        .flat_map(|path| {
            let text = fs::read_to_string(workspace().join(&path)).expect("a document");
            let quoted: Vec<String> = text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let missing = quoted.into_iter().filter(|word| is_path(word) && !exists(word));
            missing.map(move |word| format!("{} names {word}", path.display())).collect::<Vec<_>>()
        })
        .collect()
}

fn is_path(word: &str) -> bool {
    let begins = word.split_once('/').is_some_and(|(first, _)| TOP.contains(&first));
    begins && !word.contains([' ', '<', '*', '{', '…'])
}

fn exists(word: &str) -> bool {
    let path = word.split(':').next().unwrap_or(word);
    workspace().join(path).exists()
}

/// Lines that name the directory that this checkout lies in, or a host that packages come from.
pub(crate) fn machine_names() -> Vec<String> {
    let above = workspace().parent().map(|path| format!("{}/", path.display())).filter(|path| path.len() > 2);
    // Put together, so that this file is not found.
    let hosts = [
        concat!("deb.deb", "ian.org"),
        concat!("security.deb", "ian.org"),
        concat!("static.crates", ".io"),
        concat!("index.crates", ".io"),
        concat!("registry.np", "mjs.org"),
        concat!("files.python", "hosted.org"),
    ];
    let bad = |line: &str| {
        let checkout = above.as_ref().is_some_and(|above| line.contains(above.as_str()));
        checkout || hosts.iter().any(|host| line.contains(host))
    };
    let files = tree::files().into_iter().filter(|path| !path.ends_with("Cargo.lock"));
    files
        .flat_map(|path| {
            let bytes = fs::read(workspace().join(&path)).expect("a file of the workspace");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let found = text.lines().enumerate().filter(|(_, line)| bad(line));
            found
                .map(|(number, line)| format!("{}:{} {}", path.display(), number + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}
