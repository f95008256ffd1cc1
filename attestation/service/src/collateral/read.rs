//! Proves that bytes are the item that they are taken for, before they are kept or used.

use coffer_attestation::snp::{Endorsement, EndorsementError, Root, SigningKey, Tcb, amd_authorities};
use coffer_attestation::snp::{Generation, TrustedRoots};
use coffer_attestation::tdx;
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, CertificateError, Edition, RevocationError, RevocationList};

use super::item::Item;

/// Whom it is held against.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Roots of SNP.
    pub snp: TrustedRoots,
    /// Roots of TDX.
    pub tdx: tdx::TrustedRoots,
}

/// An item that verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What it says.
    pub content: Content,
    /// Since when it is good.
    pub from: UnixTime,
    /// Until when.
    pub until: UnixTime,
    /// Of lists and statements, which ones they are. What has none has no newer one either.
    pub editions: Vec<Edition>,
}

/// What an item says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A revocation list.
    List(Box<RevocationList>),
    /// Certificates of authorities.
    Chain(Vec<Certificate>),
    /// A VCEK.
    Vcek(Box<Certificate>),
    /// Collateral in JSON.
    Platform(Vec<u8>),
}

/// Why bytes are not what they are taken for.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not a certificate.
    #[error("it is no certificate")]
    Certificate(#[from] CertificateError),
    /// More or fewer than there must be.
    #[error("it has {found} certificates, and must have {expected}")]
    Count {
        /// How many there must be.
        expected: &'static str,
        /// How many there are.
        found: usize,
    },
    /// Not a list, or not that of a trusted root, or not that of the time.
    #[error("it is no revocation list that can be relied on")]
    List(#[from] RevocationError),
    /// No trusted root stands above it.
    #[error("no root that is trusted for {generation} stands above {subject}")]
    Untrusted {
        /// Whose root is needed.
        generation: Generation,
        /// Who it is.
        subject: String,
    },
    /// Not a VCEK.
    #[error("it is no VCEK")]
    Endorsement(#[from] EndorsementError),
    /// A sound one of something else.
    #[error("it is of {found}, asked was that of {expected}")]
    Another {
        /// What was asked for.
        expected: String,
        /// What it is of.
        found: String,
    },
    /// Not for this time.
    #[error("it is good from {from} to {until}, looked at {at}")]
    Time {
        /// Since when it is good.
        from: UnixTime,
        /// Until when.
        until: UnixTime,
        /// When it was looked at.
        at: UnixTime,
    },
    /// Intel's statements.
    #[error("these checks failed: {checks}")]
    Statements {
        /// Which.
        checks: String,
    },
}

impl Kept {
    /// Which part of this is older than the same part of `other`, and that one.
    pub fn is_before(&self, other: &Kept) -> Option<(Edition, Edition)> {
        self.editions.iter().copied().zip(other.editions.iter().copied()).find(|(mine, theirs)| mine < theirs)
    }
}

impl Item {
    /// Reads `bytes` as this item, as of the time `at`. `above` are authorities that were read before, beside those that are
    /// built in.
    ///
    /// # Errors
    /// [`Unusable`]
    pub fn read(
        &self,
        bytes: &[u8],
        roots: &Roots,
        above: &[Certificate],
        at: UnixTime,
    ) -> Result<Kept, Unusable> {
        match self {
            Item::List { generation, simulated } => {
                let authorities: Vec<&Certificate> = match simulated {
                    true => roots.snp.simulated().iter().collect(),
                    false => amd_authorities(*generation).collect(),
                };
                list(bytes, &authorities, *generation, at)
            }
            Item::Chain { generation } => chain(bytes, roots, *generation, at),
            Item::Vcek { generation, chip, tcb } => vcek(bytes, (*generation, chip, tcb), above, at),
            Item::Platform(kind) => platform(bytes, kind, &roots.tdx, at),
        }
    }
}

fn list(
    bytes: &[u8],
    authorities: &[&Certificate],
    generation: Generation,
    at: UnixTime,
) -> Result<Kept, Unusable> {
    let list = RevocationList::from_file(bytes)?;
    let signer = authorities.iter().find(|authority| list.is_of(authority));
    let signer = signer
        .ok_or_else(|| Unusable::Untrusted { generation, subject: "the issuer of the list".to_owned() })?;
    list.check(signer, at)?;
    let (from, until) = (list.this_update(), list.next_update().unwrap_or(list.this_update()));
    let editions = vec![list.edition()];
    Ok(Kept { content: Content::List(Box::new(list)), from, until, editions })
}

/// A root that is trusted for the generation, and what it issued.
fn chain(bytes: &[u8], roots: &Roots, generation: Generation, at: UnixTime) -> Result<Kept, Unusable> {
    let chain = Certificate::from_file(bytes)?;
    if chain.len() < 2 {
        return Err(Unusable::Count { expected: "two or more", found: chain.len() });
    }
    let trusted = |certificate: &Certificate| match roots.snp.recognise(certificate) {
        Some(Root::Amd(of)) => of == generation,
        Some(Root::Simulated) => true,
        None => false,
    };
    let untrusted =
        |certificate: &Certificate| Unusable::Untrusted { generation, subject: certificate.subject() };
    let root = chain.iter().find(|certificate| trusted(certificate));
    let root = root.ok_or_else(|| chain.first().map_or(none(), untrusted))?;
    for certificate in &chain {
        certificate.check_issued_by(root).map_err(|_| untrusted(certificate))?;
        in_time(certificate, at)?;
    }
    let from = chain.iter().map(Certificate::not_before).max().unwrap_or(at);
    let until = chain.iter().map(Certificate::not_after).min().unwrap_or(at);
    Ok(Kept { content: Content::Chain(chain), from, until, editions: Vec::new() })
}

fn none() -> Unusable {
    Unusable::Count { expected: "two or more", found: 0 }
}

fn vcek(
    bytes: &[u8],
    (generation, chip, tcb): (Generation, &[u8], &Tcb),
    above: &[Certificate],
    at: UnixTime,
) -> Result<Kept, Unusable> {
    let mut all = Certificate::from_file(bytes)?;
    let (Some(vcek), true) = (all.pop(), all.is_empty()) else {
        return Err(Unusable::Count { expected: "one", found: all.len() + 1 });
    };
    let says = Endorsement::read(&vcek)?;
    let found_chip = says.hardware_id.unwrap_or_default();
    let same = says.kind == SigningKey::Vcek && says.generation == generation;
    if !same || found_chip != chip || says.tcb != *tcb {
        let describe = |generation, chip, tcb: &Tcb| format!("{generation} {} at {tcb}", hex::encode(chip));
        return Err(Unusable::Another {
            expected: describe(generation, chip, tcb),
            found: describe(says.generation, &found_chip, &says.tcb),
        });
    }
    let issued = |authority: &Certificate| vcek.check_issued_by(authority).is_ok();
    if !amd_authorities(generation).any(issued) && !above.iter().any(issued) {
        return Err(Unusable::Untrusted { generation, subject: vcek.issuer() });
    }
    in_time(&vcek, at)?;
    let (from, until) = (vcek.not_before(), vcek.not_after());
    Ok(Kept { content: Content::Vcek(Box::new(vcek)), from, until, editions: Vec::new() })
}

fn in_time(certificate: &Certificate, at: UnixTime) -> Result<(), Unusable> {
    let time = certificate.check_valid_at(at);
    time.map_err(|error| Unusable::Time { from: error.not_before, until: error.not_after, at })
}

fn platform(
    bytes: &[u8],
    kind: &tdx::PlatformKind,
    roots: &tdx::TrustedRoots,
    at: UnixTime,
) -> Result<Kept, Unusable> {
    let (appraisal, published) = tdx::appraise_collateral(bytes, roots, at);
    let published = published.ok_or_else(|| {
        let failed = appraisal.reasons().map(|check| check.name).collect::<Vec<_>>().join(", ");
        Unusable::Statements { checks: failed }
    })?;
    if published.kind != *kind {
        let text = |kind: &tdx::PlatformKind| Item::Platform(*kind).path();
        return Err(Unusable::Another { expected: text(kind), found: text(&published.kind) });
    }
    let (from, until) = (published.issued, published.next_update);
    let editions = published.editions.to_vec();
    Ok(Kept { content: Content::Platform(bytes.to_vec()), from, until, editions })
}
