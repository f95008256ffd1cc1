//! Which mirror this machine takes Debian from, read from its own source lists in both of their forms.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A place that has Debian's releases, as a source list of the machine names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    /// Where it is.
    pub uri: String,
    /// The keys that sign it, if the list names them.
    pub signed_by: Option<PathBuf>,
}

/// The mirror that the source lists under `apt` (`/etc/apt`) name for the release `suite` itself.
pub(super) fn find(apt: &Path, suite: &str) -> Result<Mirror> {
    let mut files = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mirror = files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        if file.extension().is_some_and(|extension| extension == "sources") {
            in_stanzas(&text, suite)
        } else {
            in_lines(&text, suite)
        }
    });
    mirror.with_context(|| format!("no source list in {} names a mirror for {suite}", apt.display()))
}

fn in_stanzas(text: &str, suite: &str) -> Option<Mirror> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let lines = stanza.lines().filter(|line| !line.starts_with('#'));
            lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        let has = |name: &str, word: &str| {
            field(name).is_some_and(|(_, value)| value.split_whitespace().any(|found| found == word))
        };
        let wanted = has("Types", "deb") && has("Suites", suite) && has("Components", "main");
        let uri = field("URIs")?.1.split_whitespace().next()?.to_owned();
        let signed_by = field("Signed-By").map(|(_, value)| PathBuf::from(value.trim()));
        wanted.then_some(Mirror { uri, signed_by })
    })
}

fn in_lines(text: &str, suite: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, found) = (words.next()?, words.next()?);
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let wanted = found == suite && words.any(|component| component == "main");
        wanted.then(|| Mirror { uri: uri.to_owned(), signed_by: signed_by.map(PathBuf::from) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "Types: deb\n# a note: here\nURIs: http://other.example/x\nSuites: twelve-security\nComponents: main\n\n\
        Types: deb deb-src\nURIs: http://mirror.example/debian\nSuites: twelve twelve-updates\nComponents: main\nSigned-By: /k.gpg\n";

    #[test]
    fn a_stanza_is_taken_by_its_suite() {
        let mirror = in_stanzas(STANZAS, "twelve");
        let expected =
            Mirror { uri: "http://mirror.example/debian".into(), signed_by: Some("/k.gpg".into()) };
        assert_eq!(mirror, Some(expected));
    }

    #[test]
    fn a_line_with_options_is_understood() {
        let mirror = in_lines(
            "# deb no\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian twelve main contrib",
            "twelve",
        );
        let expected =
            Mirror { uri: "http://mirror.example/debian".into(), signed_by: Some("/k.gpg".into()) };
        assert_eq!(mirror, Some(expected));
    }

    #[test]
    fn a_line_of_another_suite_is_left() {
        assert_eq!(in_lines("deb http://mirror.example/debian twelve-updates main", "twelve"), None);
    }
}
