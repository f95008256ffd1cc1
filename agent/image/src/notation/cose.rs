//! The envelope in COSE (RFC 9052, COSE_Sign1).

use coffer_attestation::time::UnixTime;

use super::cbor::{Item, byte_string};
use super::envelope::{CONTENT, Envelope, EnvelopeError, MAX_BYTES, SCHEME, chain, target};

const SIGN1: u64 = 18;
const EPOCH: u64 = 1;
const ALGORITHM: Item<'_> = Item::Integer(1);
const CRITICAL: Item<'_> = Item::Integer(2);
const CONTENT_TYPE: Item<'_> = Item::Integer(3);
const CERTIFICATES: Item<'_> = Item::Integer(33);
const SCHEME_NAME: &str = "io.cncf.notary.signingScheme";
const EXPIRY_NAME: &str = "io.cncf.notary.expiry";
const TIME_NAME: &str = "io.cncf.notary.signingTime";
const STAMP_NAME: &str = "io.cncf.notary.timestampSignature";

pub(super) fn read(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    let form = |part| EnvelopeError::Form { part };
    if bytes.len() > MAX_BYTES {
        return Err(form("an envelope of that length"));
    }
    let parts = match Item::read(bytes) {
        Some(Item::Tagged(SIGN1, inside)) => match *inside {
            Item::Array(parts) => parts,
            _ => return Err(form("the array")),
        },
        _ => return Err(form("COSE_Sign1")),
    };
    let [Item::Bytes(protected), unprotected @ Item::Map(_), Item::Bytes(payload), Item::Bytes(signature)] =
        parts.as_slice()
    else {
        return Err(form("the four parts"));
    };
    let header = Item::read(protected).ok_or(form("the protected header"))?;
    check(&header)?;
    let algorithm = header.get(&ALGORITHM).and_then(algorithm).ok_or(form("the algorithm"))?;
    let expiry = header.get(&Item::Text(EXPIRY_NAME)).map(|item| time(item).ok_or(form("the expiry")));
    let certificates = match unprotected.get(&CERTIFICATES) {
        Some(Item::Array(all)) => all.iter().map(|item| item.bytes().map(<[u8]>::to_vec)).collect(),
        Some(Item::Bytes(one)) => Some(vec![one.to_vec()]),
        _ => None,
    };
    let stamp =
        unprotected.get(&Item::Text(STAMP_NAME)).map(|item| item.bytes().ok_or(form("the time stamp")));
    Ok(Envelope {
        message: covered(protected, payload),
        signature: signature.to_vec(),
        algorithm: algorithm.to_owned(),
        chain: chain(&certificates.ok_or(form("the certificates"))?)?,
        digest: target(payload)?,
        expiry: expiry.transpose()?,
        stamp: stamp.transpose()?.map(<[u8]>::to_vec),
    })
}

/// Sig_structure (RFC 9052, section 4.4) without data from outside.
fn covered(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let context = b"\x84\x6aSignature1";
    [context, byte_string(protected).as_slice(), &byte_string(&[]), &byte_string(payload)].concat()
}

fn check(header: &Item<'_>) -> Result<(), EnvelopeError> {
    let Item::Map(entries) = header else { return Err(EnvelopeError::Form { part: "the protected header" }) };
    let cut = |text: &str| text.chars().take(128).collect::<String>();
    let expected = [
        ("the content type", CONTENT_TYPE, CONTENT),
        ("the signing scheme", Item::Text(SCHEME_NAME), SCHEME),
    ];
    for (part, key, wanted) in expected {
        let found = header.get(&key).and_then(Item::text).unwrap_or_default();
        if found != wanted {
            return Err(EnvelopeError::Unsupported { part, found: cut(found) });
        }
    }
    let names = [SCHEME_NAME, EXPIRY_NAME, TIME_NAME].map(Item::Text);
    let known = |key: &Item<'_>| names.contains(key) || [ALGORITHM, CRITICAL, CONTENT_TYPE].contains(key);
    if let Some((key, _)) = entries.iter().find(|(key, _)| !known(key)) {
        return Err(EnvelopeError::Unsupported {
            part: "a protected member",
            found: cut(&format!("{key:?}")),
        });
    }
    let Some(Item::Array(critical)) = header.get(&CRITICAL) else {
        return Err(EnvelopeError::Critical { found: String::new() });
    };
    let marked = |name: &str| critical.contains(&Item::Text(name));
    let has_expiry = header.get(&Item::Text(EXPIRY_NAME)).is_some();
    let understood = critical.iter().all(|name| [SCHEME_NAME, EXPIRY_NAME].map(Item::Text).contains(name));
    if !understood || !marked(SCHEME_NAME) || marked(EXPIRY_NAME) != has_expiry {
        return Err(EnvelopeError::Critical { found: cut(&format!("{critical:?}")) });
    }
    Ok(())
}

/// The algorithm's name in JWS.
fn algorithm(item: &Item<'_>) -> Option<&'static str> {
    match item {
        Item::Integer(-7) => Some("ES256"),
        Item::Integer(-35) => Some("ES384"),
        Item::Integer(-36) => Some("ES512"),
        Item::Integer(-37) => Some("PS256"),
        Item::Integer(-38) => Some("PS384"),
        Item::Integer(-39) => Some("PS512"),
        _ => None,
    }
}

fn time(item: &Item<'_>) -> Option<UnixTime> {
    match item {
        Item::Tagged(EPOCH, seconds) => match **seconds {
            Item::Integer(seconds) => u64::try_from(seconds).ok().map(UnixTime),
            _ => None,
        },
        _ => None,
    }
}
