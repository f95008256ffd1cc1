//! Where signatures of simple signing lie, as `registries.d` of podman and skopeo says it (containers-registries.d(5)): the small
//! part of YAML that such files are written in, and an error for more than that.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use coffer_image::artefact::Reference;

/// Where it is looked for if nobody says otherwise.
pub(super) const USUAL: &str = "/etc/containers/registries.d";
/// The longest file.
const MAX_BYTES: u64 = 1 << 20;

/// What the files of one directory say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Places {
    default: Option<String>,
    scopes: Vec<(String, String)>,
}

impl Places {
    /// Reads every file `*.yaml` of `directory`. A file that is not understood is left out whole, and answered why.
    pub(super) fn read(directory: &Path) -> anyhow::Result<(Self, Vec<anyhow::Error>)> {
        let (mut places, mut faults) = (Self::default(), Vec::new());
        let entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|it| it == "yaml")) {
            let mut with = places.clone();
            match with.add_file(path).with_context(|| format!("reading {}", path.display())) {
                Ok(()) => places = with,
                Err(error) => faults.push(error),
            }
        }
        Ok((places, faults))
    }

    fn add_file(&mut self, path: &Path) -> anyhow::Result<()> {
        ensure!(fs::metadata(path)?.len() <= MAX_BYTES, "it is longer than {MAX_BYTES} bytes");
        self.add(&fs::read_to_string(path)?)
    }

    /// Where the signatures of `name` are read; the narrowest word counts.
    pub(super) fn of(&self, name: &Reference) -> Option<&str> {
        let scopes = name.scopes();
        let named = scopes.iter().find_map(|scope| self.scopes.iter().find(|(found, _)| found == scope));
        named.map(|(_, place)| place).or(self.default.as_ref()).map(String::as_str)
    }

    /// Takes one file: mappings below each other by how far they are moved in.
    fn add(&mut self, text: &str) -> anyhow::Result<()> {
        let mut above: Vec<(usize, String)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let inside = without_comment(line);
            if inside.trim().is_empty() || inside.trim() == "---" {
                continue;
            }
            let depth = inside.len() - inside.trim_start_matches(' ').len();
            let Some((key, value)) = pair(inside.trim_start_matches(' ').trim_end()) else {
                bail!("line {}: only NAME: and NAME: VALUE are understood", number + 1);
            };
            above.retain(|(of, _)| *of < depth);
            let path: Vec<&str> = above.iter().map(|(_, key)| key.as_str()).collect();
            self.take(&path, key, value);
            above.push((depth, key.to_owned()));
        }
        Ok(())
    }

    fn take(&mut self, path: &[&str], key: &str, value: &str) {
        // The older name gives way.
        let (is_new, is_old) = (key == "lookaside", key == "sigstore");
        if value.is_empty() || !(is_new || is_old) {
            return;
        }
        match path {
            ["default-docker"] if is_new || self.default.is_none() => self.default = Some(value.to_owned()),
            ["docker", scope] => {
                let found = self.scopes.iter_mut().find(|(found, _)| found == scope);
                match found {
                    Some((_, place)) if is_new => *place = value.to_owned(),
                    Some(_) => {}
                    None => self.scopes.push(((*scope).to_owned(), value.to_owned())),
                }
            }
            _ => {}
        }
    }
}

fn without_comment(line: &str) -> &str {
    match line.find(" #") {
        _ if line.starts_with('#') => "",
        Some(at) => line.get(..at).unwrap_or_default(),
        None => line,
    }
}

/// A key, and its value or nothing; either may stand in quotes.
fn pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = match text.strip_suffix(':') {
        Some(key) => (key, ""),
        None => text.split_once(": ")?,
    };
    let plain = |text: &str| !text.starts_with(['-', '[', '{', '&', '*', '|', '>', '!', '\t', '?']);
    // A mapping of nothing.
    let value = if value.trim() == "{}" { "" } else { value };
    let (key, value) = (bare(key.trim())?, bare(value.trim())?);
    (plain(text) && plain(value)).then_some((key, value))
}

fn bare(text: &str) -> Option<&str> {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.strip_suffix(quote).filter(|inside| !inside.contains([quote, '\\']));
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, name: &str) -> Option<String> {
        let mut places = Places::default();
        places.add(text).expect("a file");
        places.of(&name.parse().expect("a reference")).map(str::to_owned)
    }

    const TEXT: &str = "# where\ndefault-docker:\n  sigstore: file:///old\n  lookaside: file:///all # here\n\ndocker:\n    \
        r.example.com:\n        lookaside: \"https://r.example.com/s\"\n    r.example.com/a/b:\n        sigstore: 'file:///b'\n";

    #[test]
    fn the_narrowest_word_counts() {
        assert_eq!(place(TEXT, "r.example.com/a/b:1").as_deref(), Some("file:///b"));
        assert_eq!(place(TEXT, "r.example.com/a:1").as_deref(), Some("https://r.example.com/s"));
        assert_eq!(place(TEXT, "other.example.com/a:1").as_deref(), Some("file:///all"));
        assert_eq!(place("default-docker: {}\ndocker: {}\n", "r.io/a"), None);
        assert_eq!(place("docker:\n  r.io:\n    use-sigstore-attachments: true\n", "r.io/a"), None);
    }

    #[test]
    fn more_of_yaml_than_such_files_need_is_an_error() {
        for bad in [
            "docker: {r.io: {lookaside: x}}",
            "docker:\n  - r.io",
            "docker:\n  &a r.io:\n",
            "docker:\n\tr.io: x",
        ] {
            assert!(Places::default().add(bad).is_err(), "{bad}");
        }
    }
}
