//! Reads a policy: every key is parsed now, every name is looked up now, so that judging an image can no longer fail on it.

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, RevocationList};
use std::collections::BTreeMap;

use super::distinguished::Distinguished;
use super::document::{
    Document, RawAttestation, RawIdentity, RawKeyless, RawLevel, RawNotation, RawRequirement, RawSignedBy,
    RawSigstore, RawStoreKind, RawTrustStore, RawVerifyTimestamp,
};
use super::identity::SignedIdentity;
use super::pattern::Pattern;
use super::requirement::{
    Identity, KeySigned, Keyless, Kind, Level, Notation, Policy, Predicate, Requirement, Rule, SignedBy,
    Sigstore, Trust,
};
use crate::artefact::Reference;
use crate::keys::Key;
use crate::openpgp;
use crate::trusted_root::{Authority, TrustedRoot};

/// The longest policy, in bytes. Trusted roots are the most of it.
pub const MAX_POLICY_BYTES: usize = 2 << 20;
/// The most scopes, named requirements, and requirements of one list.
const MAX_SCOPES: usize = 1024;
const MAX_LIST: usize = 32;
const MAX_KEYS: usize = 32;

const LIMITS: Limits = Limits { bytes: MAX_POLICY_BYTES, depth: 16 };

/// Files that a policy names instead of holding their bytes.
pub trait KeyFiles {
    /// The bytes of the file at `path`, or why there are none.
    ///
    /// # Errors
    /// Words for the policy's author.
    fn read(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// Where a policy may name no file: in a guest, whose files the host chose.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl KeyFiles for NoFiles {
    fn read(&self, _: &str) -> Result<Vec<u8>, String> {
        Err("this policy may name no files: give the bytes in base64".to_owned())
    }
}

/// Why text is no policy that can be taken.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not JSON, or members that are not known.
    #[error("this is no policy: {reason}")]
    Json {
        /// What is wrong.
        reason: JsonError,
    },
    /// A list that demands nothing.
    #[error("{pointer}: the list of requirements is empty; to let everything run say insecureAcceptAnything")]
    EmptyList {
        /// Where.
        pointer: String,
    },
    /// More than anything real.
    #[error("{pointer}: {found} entries, at most {limit} are read")]
    TooMany {
        /// Where.
        pointer: String,
        /// Number found.
        found: usize,
        /// Most that are read.
        limit: usize,
    },
    /// Something that this version cannot check.
    #[error("{pointer}: {what} is not supported by this version")]
    Unsupported {
        /// Where.
        pointer: String,
        /// What.
        what: &'static str,
    },
    /// A value that cannot be what it should be.
    #[error("{pointer}: {reason}")]
    Value {
        /// Where.
        pointer: String,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// A member that must be there once, in one of its forms.
    #[error("{pointer}: give exactly one of {members}")]
    Choice {
        /// Where.
        pointer: String,
        /// The forms.
        members: &'static str,
    },
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`]; a policy with one fault is none.
    pub fn parse(text: &[u8], files: &dyn KeyFiles) -> Result<Self, PolicyError> {
        let document: Document = read_json(text, LIMITS).map_err(|reason| PolicyError::Json { reason })?;
        bounded("/requirements", document.requirements.len(), MAX_SCOPES)?;
        let reader = Reader { files, named: &document.requirements };
        for name in document.requirements.keys() {
            reader.named(name)?;
        }
        let default = reader.rule("/default".to_owned(), &document.default)?;
        let mut docker = Vec::new();
        for (transport, scopes) in &document.transports {
            bounded("/transports", scopes.len(), MAX_SCOPES)?;
            let ours = is_ours(transport)?;
            for (scope, list) in scopes {
                let pointer = format!("/transports/{}/{}", escaped(transport), escaped(scope));
                let rule = reader.rule(pointer.clone(), list)?;
                if ours {
                    check_scope(scope).map_err(|reason| PolicyError::Value { pointer, reason })?;
                    docker.push((scope.clone(), rule));
                }
            }
        }
        Ok(Self { default, docker })
    }
}

struct Reader<'a> {
    files: &'a dyn KeyFiles,
    named: &'a BTreeMap<String, RawRequirement>,
}

impl Reader<'_> {
    fn rule(&self, pointer: String, list: &[RawRequirement]) -> Result<Rule, PolicyError> {
        if list.is_empty() {
            return Err(PolicyError::EmptyList { pointer });
        }
        bounded(&pointer, list.len(), MAX_LIST)?;
        let requirements = list
            .iter()
            .enumerate()
            .map(|(index, raw)| self.requirement(format!("{pointer}/{index}"), raw))
            .collect::<Result<Vec<Requirement>, PolicyError>>()?;
        Ok(Rule { pointer, requirements })
    }

    fn requirement(&self, pointer: String, raw: &RawRequirement) -> Result<Requirement, PolicyError> {
        let kind = match raw {
            RawRequirement::KOfN { k, of } => self.at_least(&pointer, *k, of)?,
            other => self.single(&pointer, other)?,
        };
        Ok(Requirement { pointer, kind })
    }

    /// A requirement that leans on no other.
    fn single(&self, pointer: &str, raw: &RawRequirement) -> Result<Kind, PolicyError> {
        let unsupported = |what| PolicyError::Unsupported { pointer: pointer.to_owned(), what };
        match raw {
            RawRequirement::InsecureAcceptAnything {} => Ok(Kind::Accept),
            RawRequirement::Reject {} => Ok(Kind::Reject),
            RawRequirement::SigstoreSigned(raw) => {
                Ok(Kind::Sigstore(Box::new(self.sigstore(pointer, raw, Predicate::Signature)?)))
            }
            RawRequirement::Keyless(raw) => {
                Ok(Kind::Sigstore(Box::new(self.keyless(pointer, raw, Predicate::Signature)?)))
            }
            RawRequirement::Attestation(raw) => Ok(Kind::Sigstore(Box::new(self.attestation(pointer, raw)?))),
            RawRequirement::KOfN { .. } => Err(unsupported("kOfN inside kOfN")),
            RawRequirement::SignedBy(raw) => Ok(Kind::SignedBy(Box::new(self.signed_by(pointer, raw)?))),
            RawRequirement::Notation(raw) => Ok(Kind::Notation(Box::new(self.notation(pointer, raw)?))),
        }
    }

    fn named(&self, name: &str) -> Result<Requirement, PolicyError> {
        let pointer = format!("/requirements/{}", escaped(name));
        let raw = self.named.get(name).ok_or_else(|| PolicyError::Value {
            pointer: pointer.clone(),
            reason: "no requirement has this name".to_owned(),
        })?;
        let kind = self.single(&pointer, raw)?;
        match kind {
            Kind::Notation(notation) if notation.level == Level::Audit => Err(PolicyError::Value {
                pointer,
                reason: "level audit admits whoever signed: it cannot count as one of several signers"
                    .to_owned(),
            }),
            Kind::Sigstore(_) | Kind::Notation(_) | Kind::SignedBy(_) => Ok(Requirement { pointer, kind }),
            _ => Err(PolicyError::Value {
                pointer,
                reason: "only requirements of a signature can be named: they have a signer".to_owned(),
            }),
        }
    }

    fn at_least(&self, pointer: &str, k: usize, of: &[String]) -> Result<Kind, PolicyError> {
        bounded(pointer, of.len(), MAX_LIST)?;
        let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
        if k == 0 || k > of.len() {
            return Err(fault(format!("k is {k}, it may be 1 to {}", of.len())));
        }
        let mut all: Vec<(String, Requirement)> = Vec::new();
        for name in of {
            if all.iter().any(|(other, _)| other == name) {
                return Err(fault(format!("{name:?} is named twice")));
            }
            all.push((name.clone(), self.named(name)?));
        }
        Ok(Kind::AtLeast { k, of: all })
    }

    fn sigstore(
        &self,
        pointer: &str,
        raw: &RawSigstore,
        predicate: Predicate,
    ) -> Result<Sigstore, PolicyError> {
        let unsupported = |what| PolicyError::Unsupported { pointer: pointer.to_owned(), what };
        if raw.fulcio.is_some() {
            return Err(unsupported("fulcio in sigstoreSigned: say keyless with a trusted root; it"));
        }
        if raw.pki.is_some() {
            return Err(unsupported("pki in sigstoreSigned"));
        }
        let keys = self.bytes(pointer, &Forms::keys(raw))?;
        if keys.is_empty() {
            return Err(PolicyError::Choice {
                pointer: pointer.to_owned(),
                members: "keyPath, keyPaths, keyData, keyDatas",
            });
        }
        let logs = self.bytes(pointer, &Forms::logs(raw))?;
        let trust =
            Trust::Keys(KeySigned { keys: parse_keys(pointer, &keys)?, logs: parse_keys(pointer, &logs)? });
        let identity = self.identity(pointer, raw.signed_identity.as_ref())?;
        let not_before = time(pointer, raw.not_before.as_deref())?;
        if not_before.is_some() && logs.is_empty() {
            let reason =
                "notBefore needs a time that others vouch for: give rekorPublicKeyData too".to_owned();
            return Err(PolicyError::Value { pointer: pointer.to_owned(), reason });
        }
        Ok(Sigstore { trust, identity, predicate, not_before })
    }

    fn keyless(
        &self,
        pointer: &str,
        raw: &RawKeyless,
        predicate: Predicate,
    ) -> Result<Sigstore, PolicyError> {
        let forms = Forms {
            members: "trustedRootPath, trustedRootData",
            paths: [raw.trusted_root_path.as_ref().map(std::slice::from_ref), None],
            datas: [raw.trusted_root_data.as_ref().map(std::slice::from_ref), None],
        };
        let roots = self.bytes(pointer, &forms)?;
        let [root] = roots.as_slice() else {
            return Err(PolicyError::Choice { pointer: pointer.to_owned(), members: forms.members });
        };
        let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
        let root = TrustedRoot::parse(root).map_err(|error| fault(error.to_string()))?;
        if raw.identities.is_empty() {
            return Err(fault("identities is empty: name who may sign".to_owned()));
        }
        bounded(pointer, raw.identities.len(), MAX_LIST)?;
        let identities = raw.identities.iter().map(|raw| identity(pointer, raw));
        let identities = identities.collect::<Result<Vec<Identity>, PolicyError>>()?;
        Ok(Sigstore {
            trust: Trust::Keyless(Box::new(Keyless { identities, root })),
            identity: self.identity(pointer, raw.signed_identity.as_ref())?,
            predicate,
            not_before: time(pointer, raw.not_before.as_deref())?,
        })
    }

    /// A statement names digests and no image: only they count.
    fn attestation(&self, pointer: &str, raw: &RawAttestation) -> Result<Sigstore, PolicyError> {
        let predicate = Predicate::Attestation(raw.predicate_type.clone());
        let named = |identity: Option<&SignedIdentity>| identity.is_some_and(|it| !it.is_digest_alone());
        let mut sigstore = match (&raw.sigstore_signed, &raw.keyless) {
            (Some(keys), None) if !named(keys.signed_identity.as_ref()) => {
                self.sigstore(pointer, keys, predicate)?
            }
            (None, Some(keyless)) if !named(keyless.signed_identity.as_ref()) => {
                self.keyless(pointer, keyless, predicate)?
            }
            (Some(_), None) | (None, Some(_)) => {
                let reason = "a statement says no name: leave signedIdentity out".to_owned();
                return Err(PolicyError::Value { pointer: pointer.to_owned(), reason });
            }
            _ => {
                let members = "sigstoreSigned, keyless";
                return Err(PolicyError::Choice { pointer: pointer.to_owned(), members });
            }
        };
        sigstore.identity = SignedIdentity::MatchDigest {};
        Ok(sigstore)
    }

    fn notation(&self, pointer: &str, raw: &RawNotation) -> Result<Notation, PolicyError> {
        let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
        let level = match raw.level {
            RawLevel::Strict => Level::Strict,
            RawLevel::Permissive => Level::Permissive,
            RawLevel::Audit => Level::Audit,
            RawLevel::Skip => {
                return Err(fault("level skip looks at nothing: say insecureAcceptAnything".to_owned()));
            }
        };
        let most =
            raw.trust_stores.len().max(raw.trusted_identities.len()).max(raw.revocation_list_datas.len());
        bounded(pointer, most, MAX_LIST)?;
        let (mut authorities, mut clocks) = (Vec::new(), Vec::new());
        for store in &raw.trust_stores {
            let read = self.store(pointer, store)?;
            match store.kind {
                RawStoreKind::Ca => authorities.extend(read),
                RawStoreKind::Tsa => {
                    clocks.extend(read.into_iter().map(|one| Authority::of_chain(vec![one])))
                }
            }
        }
        if raw.verify_timestamp.is_some() && clocks.is_empty() {
            return Err(fault("verifyTimestamp needs a trust store of type tsa".to_owned()));
        }
        let clocks_after_expiry = matches!(raw.verify_timestamp, Some(RawVerifyTimestamp::AfterCertExpiry));
        let identities = raw.trusted_identities.iter().map(|text| Distinguished::parse(text).map_err(fault));
        let identities = identities.collect::<Result<Vec<Distinguished>, PolicyError>>()?;
        if authorities.is_empty() || identities.is_empty() {
            return Err(fault(
                "name at least one certificate of type ca and one trusted identity".to_owned(),
            ));
        }
        let lists = raw.revocation_list_datas.iter().map(|data| {
            let bytes = Base64::decode_vec(data).map_err(|_| fault("this is no base64".to_owned()))?;
            RevocationList::from_file(&bytes).map_err(|error| fault(error.to_string()))
        });
        let lists = lists.collect::<Result<Vec<RevocationList>, PolicyError>>()?;
        Ok(Notation { level, authorities, clocks, clocks_after_expiry, identities, lists })
    }

    fn signed_by(&self, pointer: &str, raw: &RawSignedBy) -> Result<SignedBy, PolicyError> {
        if raw.key_type != "GPGKeys" {
            let what = "a keyType other than GPGKeys";
            return Err(PolicyError::Unsupported { pointer: pointer.to_owned(), what });
        }
        let forms = Forms {
            members: "keyPath, keyPaths, keyData",
            paths: [raw.key_path.as_ref().map(std::slice::from_ref), raw.key_paths.as_deref()],
            datas: [raw.key_data.as_ref().map(std::slice::from_ref), None],
        };
        let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
        let keyrings = self.bytes(pointer, &forms)?;
        let keys = openpgp::Key::read_all(&keyrings).map_err(|error| fault(error.to_string()))?;
        if keys.is_empty() {
            return Err(PolicyError::Choice { pointer: pointer.to_owned(), members: forms.members });
        }
        bounded(pointer, keys.len(), MAX_KEYS)?;
        Ok(SignedBy { keys, identity: self.identity(pointer, raw.signed_identity.as_ref())? })
    }

    fn store(&self, pointer: &str, store: &RawTrustStore) -> Result<Vec<Certificate>, PolicyError> {
        let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
        let forms = Forms {
            members: "certificatePaths, certificateDatas",
            paths: [store.certificate_paths.as_deref(), None],
            datas: [store.certificate_datas.as_deref(), None],
        };
        let mut all = Vec::new();
        for bytes in self.bytes(pointer, &forms)? {
            all.extend(Certificate::from_file(&bytes).map_err(|error| fault(error.to_string()))?);
        }
        Ok(all)
    }

    fn identity(&self, pointer: &str, raw: Option<&SignedIdentity>) -> Result<SignedIdentity, PolicyError> {
        let identity = raw.cloned().unwrap_or_default();
        match identity.fault() {
            Some(reason) => Err(PolicyError::Value { pointer: pointer.to_owned(), reason }),
            None => Ok(identity),
        }
    }

    /// The bytes that one of the forms gives; nothing if there is none.
    fn bytes(&self, pointer: &str, forms: &Forms<'_>) -> Result<Vec<Vec<u8>>, PolicyError> {
        let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
        let given = forms.paths.iter().chain(&forms.datas).flatten().count();
        if given > 1 {
            return Err(PolicyError::Choice { pointer: pointer.to_owned(), members: forms.members });
        }
        let paths = forms.paths.iter().copied().flatten().flatten();
        let paths = paths.map(|path| self.files.read(path).map_err(|why| fault(format!("{path}: {why}"))));
        let datas = forms.datas.iter().copied().flatten().flatten();
        let decode =
            |data: &String| Base64::decode_vec(data).map_err(|_| fault("this is no base64".to_owned()));
        let all: Vec<Vec<u8>> = paths.chain(datas.map(decode)).collect::<Result<_, _>>()?;
        if given == 1 && all.is_empty() {
            return Err(fault(format!("one of {} is an empty list", forms.members)));
        }
        bounded(pointer, all.len(), MAX_KEYS)?;
        Ok(all)
    }
}

/// The members of which one at most may be there: paths of files, or bytes.
struct Forms<'a> {
    members: &'static str,
    paths: [Option<&'a [String]>; 2],
    datas: [Option<&'a [String]>; 2],
}

impl<'a> Forms<'a> {
    fn keys(raw: &'a RawSigstore) -> Self {
        Self {
            members: "keyPath, keyPaths, keyData, keyDatas",
            paths: [raw.key_path.as_ref().map(std::slice::from_ref), raw.key_paths.as_deref()],
            datas: [raw.key_data.as_ref().map(std::slice::from_ref), raw.key_datas.as_deref()],
        }
    }

    fn logs(raw: &'a RawSigstore) -> Self {
        let one = |member: &'a Option<String>| member.as_ref().map(std::slice::from_ref);
        Self {
            members: "rekorPublicKeyPath, rekorPublicKeyPaths, rekorPublicKeyData, rekorPublicKeyDatas",
            paths: [one(&raw.rekor_public_key_path), raw.rekor_public_key_paths.as_deref()],
            datas: [one(&raw.rekor_public_key_data), raw.rekor_public_key_datas.as_deref()],
        }
    }
}

fn parse_keys(pointer: &str, all: &[Vec<u8>]) -> Result<Vec<Key>, PolicyError> {
    let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
    all.iter().map(|bytes| Key::read(bytes).map_err(|error| fault(error.to_string()))).collect()
}

fn identity(pointer: &str, raw: &RawIdentity) -> Result<Identity, PolicyError> {
    let subject = match (&raw.subject, &raw.subject_pattern) {
        (Some(exact), None) => Pattern::exact(exact),
        (None, Some(pattern)) => Pattern::with_stars(pattern),
        _ => {
            let members = "subject, subjectPattern";
            return Err(PolicyError::Choice { pointer: pointer.to_owned(), members });
        }
    };
    let pair = Pattern::exact(&raw.issuer).and_then(|issuer| Ok(Identity { issuer, subject: subject? }));
    pair.map_err(|error| PolicyError::Value { pointer: pointer.to_owned(), reason: error.to_string() })
}

fn time(pointer: &str, text: Option<&str>) -> Result<Option<UnixTime>, PolicyError> {
    let fault = |reason: String| PolicyError::Value { pointer: pointer.to_owned(), reason };
    text.map(|text| text.parse::<UnixTime>().map_err(|error| fault(error.to_string()))).transpose()
}

fn bounded(pointer: &str, found: usize, limit: usize) -> Result<(), PolicyError> {
    if found > limit {
        return Err(PolicyError::TooMany { pointer: pointer.to_owned(), found, limit });
    }
    Ok(())
}

/// A part of a JSON pointer (RFC 6901, section 3).
fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

/// Transports of containers-policy.json by which no image of a pod comes: their rules are read and decide about nothing here.
const OTHER_TRANSPORTS: [&str; 10] = [
    "atomic",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
];

/// Whether rules of `transport` decide about images; one that is not known is a mistake, and its rules would never count.
fn is_ours(transport: &str) -> Result<bool, PolicyError> {
    if transport == "docker" || OTHER_TRANSPORTS.contains(&transport) {
        return Ok(transport == "docker");
    }
    let reason = "no transport has this name: rules about images stand under docker".to_owned();
    Err(PolicyError::Value { pointer: format!("/transports/{}", escaped(transport)), reason })
}

/// A scope that no image's name could ever have is a mistake, and the rule below it would silently never count.
fn check_scope(scope: &str) -> Result<(), String> {
    if scope.is_empty() {
        return Ok(());
    }
    if let Some(domain) = scope.strip_prefix("*.") {
        let fits = format!("a.{domain}/x").parse::<Reference>();
        return match fits {
            Ok(found) if found.domain() == format!("a.{domain}") && !domain.contains([':', '/']) => Ok(()),
            _ => Err(format!("{scope:?} is no domain with all below it: write it as in *.example.com")),
        };
    }
    // The scope as a whole name, as a host or namespace with one repository below it.
    let names = [scope.to_owned(), format!("{scope}/x")].map(|name| name.parse::<Reference>());
    if names.iter().flatten().any(|name| name.scopes().iter().any(|found| found == scope)) {
        return Ok(());
    }
    match &names {
        [Ok(name), _] if name.tag().is_some() && name.digest().is_some() => {
            Err(format!("{scope:?} has tag and digest: name an image by one of them"))
        }
        [Err(error), Err(_)] => Err(error.to_string()),
        _ => Err(format!("{scope:?} must be written in full, as in docker.io/library/busybox")),
    }
}
