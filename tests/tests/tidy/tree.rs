//! The files of the workspace: its own, not what was built from them.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_tests::artefacts::workspace;

use crate::source::Source;

/// Every Rust file, parsed. A parsed file belongs to the thread that parsed it, so each test does this anew.
pub(crate) fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut sources: Vec<Source> = rust.map(|path| Source::read(&path)).collect();
    let tests: Vec<PathBuf> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    for source in &mut sources {
        source.all_tests = tests.contains(&source.path);
    }
    sources
}

/// Every file of the workspace by its path in it; not what cargo or git made.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(workspace().join(&directory)).expect("a directory of the workspace");
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_made(&path) => open.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn is_made(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name == ".git" || name == "target" || name.starts_with("target-")
}
