//! From a VCEK or VLEK up to a trusted root: who issued what, on which dates, and what was revoked.

use super::endorsement::Endorsement;
use super::report::SigningKey;
use super::roots::{Root, TrustedRoots, amd_authorities};
use super::tcb::Generation;
use crate::time::UnixTime;
use crate::verdict::{Checks, Outcome};
use crate::x509::{Certificate, IssueError, RevocationList};

/// What a chain is made of.
pub(crate) struct Chain<'a> {
    /// The key that signed the report.
    pub(crate) vek: &'a Certificate,
    /// What the key's certificate says, if it could be read.
    pub(crate) endorsement: Option<&'a Endorsement>,
    /// Authorities that came with the evidence or from the operator. None: the ones that are shipped.
    pub(crate) given: &'a [Certificate],
    /// Revocation lists.
    pub(crate) lists: &'a [RevocationList],
    /// Whether one of them must speak for the intermediate.
    pub(crate) list_needed: bool,
}

/// Records every check of the chain. Answers the root that it ends in, if it is a trusted one.
pub(crate) fn check(
    chain: &Chain<'_>,
    trust: &TrustedRoots,
    at: UnixTime,
    checks: &mut Checks,
) -> Option<Root> {
    let generation = chain.endorsement.map(|endorsement| endorsement.generation);
    let amd: Vec<&'static Certificate> = generation.into_iter().flat_map(amd_authorities).collect();
    let shipped: Vec<&Certificate> = amd.iter().copied().chain(trust.simulated()).collect();
    let given: Vec<&Certificate> = chain.given.iter().collect();
    // What was given is what is judged: a wrong root is not silently replaced by the right one.
    let gives_root = given.iter().any(|authority| authority.names_as_issuer(authority));
    let authorities = if given.is_empty() { shipped.clone() } else { given.clone() };
    let roots = if gives_root { given } else { shipped };

    settle_dates("vek-validity", chain.vek, at, checks);
    let intermediate = issuer("vek-issuer", chain.vek, &authorities, checks)?;
    check_kind(chain.endorsement, intermediate, checks);
    settle_dates("intermediate-validity", intermediate, at, checks);
    let root = issuer("intermediate-issuer", intermediate, &roots, checks)?;
    settle_dates("root-validity", root, at, checks);
    let known = trust.recognise(root);
    let below_simulated = known == Some(Root::Simulated);
    let vouched = below_simulated || is_shipped(intermediate);
    check_lists(chain, intermediate, root, (at, checks));
    check_revocation(chain, (intermediate, vouched), root, checks);
    check_root(known, root, generation, checks)
}

/// Finds who issued `certificate` among `authorities` by name and records whether that is so.
fn issuer<'a>(
    name: &'static str,
    certificate: &Certificate,
    authorities: &[&'a Certificate],
    checks: &mut Checks,
) -> Option<&'a Certificate> {
    let mut first_error: Option<(IssueError, &Certificate)> = None;
    for authority in authorities.iter().filter(|authority| certificate.names_as_issuer(authority)) {
        match certificate.check_issued_by(authority) {
            Ok(()) => {
                checks.record(name, Outcome::Passed, certificate.issuer(), authority.subject());
                return Some(authority);
            }
            Err(error) => {
                first_error.get_or_insert((error, authority));
            }
        }
    }
    match first_error {
        Some((error, authority)) => {
            checks.record(name, Outcome::Failed, certificate.issuer(), error);
            Some(authority)
        }
        None => {
            let subjects: Vec<String> =
                authorities.iter().filter_map(|authority| authority.common_name()).collect();
            let found = format!(
                "no such authority among {}",
                if subjects.is_empty() { "none".to_owned() } else { subjects.join(", ") }
            );
            checks.record(name, Outcome::Failed, certificate.issuer(), found);
            None
        }
    }
}

fn settle_dates(name: &'static str, certificate: &Certificate, at: UnixTime, checks: &mut Checks) {
    let expected = format!("{} to {}", certificate.not_before(), certificate.not_after());
    match certificate.check_valid_at(at) {
        Ok(()) => checks.record(name, Outcome::Passed, expected, at),
        Err(error) => checks.record(name, Outcome::Failed, expected, error.at),
    }
}

/// AMD has an authority of its own for keys of cloud providers.
fn check_kind(endorsement: Option<&Endorsement>, intermediate: &Certificate, checks: &mut Checks) {
    let Some(endorsement) = endorsement else { return };
    let found = intermediate.common_name().unwrap_or_default();
    let for_vlek = found.starts_with("SEV-VLEK");
    match endorsement.kind {
        SigningKey::Vcek => checks.require("vek-kind", !for_vlek, "a VCEK from an ASK", found),
        SigningKey::Vlek => checks.require("vek-kind", for_vlek, "a VLEK from an ASVK (SEV-VLEK-…)", found),
    };
}

fn check_root(
    known: Option<Root>,
    root: &Certificate,
    generation: Option<Generation>,
    checks: &mut Checks,
) -> Option<Root> {
    let name = "root-of-trust";
    let fingerprint = hex::encode(root.fingerprint());
    let expected = match generation {
        Some(generation) => format!("AMD's root for {generation}, or a simulated root that is configured"),
        None => "AMD's root, or a simulated root that is configured".to_owned(),
    };
    let found = match known {
        Some(Root::Amd(of)) => format!("AMD's root for {of}, sha256 {fingerprint}"),
        Some(Root::Simulated) => format!("a SIMULATED root, {}, sha256 {fingerprint}", root.subject()),
        None => format!("{}, sha256 {fingerprint}", root.subject()),
    };
    let fits = match known {
        Some(Root::Amd(of)) => generation.is_none_or(|generation| generation == of),
        Some(Root::Simulated) => true,
        None => false,
    };
    checks.require(name, fits, expected, found);
    known.filter(|_| fits)
}

/// Whether this program ships exactly this authority. AMD replaced and revoked intermediates whose dates are still good, so
/// any other one needs a list that speaks for it.
fn is_shipped(intermediate: &Certificate) -> bool {
    let all = [Generation::Milan, Generation::Genoa, Generation::Turin];
    all.into_iter().flat_map(amd_authorities).any(|shipped| shipped.der() == intermediate.der())
}

/// Whether each list is one of this chain, signed and of its time.
fn check_lists(
    chain: &Chain<'_>,
    intermediate: &Certificate,
    root: &Certificate,
    (at, checks): (UnixTime, &mut Checks),
) {
    for list in chain.lists {
        let authority = if list.is_of(intermediate) { intermediate } else { root };
        let name = authority.common_name().unwrap_or_default();
        checks.settle(
            "revocation-list",
            format!("a list of {name}, signed, of its time"),
            list.check(authority, at),
        );
    }
}

/// AMD signs lists with its roots only, so they speak of intermediates and never of a single VCEK. `vouched`: the
/// intermediate is one that needs no list.
fn check_revocation(
    chain: &Chain<'_>,
    (intermediate, vouched): (&Certificate, bool),
    root: &Certificate,
    checks: &mut Checks,
) {
    let expected = "not revoked";
    let certificates = [
        ("the signing key's certificate", chain.vek),
        ("the intermediate", intermediate),
        ("the root", root),
    ];
    let revoked =
        certificates.iter().find(|(_, certificate)| chain.lists.iter().any(|list| list.names(certificate)));
    if let Some((what, certificate)) = revoked {
        let serial = hex::encode(certificate.serial());
        let found = format!("{what} is revoked: {}, serial {serial}", certificate.subject());
        checks.record("revocation", Outcome::Failed, expected, found);
    } else if chain.lists.iter().any(|list| list.speaks_for(intermediate)) {
        checks.record("revocation", Outcome::Passed, expected, expected);
    } else if chain.list_needed {
        let expected = format!("not revoked, says a revocation list of {}", root.subject());
        let none = chain.lists.is_empty();
        let why = if none { "no revocation list was given" } else { "no list speaks for the intermediate" };
        checks.record("revocation", Outcome::Contraindicated, expected, why);
    } else if vouched {
        let none = chain.lists.is_empty();
        let why = if none { "no revocation list was given" } else { "no list speaks for the intermediate" };
        checks.not_checked("revocation", expected, why);
    } else {
        let expected = "an intermediate that is built in, or a revocation list that speaks for it";
        let found = format!(
            "another one and no such list: {}, serial {}",
            intermediate.subject(),
            hex::encode(intermediate.serial())
        );
        checks.record("revocation", Outcome::Contraindicated, expected, found);
    }
}
