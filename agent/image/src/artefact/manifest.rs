//! Manifests and indexes (OCI image specification 1.1, and Docker's schema 2 that it came from).
//!
//! Members that are not known are passed over, as the specification asks; a document that has the members of both kinds is
//! refused, because readers would disagree about what was signed.

use std::collections::BTreeMap;

use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_protocol::Digest;
use serde::Deserialize;

use super::media_type;

/// The longest manifest or index, in bytes: what registries take at most.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// The most layers of a manifest, and the most manifests of an index.
pub const MAX_ENTRIES: usize = 1024;

const LIMITS: Limits = Limits { bytes: MAX_MANIFEST_BYTES, depth: 16 };
const MANIFESTS: [&str; 2] = [media_type::MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] = [media_type::INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];

/// Names of annotations and what they say.
pub type Annotations = BTreeMap<String, String>;

/// A pointer to bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Annotations of the pointer.
    #[serde(default)]
    pub annotations: Annotations,
    /// What kind of artefact is pointed to, if it is one.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// For which machines, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As Go names it: `amd64`.
    pub architecture: String,
    /// As Go names it: `linux`.
    pub os: String,
}

/// What an image or an artefact is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, from the bottom up.
    pub layers: Vec<Descriptor>,
    /// What it is attached to.
    pub subject: Option<Descriptor>,
    /// What kind of artefact it is: its own word, or the media type of its configuration.
    pub artifact_type: String,
    /// Its annotations.
    pub annotations: Annotations,
}

/// A choice among manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// What there is to choose from.
    pub manifests: Vec<Descriptor>,
    /// Its annotations.
    pub annotations: Annotations,
}

/// Either of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image or artefact.
    Manifest(Box<Manifest>),
    /// A choice.
    Index(Index),
}

/// Why bytes are neither.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or without a member that must be there.
    #[error("this is no manifest: {reason}")]
    Json {
        /// What is wrong.
        reason: JsonError,
    },
    /// An older schema.
    #[error("the manifest has schema version {found}, 2 is supported")]
    Version {
        /// Version found.
        found: u64,
    },
    /// Its media type is that of something else.
    #[error("the document says that it is {found:?}, which is no manifest and no index")]
    MediaType {
        /// Cut to 128 characters.
        found: String,
    },
    /// Members of a manifest and of an index.
    #[error(
        "the document has members of a manifest and of an index, or lacks those of its kind: readers would disagree"
    )]
    Ambiguous,
    /// More than anything real.
    #[error("the manifest has {found} entries, at most {MAX_ENTRIES} are read")]
    Entries {
        /// Number found.
        found: usize,
    },
    /// Bytes with another digest than asked for.
    #[error("the bytes hash to {found}, asked was for {expected}")]
    Digest {
        /// Digest of the bytes.
        found: Digest,
        /// Digest that was asked for.
        expected: Digest,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Annotations,
}

impl Document {
    /// Parses.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw = read_json(bytes, LIMITS).map_err(|reason| ManifestError::Json { reason })?;
        if raw.schema_version != 2 {
            return Err(ManifestError::Version { found: raw.schema_version });
        }
        let entries = raw.layers.as_ref().map_or(0, Vec::len).max(raw.manifests.as_ref().map_or(0, Vec::len));
        if entries > MAX_ENTRIES {
            return Err(ManifestError::Entries { found: entries });
        }
        let says = |kind: &[&str]| raw.media_type.as_deref().is_none_or(|found| kind.contains(&found));
        if !says(&MANIFESTS) && !says(&INDEXES) {
            let found = raw.media_type.unwrap_or_default().chars().take(128).collect();
            return Err(ManifestError::MediaType { found });
        }
        let (as_manifest, as_index) = (says(&MANIFESTS), says(&INDEXES));
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) if as_manifest => {
                let artifact_type = raw.artifact_type.unwrap_or_else(|| config.media_type.clone());
                let (subject, annotations) = (raw.subject, raw.annotations);
                let manifest = Manifest { config, layers, subject, artifact_type, annotations };
                Ok(Document::Manifest(Box::new(manifest)))
            }
            (None, None, Some(manifests)) if as_index => {
                Ok(Document::Index(Index { manifests, annotations: raw.annotations }))
            }
            _ => Err(ManifestError::Ambiguous),
        }
    }

    /// Parses bytes that must have the digest `expected`.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse_expected(bytes: &[u8], expected: &Digest) -> Result<Self, ManifestError> {
        let found = Digest::of(bytes);
        if found != *expected {
            return Err(ManifestError::Digest { found, expected: *expected });
        }
        Self::parse(bytes)
    }
}

impl Index {
    /// The manifest for machines of `os` and `architecture`.
    pub fn for_platform(&self, os: &str, architecture: &str) -> Option<&Descriptor> {
        let fits = |platform: &Platform| platform.os == os && platform.architecture == architecture;
        self.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(fits))
    }

    /// Whether it lists the digest.
    pub fn lists(&self, digest: &Digest) -> bool {
        self.manifests.iter().any(|entry| entry.digest == *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn descriptor() -> Value {
        json!({"mediaType": "a/b", "digest": Digest::of(b"x").to_string(), "size": 1})
    }

    fn parse(document: &Value) -> Result<Document, ManifestError> {
        Document::parse(document.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_is_read() {
        let document =
            json!({"schemaVersion": 2, "config": descriptor(), "layers": [descriptor()], "new": 1});
        let Ok(Document::Manifest(manifest)) = parse(&document) else { panic!("no manifest") };
        assert_eq!((manifest.layers.len(), manifest.artifact_type.as_str()), (1, "a/b"));
    }

    #[test]
    fn a_document_of_both_kinds_is_refused() {
        let document =
            json!({"schemaVersion": 2, "config": descriptor(), "layers": [], "manifests": [descriptor()]});
        assert!(matches!(parse(&document), Err(ManifestError::Ambiguous)));
    }

    #[test]
    fn an_index_that_says_it_is_a_manifest_is_refused() {
        let document = json!({"schemaVersion": 2, "mediaType": MANIFESTS[0], "manifests": [descriptor()]});
        assert!(matches!(parse(&document), Err(ManifestError::Ambiguous)));
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused() {
        let text = br#"{"schemaVersion":2,"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(text), Err(ManifestError::Json { .. })));
    }

    #[test]
    fn schema_one_is_refused() {
        let document = json!({"schemaVersion": 1, "manifests": []});
        assert!(matches!(parse(&document), Err(ManifestError::Version { found: 1 })));
    }

    #[test]
    fn more_entries_than_the_limit_are_refused() {
        let document = json!({"schemaVersion": 2, "manifests": vec![descriptor(); MAX_ENTRIES + 1]});
        assert!(matches!(parse(&document), Err(ManifestError::Entries { found: 1025 })));
    }

    #[test]
    fn other_bytes_than_asked_for_are_refused() {
        let refused = Document::parse_expected(b"{}", &Digest::of(b"[]"));
        assert!(matches!(refused, Err(ManifestError::Digest { .. })));
    }
}
