//! Signature objects that somebody attached to an image, as bytes by their kind. Whoever brought them may have invented them.

use coffer_protocol::Digest;

use super::manifest::{Descriptor, Manifest};

/// The most signature objects that are looked at for one image.
pub const MAX_ATTACHED: usize = 64;
/// The longest signature object, in bytes.
pub const MAX_OBJECT_BYTES: usize = 1 << 20;

/// The most bytes of all signature objects of one image together.
pub const MAX_EVIDENCE_BYTES: usize = 16 << 20;

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const NOTATION: &str = "application/vnd.cncf.notary.signature";
const JWS: &str = "application/jose+json";
const COSE: &str = "application/cose";
/// What a signed OpenPGP message is called as a layer. Lookaside storage has it as a file: whoever fetches it makes an artefact.
pub const OPEN_PGP: &str = "application/vnd.dev.coffer.openpgp.v1";

/// One signature object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// cosign's older scheme: a payload, and the rest in annotations of its layer.
    SimpleSigning {
        /// The payload (`application/vnd.dev.cosign.simplesigning.v1+json`).
        payload: Vec<u8>,
        /// What its annotations say.
        notes: Box<SignatureNotes>,
    },
    /// A Sigstore bundle, version 0.3.
    Bundle(Vec<u8>),
    /// Notation's envelope in JWS.
    NotationJws(Vec<u8>),
    /// Notation's envelope in COSE.
    NotationCose(Vec<u8>),
    /// A signed OpenPGP message, as lookaside storage has it.
    OpenPgp(Vec<u8>),
}

/// The annotations of cosign's older scheme.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureNotes {
    /// `dev.cosignproject.cosign/signature`: the signature in base64.
    pub signature: String,
    /// `dev.sigstore.cosign/certificate`: the signer's certificate in PEM.
    pub certificate: Option<String>,
    /// `dev.sigstore.cosign/bundle`: the transparency log's promise, in JSON.
    pub log: Option<String>,
    /// `dev.sigstore.cosign/rfc3161timestamp`: a time stamp, in JSON.
    pub timestamp: Option<String>,
}

/// All signature objects that are given for one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence(Vec<Attached>);

/// Why an object cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachedError {
    /// More than is looked at.
    #[error("more than {MAX_ATTACHED} signature objects are attached to the image")]
    TooMany,
    /// Longer than is read.
    #[error("a signature object may have {MAX_OBJECT_BYTES} bytes, this one has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// More bytes than are read.
    #[error("the signature objects of an image may have {MAX_EVIDENCE_BYTES} bytes together")]
    TooMuch,
    /// A blob that is not there.
    #[error("the signature object {digest} is named and was not given")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// A blob with other bytes.
    #[error("the signature object {expected} hashes to {found}")]
    Digest {
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the bytes.
        found: Digest,
    },
}

impl Attached {
    /// What kind it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Attached::SimpleSigning { .. } => "cosign payload",
            Attached::Bundle(_) => "sigstore bundle",
            Attached::NotationJws(_) => "notation JWS",
            Attached::NotationCose(_) => "notation COSE",
            Attached::OpenPgp(_) => "OpenPGP message",
        }
    }

    fn length(&self) -> usize {
        match self {
            Attached::SimpleSigning { payload, notes } => {
                let text = |note: &Option<String>| note.as_ref().map_or(0, String::len);
                let notes = notes.signature.len()
                    + text(&notes.certificate)
                    + text(&notes.log)
                    + text(&notes.timestamp);
                payload.len() + notes
            }
            Attached::Bundle(bytes)
            | Attached::NotationJws(bytes)
            | Attached::NotationCose(bytes)
            | Attached::OpenPgp(bytes) => bytes.len(),
        }
    }
}

impl Evidence {
    /// Adds one object.
    ///
    /// # Errors
    /// [`AttachedError`] for one too many, or too long, or too much of all.
    pub fn add(&mut self, attached: Attached) -> Result<(), AttachedError> {
        if self.0.len() >= MAX_ATTACHED {
            return Err(AttachedError::TooMany);
        }
        if attached.length() > MAX_OBJECT_BYTES {
            return Err(AttachedError::TooLong { found: attached.length() });
        }
        let whole: usize = self.0.iter().map(Attached::length).sum();
        if whole.saturating_add(attached.length()) > MAX_EVIDENCE_BYTES {
            return Err(AttachedError::TooMuch);
        }
        self.0.push(attached);
        Ok(())
    }

    /// Adds the signature objects of an artefact's manifest; `blob` gives the bytes of a digest. Answers how many there were:
    /// an artefact that is none of the known kinds has none.
    ///
    /// # Errors
    /// [`AttachedError`]
    pub fn add_artefact(
        &mut self,
        manifest: &Manifest,
        blob: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<usize, AttachedError> {
        let before = self.0.len();
        for layer in &manifest.layers {
            let Some(kind) = Kind::of(manifest, layer) else { continue };
            let bytes = blob(&layer.digest).ok_or(AttachedError::Missing { digest: layer.digest })?;
            let found = Digest::of(&bytes);
            if found != layer.digest {
                return Err(AttachedError::Digest { expected: layer.digest, found });
            }
            self.add(kind.attach(bytes, layer))?;
        }
        Ok(self.0.len() - before)
    }

    /// All of them.
    pub fn attached(&self) -> &[Attached] {
        &self.0
    }
}

/// Kinds that lie in registries.
#[derive(Clone, Copy)]
enum Kind {
    SimpleSigning,
    Bundle,
    Jws,
    Cose,
    OpenPgp,
}

impl Kind {
    fn of(manifest: &Manifest, layer: &Descriptor) -> Option<Self> {
        match layer.media_type.as_str() {
            SIMPLE_SIGNING => Some(Kind::SimpleSigning),
            BUNDLE => Some(Kind::Bundle),
            OPEN_PGP => Some(Kind::OpenPgp),
            JWS if manifest.artifact_type == NOTATION => Some(Kind::Jws),
            COSE if manifest.artifact_type == NOTATION => Some(Kind::Cose),
            _ => None,
        }
    }

    fn attach(self, bytes: Vec<u8>, layer: &Descriptor) -> Attached {
        match self {
            Kind::Bundle => Attached::Bundle(bytes),
            Kind::Jws => Attached::NotationJws(bytes),
            Kind::Cose => Attached::NotationCose(bytes),
            Kind::OpenPgp => Attached::OpenPgp(bytes),
            Kind::SimpleSigning => {
                let note = |name: &str| layer.annotations.get(name).filter(|note| !note.is_empty()).cloned();
                let notes = SignatureNotes {
                    signature: note("dev.cosignproject.cosign/signature").unwrap_or_default(),
                    certificate: note("dev.sigstore.cosign/certificate"),
                    log: note("dev.sigstore.cosign/bundle"),
                    timestamp: note("dev.sigstore.cosign/rfc3161timestamp"),
                };
                Attached::SimpleSigning { payload: bytes, notes: Box::new(notes) }
            }
        }
    }
}
