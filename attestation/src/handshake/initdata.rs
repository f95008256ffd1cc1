//! Initdata: what the pod's author gives the guest at launch, whose digest the hardware carries.
//!
//! ```toml
//! version = "0.1.0"
//! algorithm = "sha256"
//! [data]
//! "policy.rego" = '''…'''
//! ```
//! The digest is over the text as it came, for writing it anew would change it. It must have exactly the length of the
//! hardware's field: elsewhere a longer one is cut, and then the hardware vouches for less than the name of the hash says.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::hash::HashAlgorithm;

/// The longest initdata that is read, in bytes.
pub const MAX_INITDATA_BYTES: usize = 1 << 20;

/// Initdata whose form is sound. Nobody has compared its digest yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitData {
    body: String,
    algorithm: HashAlgorithm,
    files: BTreeMap<String, String>,
}

/// Why initdata is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitDataError {
    /// Longer than anything real.
    #[error("initdata may have {MAX_INITDATA_BYTES} bytes, this has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Another format than TOML.
    #[error("initdata of format {found:?} is not understood, \"toml\" is")]
    Format {
        /// Format found, cut to 32 characters.
        found: String,
    },
    /// Not TOML, or not of this form.
    #[error("this is no initdata: {reason}")]
    Form {
        /// What is wrong.
        reason: String,
    },
    /// Another version.
    #[error("initdata of version {found:?} is not understood, \"0.1.0\" is")]
    Version {
        /// Version found, cut to 32 characters.
        found: String,
    },
    /// A hash that is not spoken here.
    #[error("initdata names the hash {found:?}: sha256, sha384 and sha512 are understood")]
    Algorithm {
        /// Name found, cut to 32 characters.
        found: String,
    },
    /// A digest of another length than the hardware's field.
    #[error(
        "initdata hashed with {algorithm} has {found} bytes, the hardware's field has {field}: use the hash that fills it"
    )]
    Length {
        /// Hash that the initdata names.
        algorithm: &'static str,
        /// Length of its digest.
        found: usize,
        /// Length of the field.
        field: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: String,
    algorithm: String,
    #[serde(default)]
    data: toml::Table,
}

impl InitData {
    /// Reads initdata of `format`.
    ///
    /// # Errors
    /// [`InitDataError`]
    pub fn parse(format: &str, body: String) -> Result<Self, InitDataError> {
        let cut = |text: &str| text.chars().take(32).collect();
        if body.len() > MAX_INITDATA_BYTES {
            return Err(InitDataError::TooLong { found: body.len() });
        }
        if format != "toml" {
            return Err(InitDataError::Format { found: cut(format) });
        }
        let wire: Wire = toml::from_str(&body)
            .map_err(|error| InitDataError::Form { reason: error.message().chars().take(200).collect() })?;
        if wire.version != "0.1.0" {
            return Err(InitDataError::Version { found: cut(&wire.version) });
        }
        let algorithm = HashAlgorithm::from_name(&wire.algorithm)
            .ok_or_else(|| InitDataError::Algorithm { found: cut(&wire.algorithm) })?;
        // What is no text is nobody's file; it is part of the digest like all else.
        let text = |(name, value): (String, toml::Value)| match value {
            toml::Value::String(text) => Some((name, text)),
            _ => None,
        };
        let files = wire.data.into_iter().filter_map(text).collect();
        Ok(Self { body, algorithm, files })
    }

    /// The text as it came.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The file `name` in it, such as `aa.toml`.
    pub fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// The hash that it names.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Digest of the text.
    pub fn digest(&self) -> Vec<u8> {
        self.algorithm.digest(self.body.as_bytes())
    }

    /// The digest for a hardware field of `N` bytes.
    ///
    /// # Errors
    /// [`InitDataError::Length`]
    pub fn field<const N: usize>(&self) -> Result<[u8; N], InitDataError> {
        let digest = self.digest();
        let found = digest.len();
        let length = InitDataError::Length { algorithm: self.algorithm.name(), found, field: N };
        digest.try_into().map_err(|_| length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(algorithm: &str) -> String {
        format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n\"aa.toml\" = \"x=1\"")
    }

    #[test]
    fn the_digest_is_that_of_the_text_as_it_came() {
        let one = InitData::parse("toml", text("sha256")).expect("initdata");
        let other = InitData::parse("toml", text("sha256") + "\n").expect("initdata");
        assert_eq!(
            one.field::<32>().expect("32 bytes").to_vec(),
            HashAlgorithm::Sha256.digest(text("sha256").as_bytes())
        );
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn its_files_are_found_by_name() {
        let data = InitData::parse("toml", text("sha256")).expect("initdata");
        assert_eq!((data.file("aa.toml"), data.file("cdh.toml")), (Some("x=1"), None));
    }

    #[test]
    fn a_digest_that_does_not_fill_the_field_is_refused_and_not_cut() {
        let data = InitData::parse("toml", text("sha384")).expect("initdata");
        assert!(data.field::<48>().is_ok());
        assert_eq!(
            data.field::<32>(),
            Err(InitDataError::Length { algorithm: "sha384", found: 48, field: 32 })
        );
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let twice = text("sha256").replace("algorithm", "version");
        assert!(matches!(InitData::parse("toml", twice), Err(InitDataError::Form { .. })));
    }

    #[test]
    fn sm3_is_refused() {
        assert!(matches!(InitData::parse("toml", text("sm3")), Err(InitDataError::Algorithm { .. })));
    }

    #[test]
    fn another_format_is_refused() {
        assert!(matches!(InitData::parse("json", text("sha256")), Err(InitDataError::Format { .. })));
    }
}
