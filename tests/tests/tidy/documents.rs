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

/// Whether `path` stands in `line` as a whole and not as the end of a longer one.
fn names(line: &str, path: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./".contains(byte);
    line.match_indices(path).any(|(at, _)| {
        let (before, after) = (line.as_bytes()[..at].last(), line.as_bytes().get(at + path.len()));
        !before.is_some_and(word) && after.is_none_or(|byte| *byte == b'/' || !word(byte))
    })
}

/// Lines that name the directory of this checkout, or a host that packages come from.
pub(crate) fn machine_names() -> Vec<String> {
    // A checkout just below the root may have the name of anything.
    let checkout = (workspace().components().count() > 2).then(|| workspace().display().to_string());
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
        let checkout = checkout.as_ref().is_some_and(|checkout| names(line, checkout));
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
