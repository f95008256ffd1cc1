//! A policy that was read, and which part of it decides about an image.

use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, RevocationList};

use super::distinguished::Distinguished;
use super::identity::SignedIdentity;
use super::pattern::Pattern;
use crate::artefact::Reference;
use crate::keys::Key;
use crate::openpgp;
use crate::trusted_root::{Authority, TrustedRoot};

/// A whole policy.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(super) default: Rule,
    pub(super) docker: Vec<(String, Rule)>,
}

/// The requirements of one scope; all must be met.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Where it stands in the policy, as a JSON pointer (RFC 6901).
    pub pointer: String,
    pub(crate) requirements: Vec<Requirement>,
}

/// One thing that an image has to show.
#[derive(Debug, Clone)]
pub struct Requirement {
    /// Where it stands in the policy, as a JSON pointer.
    pub pointer: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Accept,
    Reject,
    Sigstore(Box<Sigstore>),
    Notation(Box<Notation>),
    SignedBy(Box<SignedBy>),
    AtLeast { k: usize, of: Vec<(String, Requirement)> },
}

/// A signature as cosign makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sigstore {
    pub(crate) trust: Trust,
    pub(crate) identity: SignedIdentity,
    pub(crate) predicate: Predicate,
    /// Signatures before this time do not count.
    pub(crate) not_before: Option<UnixTime>,
}

/// Simple signing by one of these OpenPGP keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedBy {
    pub(crate) keys: Vec<openpgp::Key>,
    pub(crate) identity: SignedIdentity,
}

/// A signature as Notation makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notation {
    pub(crate) level: Level,
    pub(crate) authorities: Vec<Certificate>,
    /// If there are any, a time stamp of one is asked for.
    pub(crate) clocks: Vec<Authority>,
    /// Only once a certificate of the signature's has run out.
    pub(crate) clocks_after_expiry: bool,
    pub(crate) identities: Vec<Distinguished>,
    pub(crate) lists: Vec<RevocationList>,
}

/// What of a Notation signature must hold, besides the signature itself and the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// All of it.
    Strict,
    /// That a trusted holder signed; expiry, dates and revocation only warn.
    Permissive,
    /// Nothing more: all else only warns.
    Audit,
}

/// What a signed statement has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Predicate {
    /// The signature of an image.
    Signature,
    /// A statement about an image, of this predicate type.
    Attestation(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    Keys(KeySigned),
    Keyless(Box<Keyless>),
}

/// Signed with one of these keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySigned {
    pub(crate) keys: Vec<Key>,
    /// If there are any, the signature must be in a log of one of these keys.
    pub(crate) logs: Vec<Key>,
}

/// Signed with a key that an authority gave to one of these for minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyless {
    pub(crate) identities: Vec<Identity>,
    pub(crate) root: TrustedRoot,
}

/// Who, by whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) issuer: Pattern,
    pub(crate) subject: Pattern,
}

impl Policy {
    /// The rule that decides about images of the name `reference`.
    pub fn rule_for(&self, reference: &Reference) -> &Rule {
        let scopes = reference.scopes();
        let named = scopes.iter().map(String::as_str).chain(std::iter::once(""));
        let mut rules =
            named.filter_map(|scope| self.docker.iter().find(|(of, _)| of == scope).map(|(_, rule)| rule));
        rules.next().unwrap_or(&self.default)
    }

    /// Every scope with its rule, in the order in which they were written; the last is the default.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &Rule)> {
        let scopes = self.docker.iter().map(|(scope, rule)| (scope.as_str(), rule));
        scopes.chain(std::iter::once(("default", &self.default)))
    }
}

impl Rule {
    /// Whether anything depends on signatures.
    pub(crate) fn looks_at_signatures(&self) -> bool {
        self.requirements.iter().any(|wanted| !matches!(wanted.kind, Kind::Accept | Kind::Reject))
    }

    /// What has to be shown, one line for each requirement.
    pub fn explain(&self) -> Vec<String> {
        self.requirements.iter().map(Requirement::explain).collect()
    }
}

impl Requirement {
    /// Its type, as the policy writes it.
    pub fn kind(&self) -> &'static str {
        match &self.kind {
            Kind::Accept => "insecureAcceptAnything",
            Kind::Reject => "reject",
            Kind::AtLeast { .. } => "kOfN",
            Kind::Notation(_) => "notation",
            Kind::SignedBy(_) => "signedBy",
            Kind::Sigstore(sigstore) => match (&sigstore.predicate, &sigstore.trust) {
                (Predicate::Attestation(_), _) => "attestation",
                (Predicate::Signature, Trust::Keys(_)) => "sigstoreSigned",
                (Predicate::Signature, Trust::Keyless(_)) => "keyless",
            },
        }
    }

    /// What has to be shown, in a sentence.
    pub fn explain(&self) -> String {
        match &self.kind {
            Kind::Accept => "anything runs, signed or not".to_owned(),
            Kind::Reject => "nothing runs".to_owned(),
            Kind::AtLeast { k, of } => {
                let names: Vec<&str> = of.iter().map(|(name, _)| name.as_str()).collect();
                format!("{k} different signers of {}", names.join(", "))
            }
            Kind::Sigstore(sigstore) => sigstore.explain(),
            Kind::Notation(notation) => notation.explain(),
            Kind::SignedBy(by) => {
                let names: Vec<String> = by.keys.iter().map(openpgp::Key::name).collect();
                format!("a signature by {}, for {}", names.join(" or "), by.identity)
            }
        }
    }
}

impl Notation {
    fn explain(&self) -> String {
        let who: Vec<String> = self.identities.iter().map(ToString::to_string).collect();
        let level = match self.level {
            Level::Strict => "strict",
            Level::Permissive => "permissive",
            Level::Audit => "audit",
        };
        format!("a Notation signature by {}, level {level}", who.join(" or "))
    }
}

impl Sigstore {
    fn explain(&self) -> String {
        let what = match &self.predicate {
            Predicate::Signature => "a signature".to_owned(),
            Predicate::Attestation(kind) => format!("a statement of type {kind}"),
        };
        let whose = match &self.trust {
            Trust::Keys(keys) if keys.logs.is_empty() => format!("by one of {} keys", keys.keys.len()),
            Trust::Keys(keys) => format!("by one of {} keys, in a transparency log", keys.keys.len()),
            Trust::Keyless(keyless) => {
                let who = keyless.identities.iter().map(|who| format!("{} of {}", who.subject, who.issuer));
                format!("by {}", who.collect::<Vec<String>>().join(" or "))
            }
        };
        let since = self.not_before.map(|time| format!(", not before {time}")).unwrap_or_default();
        format!("{what} {whose}, for {}{since}", self.identity)
    }
}
