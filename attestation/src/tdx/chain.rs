//! Ties certificates to the root and to a time, and holds them against revocation lists. Each link is a check by name.

use super::collateral::UnverifiedCollateral;
use super::pck::{Platform, SGX_EXTENSION};
use super::roots::{Root, TrustedRoots};
use crate::time::UnixTime;
use crate::verdict::Checks;
use crate::x509::{Certificate, RevocationList};

/// Certificates in a quote: PCK, its CA, the root.
const PCK_CHAIN: usize = 3;
const PCK_NAME: &str = "Intel SGX PCK Certificate";
const PCK_CA_NAMES: &[&str] = &["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"];
const TCB_SIGNER_NAMES: &[&str] = &["Intel SGX TCB Signing"];

/// Under which names a chain of two, somebody and the root, is checked.
pub(super) struct BelowRoot {
    chain: &'static str,
    root: &'static str,
    issuer: &'static str,
    name: &'static str,
    dates: &'static str,
    /// Common names that the one below the root may have.
    subjects: &'static [&'static str],
}

const PCK_CA: BelowRoot = BelowRoot {
    chain: "pck-chain",
    root: "pck-root",
    issuer: "pck-ca-issuer",
    name: "pck-ca-name",
    dates: "pck-ca-dates",
    subjects: PCK_CA_NAMES,
};
const PCK_CRL_CA: BelowRoot = BelowRoot {
    chain: "pck-crl-chain",
    root: "pck-crl-root",
    issuer: "pck-crl-ca-issuer",
    name: "pck-crl-ca-name",
    dates: "pck-crl-ca-dates",
    subjects: PCK_CA_NAMES,
};
pub(super) const TCB_INFO_SIGNER: BelowRoot = BelowRoot {
    chain: "tcb-info-chain",
    root: "tcb-info-root",
    issuer: "tcb-info-signer-issuer",
    name: "tcb-info-signer-name",
    dates: "tcb-info-signer-dates",
    subjects: TCB_SIGNER_NAMES,
};
pub(super) const QE_IDENTITY_SIGNER: BelowRoot = BelowRoot {
    chain: "qe-identity-chain",
    root: "qe-identity-root",
    issuer: "qe-identity-signer-issuer",
    name: "qe-identity-signer-name",
    dates: "qe-identity-signer-dates",
    subjects: TCB_SIGNER_NAMES,
};

/// What everything is held against.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) roots: &'a TrustedRoots,
    pub(super) at: UnixTime,
}

/// A chain of two whose root is the trusted one, and which that root signed.
#[derive(Clone, Copy)]
pub(super) struct Issued<'a> {
    pub(super) certificate: &'a Certificate,
    pub(super) root: &'a Certificate,
}

/// A PCK whose chain ends at the trusted root.
pub(super) struct Pck {
    chain: Vec<Certificate>,
    /// The root that the chain ends in.
    pub(super) root: Root,
    /// What the PCK says of its platform, if it can be read.
    pub(super) platform: Option<Platform>,
}

impl<'a> Terms<'a> {
    /// Checks a chain of somebody and the root. Answers it if the trusted root signed; dates and names are recorded only.
    pub(super) fn below_root<'c>(
        &self,
        checks: &mut Checks,
        as_what: &BelowRoot,
        chain: &'c [Certificate],
    ) -> Option<Issued<'c>> {
        let count = format!("{} certificates", chain.len());
        let [certificate, root] = chain else {
            checks.require(as_what.chain, false, "2 certificates", count);
            return None;
        };
        checks.require(as_what.chain, true, "2 certificates", count);
        self.pair(checks, as_what, Issued { certificate, root })
    }

    fn pair<'c>(&self, checks: &mut Checks, as_what: &BelowRoot, pair: Issued<'c>) -> Option<Issued<'c>> {
        let Issued { certificate, root } = pair;
        let trusted = self.trusts(checks, as_what.root, root);
        let issuer = format!("issued by {}", root.subject());
        let issued = checks.settle(as_what.issuer, issuer, certificate.check_issued_by(root)).is_some();
        check_name(checks, as_what.name, certificate, as_what.subjects);
        let valid = certificate.check_valid_at(self.at).and_then(|()| root.check_valid_at(self.at));
        checks.settle(as_what.dates, format!("valid at {}", self.at), valid);
        (trusted && issued).then_some(pair)
    }

    fn trusts(&self, checks: &mut Checks, name: &'static str, root: &Certificate) -> bool {
        let found = format!("{} with SHA-256 {}", root.subject(), hex::encode(root.fingerprint()));
        checks.require(name, self.roots.recognise(root).is_some(), self.roots.describe(), found)
    }

    /// Checks the PCK certificate chain of a quote, PEM.
    pub(super) fn pck(&self, checks: &mut Checks, pem: &[u8]) -> Option<Pck> {
        // The quoting library ends the text with a zero byte, which is no part of it.
        let text = pem.strip_suffix(&[0]).unwrap_or(pem);
        let chain = Certificate::from_file(text).map_err(|error| error.to_string()).and_then(|chain| {
            let count = chain.len();
            if count == PCK_CHAIN { Ok(chain) } else { Err(format!("{count} certificates")) }
        });
        let chain = checks.settle(PCK_CA.chain, "3 certificates in PEM", chain)?;
        let [leaf, ca, root] = chain.as_slice() else { return None };
        let above = self.pair(checks, &PCK_CA, Issued { certificate: ca, root });
        let issuer = format!("issued by {}", ca.subject());
        let issued = checks.settle("pck-issuer", issuer, leaf.check_issued_by(ca)).is_some();
        check_name(checks, "pck-name", leaf, &[PCK_NAME]);
        checks.settle("pck-dates", format!("valid at {}", self.at), leaf.check_valid_at(self.at));
        above.filter(|_| issued)?;
        let root = self.roots.recognise(root)?;
        let extension = leaf.extension(&SGX_EXTENSION).ok_or("no SGX extension".to_owned());
        let platform = extension.and_then(|bytes| Platform::parse(bytes).map_err(|error| error.to_string()));
        let platform = checks.settle("pck-platform", "an SGX extension", platform);
        Some(Pck { chain, root, platform })
    }

    /// Checks both revocation lists and that neither names a certificate of `pck`.
    pub(super) fn revocation(&self, checks: &mut Checks, collateral: &UnverifiedCollateral, pck: &Pck) {
        let [leaf, ca, root] = pck.chain.as_slice() else { return };
        let rooted = collateral.root_crl.check(root, self.at);
        if checks.settle("root-crl", format!("the root's list of {}", self.at), rooted).is_some() {
            not_named(checks, "pck-ca-revoked", &collateral.root_crl, ca);
        }
        let Some(issuer) = self.below_root(checks, &PCK_CRL_CA, &collateral.pck_crl_issuers) else { return };
        not_named(checks, "pck-crl-ca-revoked", &collateral.root_crl, issuer.certificate);
        let list = collateral.pck_crl.check(issuer.certificate, self.at);
        if checks.settle("pck-crl", format!("the CA's list of {}", self.at), list).is_some() {
            not_named(checks, "pck-revoked", &collateral.pck_crl, leaf);
        }
    }
}

impl<'a> Terms<'a> {
    /// Checks both revocation lists without a PCK to hold against them. Answers the CA whose list one of them is.
    pub(super) fn lists<'c>(
        &self,
        checks: &mut Checks,
        collateral: &'c UnverifiedCollateral,
    ) -> Option<Issued<'c>> {
        let issuer = self.below_root(checks, &PCK_CRL_CA, &collateral.pck_crl_issuers)?;
        let rooted = collateral.root_crl.check(issuer.root, self.at);
        checks.settle("root-crl", format!("the root's list of {}", self.at), rooted)?;
        not_named(checks, "pck-crl-ca-revoked", &collateral.root_crl, issuer.certificate);
        let list = collateral.pck_crl.check(issuer.certificate, self.at);
        checks.settle("pck-crl", format!("the CA's list of {}", self.at), list)?;
        Some(issuer)
    }
}

impl Pck {
    /// Who issued it.
    pub(super) fn authority(&self) -> Option<&Certificate> {
        self.chain.get(1)
    }

    /// The PCK certificate itself.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.chain.first()
    }

    /// The root of the chain, alone.
    pub(super) fn only_root(&self, trusted: &TrustedRoots) -> TrustedRoots {
        self.chain.last().map_or_else(|| trusted.clone(), |root| trusted.only(root))
    }
}

fn check_name(checks: &mut Checks, name: &'static str, certificate: &Certificate, subjects: &[&str]) {
    let found = certificate.common_name().unwrap_or_default();
    checks.require(name, subjects.contains(&found.as_str()), subjects.join(" or "), found);
}

/// Checks that `list`, whose issuer must be the certificate's, does not name `certificate`.
pub(super) fn not_named(
    checks: &mut Checks,
    name: &'static str,
    list: &RevocationList,
    certificate: &Certificate,
) {
    let serial = hex::encode(certificate.serial());
    let found = if !list.speaks_for(certificate) {
        "a list of another issuer".to_owned()
    } else if list.names(certificate) {
        format!("serial number {serial} is revoked")
    } else {
        format!("serial number {serial} is not revoked")
    };
    let holds = list.speaks_for(certificate) && !list.names(certificate);
    checks.require(name, holds, "not revoked by its issuer", found);
}
