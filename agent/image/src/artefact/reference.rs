//! Image references, normalised as Docker and containers/image do: `busybox` is `docker.io/library/busybox`.

use std::fmt::{self, Display};
use std::str::FromStr;

use coffer_protocol::{Digest, DigestError};

/// The longest name, without tag and digest.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library";

/// A name in a registry, and what it is narrowed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The name is too long.
    #[error("the name has {found} bytes, at most {MAX_NAME} are allowed")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Host and port.
    #[error("{found:?} is no host of a registry")]
    Domain {
        /// Cut to 128 characters.
        found: String,
    },
    /// What follows the host.
    #[error("{found:?} is no path of a repository: lower-case letters, digits and single separators are")]
    Path {
        /// Cut to 128 characters.
        found: String,
    },
    /// What follows the colon.
    #[error("{found:?} is no tag")]
    Tag {
        /// Cut to 128 characters.
        found: String,
    },
    /// What follows the at sign.
    #[error(transparent)]
    Digest(DigestError),
}

impl Reference {
    /// Host, with the port if there is one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Path of the repository on its host.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and path: what the repository is called.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same; without tag and digest it gets the tag `latest`.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The names under which a policy may have a rule for it, from the narrowest to the widest: the reference itself, its
    /// repository, each path above, the host, and the host's domains as `*.example.com`.
    pub fn scopes(&self) -> Vec<String> {
        let name = self.name();
        let mut scopes = Vec::new();
        scopes.extend(self.digest.map(|digest| format!("{name}@{digest}")));
        scopes.extend(self.tag.as_ref().map(|tag| format!("{name}:{tag}")));
        let mut rest = Some(name.as_str());
        while let Some(scope) = rest {
            scopes.push(scope.to_owned());
            rest = scope.rsplit_once('/').map(|(above, _)| above);
        }
        let mut host = self.domain.split(':').next().unwrap_or_default();
        while let Some((_, above)) = host.split_once('.') {
            scopes.push(format!("*.{above}"));
            host = above;
        }
        scopes
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(ReferenceError::Digest)?)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (domain, path) = split_domain(name);
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong { found: domain.len() + 1 + path.len() });
        }
        if !is_domain(domain) {
            return Err(ReferenceError::Domain { found: cut(domain) });
        }
        if !path.split('/').all(is_component) {
            return Err(ReferenceError::Path { found: cut(&path) });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag { found: cut(tag) });
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

impl Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// Host and path; a first part that could not be a host belongs to the path.
fn split_domain(name: &str) -> (&str, String) {
    let first = name.split_once('/').filter(|(first, _)| {
        first.contains(['.', ':']) || *first == "localhost" || first.chars().any(char::is_uppercase)
    });
    let (domain, path) = first.unwrap_or((DEFAULT_DOMAIN, name));
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain, format!("{OFFICIAL}/{path}"));
    }
    (domain, path.to_owned())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = bracketed.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
    });
    (address || host.split('.').all(label)) && port.is_none_or(digits)
}

/// Letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separators = text.split(|c: char| c.is_ascii() && u8::try_from(c).is_ok_and(word));
    let between = |run: &str| {
        run.is_empty() || run == "." || run == "_" || run == "__" || run.bytes().all(|byte| byte == b'-')
    };
    let ends = text.bytes().next().is_some_and(word) && text.bytes().last().is_some_and(word);
    ends && separators.all(between)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let all = text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    (1..=MAX_TAG).contains(&text.len()) && all && text.bytes().next().is_some_and(word)
}

fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        text.parse::<Reference>().expect("a reference").to_string()
    }

    #[test]
    fn short_names_are_those_of_docker_hub() {
        assert_eq!(normal("busybox"), "docker.io/library/busybox");
        assert_eq!(normal("user/app:1"), "docker.io/user/app:1");
        assert_eq!(normal("index.docker.io/app"), "docker.io/library/app");
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(normal("localhost:5000/app"), "localhost:5000/app");
        assert_eq!(normal("registry.example.com:5000/a/b:v1"), "registry.example.com:5000/a/b:v1");
    }

    #[test]
    fn tag_and_digest_may_both_be_there() {
        let digest = Digest::of(b"");
        let text = format!("r.example.com/app:v1@{digest}");
        assert_eq!(normal(&text), text);
    }

    #[test]
    fn separators_must_be_between_words() {
        for bad in ["r.io/-a", "r.io/a-", "r.io/a..b", "r.io/a___b", "r.io/a//b", "r.io/A", "r.io/a._b", ""] {
            assert!(matches!(bad.parse::<Reference>(), Err(ReferenceError::Path { .. })), "{bad}");
        }
        assert_eq!(normal("r.io/a--b__c.d"), "r.io/a--b__c.d");
    }

    #[test]
    fn a_tag_that_begins_with_a_dot_is_refused() {
        assert!(matches!("app:.x".parse::<Reference>(), Err(ReferenceError::Tag { .. })));
    }

    #[test]
    fn scopes_go_from_narrow_to_wide() {
        let scopes = "a.example.com:5000/x/y:v1".parse::<Reference>().expect("a reference").scopes();
        let expected = [
            "a.example.com:5000/x/y:v1",
            "a.example.com:5000/x/y",
            "a.example.com:5000/x",
            "a.example.com:5000",
            "*.example.com",
            "*.com",
        ];
        assert_eq!(scopes, expected);
    }
}
