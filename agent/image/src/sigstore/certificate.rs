//! Certificates of minutes: from a trusted authority, in a log of certificates, for somebody whom the policy names.

use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::Certificate;
use der::asn1::ObjectIdentifier;
use sha2::{Digest as _, Sha256};

use crate::extension::{self, ALTERNATIVE_NAME, CODE_SIGNING, EXTENDED_USAGE, LOG_PROMISES};
use crate::keys::Key;
use crate::tlv::{OID, SEQUENCE, Walk, context, encode};
use crate::trusted_root::{LogKey, TrustedRoot};
use crate::work::Work;

const MAX_TIMESTAMPS: usize = 8;

/// The issuer's certificate, if `leaf` is of a trusted authority and may sign code at each of `times`.
pub(super) fn issuer<'a>(
    leaf: &Certificate,
    root: &'a TrustedRoot,
    times: &[UnixTime],
    work: &Work,
) -> Result<&'a Certificate, String> {
    check_use(leaf)?;
    if times.is_empty() {
        return Err("nobody vouches for the time at which it signed".to_owned());
    }
    let mut why = "the trusted root has no authority".to_owned();
    for authority in &root.authorities {
        let known = [ALTERNATIVE_NAME, EXTENDED_USAGE];
        let checked = times.iter().try_for_each(|time| authority.check(leaf, *time, &known, work));
        match (checked, authority.chain.first()) {
            (Ok(()), Some(issuer)) => return Ok(issuer),
            (Err(reason), _) => why = reason,
            (Ok(()), None) => {}
        }
    }
    Err(why)
}

/// Checks that `leaf` is for signing code, and for that alone.
pub(super) fn check_use(leaf: &Certificate) -> Result<(), String> {
    if !extension::is_for(leaf, &CODE_SIGNING) {
        return Err("the certificate is not for signing code".to_owned());
    }
    if leaf.is_authority() || !leaf.may_sign_messages() {
        return Err("the certificate's key is not for signatures".to_owned());
    }
    Ok(())
}

/// Checks that a trusted log of certificates has promised to show `leaf`.
pub(super) fn check_logged(
    leaf: &Certificate,
    issuer: &Certificate,
    logs: &[LogKey],
    work: &Work,
) -> Result<(), String> {
    let list = extension::inner_octets(leaf, &LOG_PROMISES).ok_or("the certificate has no log's promise")?;
    let stamps = timestamps(list).ok_or("the certificate's promises of logs cannot be read")?;
    let precertificate = without_timestamps(leaf.der()).ok_or("the certificate cannot be taken apart")?;
    let issuer = Key::of_certificate(issuer).ok_or("the issuer's key cannot be read")?;
    let holds = |stamp: &Timestamp<'_>| {
        let message = stamp.message(&issuer.id(), &precertificate);
        let known = logs.iter().filter(|log| log.may_be(stamp.log));
        let time = UnixTime(stamp.milliseconds / 1000);
        let mut counting = known.filter(|log| log.counts_at(time));
        counting.any(|log| log.key.verify_usual(&message, stamp.signature, work).is_ok())
    };
    match stamps.iter().any(holds) {
        true => Ok(()),
        false => Err("no trusted log of certificates has promised to show it".to_owned()),
    }
}

struct Timestamp<'a> {
    log: &'a [u8],
    milliseconds: u64,
    extensions: &'a [u8],
    signature: &'a [u8],
}

impl Timestamp<'_> {
    /// What is signed for a certificate before its timestamps were put into it (RFC 6962, section 3.2).
    fn message(&self, issuer: &[u8; 32], precertificate: &[u8]) -> Vec<u8> {
        let mut message = vec![0, 0];
        message.extend(self.milliseconds.to_be_bytes());
        message.extend([0, 1]);
        message.extend(issuer);
        // A certificate is far shorter than three bytes can say.
        message.extend(precertificate.len().to_be_bytes().into_iter().skip(usize::BITS as usize / 8 - 3));
        message.extend(precertificate);
        message.extend(self.extensions.len().to_be_bytes().into_iter().skip(usize::BITS as usize / 8 - 2));
        message.extend(self.extensions);
        message
    }
}

/// SignedCertificateTimestampList.
fn timestamps(list: &[u8]) -> Option<Vec<Timestamp<'_>>> {
    let (mut list, behind) = prefixed(list)?;
    let mut all = Vec::new();
    while !list.is_empty() && all.len() < MAX_TIMESTAMPS {
        let (one, rest) = prefixed(list)?;
        list = rest;
        all.push(timestamp(one)?);
    }
    (behind.is_empty() && list.is_empty()).then_some(all)
}

fn timestamp(bytes: &[u8]) -> Option<Timestamp<'_>> {
    let (version, rest) = bytes.split_first()?;
    let (log, rest) = rest.split_at_checked(32)?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let (extensions, rest) = prefixed(rest)?;
    // Hash and signature algorithm: SHA-256 with ECDSA or RSA; the key says which.
    let (algorithm, rest) = rest.split_first_chunk::<2>()?;
    let (signature, rest) = prefixed(rest)?;
    let known = *version == 0 && matches!(algorithm, [4, 1 | 3]) && rest.is_empty();
    known.then_some(Timestamp { log, milliseconds: u64::from_be_bytes(*time), extensions, signature })
}

/// Bytes behind their length in two bytes.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The part of a certificate that is signed, without its timestamps.
fn without_timestamps(der: &[u8]) -> Option<Vec<u8>> {
    let signed = Walk::only(der, SEQUENCE)?.walk().expect(SEQUENCE)?;
    let mut out = Vec::new();
    let mut walk = signed.walk();
    while !walk.is_finished() {
        let field = walk.step()?;
        if field.tag != context(3) {
            out.extend(field.whole);
            continue;
        }
        let mut extensions = Walk::only(field.content, SEQUENCE)?.walk();
        let mut kept = Vec::new();
        while !extensions.is_finished() {
            let extension = extensions.expect(SEQUENCE)?;
            let oid = ObjectIdentifier::from_bytes(extension.walk().expect(OID)?.content).ok()?;
            if oid != LOG_PROMISES {
                kept.extend(extension.whole);
            }
        }
        out.extend(encode(context(3), &encode(SEQUENCE, &kept)));
    }
    Some(encode(SEQUENCE, &out))
}

/// A name for the certificate in a verdict.
pub(super) fn fingerprint(certificate: &Certificate) -> String {
    hex::encode(Sha256::digest(certificate.der()))
}
