//! What a chain of certificates must be before anybody asks whom it leads to (Notary Project, signature specification, section
//! "Certificate Requirements"): whole up to a root that signed itself, with uses and lengths as each certificate says.
//!
//! Never here: trust, dates, revocation.

use coffer_attestation::x509::Certificate;
use der::Decode;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use crate::extension::{self, BASIC_CONSTRAINTS, EXTENDED_USAGE, KEY_USAGE, NOT_FOR_IMAGES};
use crate::work::Work;

/// Checks the chain, from the signer's certificate up. Whoever sends it cannot leave out what a revocation list speaks of.
pub(super) fn check(chain: &[Certificate], work: &Work) -> Result<(), String> {
    let (leaf, above) = chain.split_first().ok_or("no certificate")?;
    check_leaf(leaf).map_err(|reason| format!("{}: {reason}", leaf.subject()))?;
    for (below, authority) in above.iter().enumerate() {
        check_authority(authority, below).map_err(|reason| format!("{}: {reason}", authority.subject()))?;
    }
    let Some(root) = above.last() else {
        work.spend()?;
        return leaf.check_signed_by_itself().map_err(|error| format!("{}: {error}", leaf.subject()));
    };
    for (certificate, issuer) in chain.iter().zip(above) {
        if certificate.names_as_issuer(certificate) {
            return Err(format!("{} issued itself and is not the last", certificate.subject()));
        }
        work.spend()?;
        let issued = certificate.check_issued_by_knowing(issuer, &[EXTENDED_USAGE]);
        issued.map_err(|error| format!("{}: {error}", certificate.subject()))?;
    }
    work.spend()?;
    let issued = root.check_issued_by_knowing(root, &[EXTENDED_USAGE]);
    issued.map_err(|error| format!("{}: {error}", root.subject()))
}

fn check_leaf(leaf: &Certificate) -> Result<(), String> {
    if constraints(leaf)?.is_some_and(|found| found.ca) {
        return Err("an authority's certificate signs no images".to_owned());
    }
    let usage = usage(leaf)?;
    if !usage.digital_signature() {
        return Err("its key is not for signing messages".to_owned());
    }
    let more = usage.key_encipherment()
        || usage.data_encipherment()
        || usage.key_agreement()
        || usage.key_cert_sign()
        || usage.crl_sign()
        || usage.encipher_only()
        || usage.decipher_only();
    if more {
        return Err("its key is for more than signing messages".to_owned());
    }
    let uses = extension::usages(leaf);
    if leaf.extension(&EXTENDED_USAGE).is_some() && uses.is_empty() {
        return Err("what it is for cannot be read".to_owned());
    }
    match uses.iter().find(|found| NOT_FOR_IMAGES.contains(found)) {
        Some(found) => Err(format!("it is for {found}, which signs no images")),
        None => Ok(()),
    }
}

/// `below` is the number of authorities between it and the leaf.
fn check_authority(authority: &Certificate, below: usize) -> Result<(), String> {
    let found = constraints(authority)?.filter(|found| found.ca);
    let found = found.filter(|_| authority.is_critical(&BASIC_CONSTRAINTS));
    let found = found.ok_or("it does not say, as critical, that it is an authority's")?;
    if let Some(length) = found.path_len_constraint.filter(|length| usize::from(*length) < below) {
        return Err(format!("{below} authorities are below it, its path length allows {length}"));
    }
    if usage(authority)?.key_cert_sign() {
        return Ok(());
    }
    Err("its key is not for signing certificates".to_owned())
}

fn constraints(certificate: &Certificate) -> Result<Option<BasicConstraints>, String> {
    let read = certificate.extension(&BASIC_CONSTRAINTS).map(BasicConstraints::from_der);
    read.transpose().map_err(|_| "its basic constraints cannot be read".to_owned())
}

/// The key usage, which must be there and critical.
fn usage(certificate: &Certificate) -> Result<KeyUsage, String> {
    let der = certificate.extension(&KEY_USAGE).filter(|_| certificate.is_critical(&KEY_USAGE));
    let usage = der.and_then(|der| KeyUsage::from_der(der).ok());
    usage.ok_or_else(|| "it has no critical key usage that can be read".to_owned())
}
