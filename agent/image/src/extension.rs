//! Extensions of certificates: uses of the key, and the names of who holds it.

use coffer_attestation::x509::Certificate;
use der::asn1::ObjectIdentifier;

use crate::tlv::{OCTET_STRING, OID, SEQUENCE, UTF8, Walk, context};

/// Extended key usage (RFC 5280, section 4.2.1.12).
pub const EXTENDED_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// Subject alternative name (RFC 5280, section 4.2.1.6).
pub const ALTERNATIVE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// Promises of logs to show the certificate: signed certificate timestamps (RFC 6962, section 3.3).
pub const LOG_PROMISES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.4.2");
/// For signing of code.
pub(crate) const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
/// For TLS and mail, and for whatever anybody likes: no leaf that signs images is for these.
pub(crate) const NOT_FOR_IMAGES: [ObjectIdentifier; 6] = [
    ObjectIdentifier::new_unwrap("2.5.29.37.0"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.4"),
    TIME_STAMPING,
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9"),
];
/// Key usage (RFC 5280, section 4.2.1.3).
pub(crate) const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// Basic constraints (RFC 5280, section 4.2.1.9).
pub(crate) const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
/// For time stamps.
pub(crate) const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// Who vouched for the signer, as Fulcio writes it: a string in DER, and in older certificates the bare text.
const ISSUER_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");
const ISSUER_V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
/// A user's name that is neither address nor URI, as Fulcio writes it.
const USER_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.7");

const RFC822_NAME: u8 = 0x81;
const URI: u8 = 0x86;

/// Whether the key is for `wanted`; without the extension it is for nothing in particular.
pub(crate) fn is_for(certificate: &Certificate, wanted: &ObjectIdentifier) -> bool {
    usages(certificate).iter().any(|found| found == wanted)
}

/// What the key is for. Nothing if the extension is missing or cannot be read.
pub(crate) fn usages(certificate: &Certificate) -> Vec<ObjectIdentifier> {
    let list = certificate.extension(&EXTENDED_USAGE).and_then(|der| Walk::only(der, SEQUENCE));
    let mut found = Vec::new();
    let Some(list) = list else { return found };
    let mut walk = list.walk();
    while !walk.is_finished() {
        match walk.expect(OID).and_then(|oid| ObjectIdentifier::from_bytes(oid.content).ok()) {
            Some(oid) => found.push(oid),
            None => return Vec::new(),
        }
    }
    found
}

/// Who holds the certificate: the one address, URI or user's name among the alternative names. `None` for none or several.
pub fn holder(certificate: &Certificate) -> Option<String> {
    let mut walk = Walk::only(certificate.extension(&ALTERNATIVE_NAME)?, SEQUENCE)?.walk();
    let name = walk.step()?;
    if !walk.is_finished() {
        return None;
    }
    let text = match name.tag {
        RFC822_NAME | URI => name.content,
        tag if tag == context(0) => {
            let mut inside = name.walk();
            let kind = ObjectIdentifier::from_bytes(inside.expect(OID)?.content).ok()?;
            let value = inside.expect(context(0))?;
            if kind != USER_NAME {
                return None;
            }
            Walk::only(value.content, UTF8)?.content
        }
        _ => return None,
    };
    std::str::from_utf8(text).ok().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// By whose word the holder has that name.
pub fn oidc_issuer(certificate: &Certificate) -> Option<String> {
    let text = match certificate.extension(&ISSUER_V2) {
        Some(der) => Walk::only(der, UTF8)?.content,
        None => certificate.extension(&ISSUER_V1)?,
    };
    std::str::from_utf8(text).ok().map(str::to_owned)
}

/// What an extension holds that is an octet string in an octet string.
pub(crate) fn inner_octets<'a>(certificate: &'a Certificate, oid: &ObjectIdentifier) -> Option<&'a [u8]> {
    Walk::only(certificate.extension(oid)?, OCTET_STRING).map(|inner| inner.content)
}
