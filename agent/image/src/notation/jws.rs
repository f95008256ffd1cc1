//! The envelope in JWS (RFC 7515, flattened JSON).

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use coffer_attestation::handshake::read_json;
use coffer_attestation::time::UnixTime;
use serde::Deserialize;

use super::envelope::{CONTENT, Envelope, EnvelopeError, LIMITS, SCHEME, chain, target};

const SCHEME_MEMBER: &str = "io.cncf.notary.signingScheme";
const EXPIRY_MEMBER: &str = "io.cncf.notary.expiry";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jws {
    payload: String,
    protected: String,
    header: Header,
    signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    x5c: Vec<String>,
    #[serde(rename = "io.cncf.notary.signingAgent")]
    _agent: Option<String>,
    #[serde(rename = "io.cncf.notary.timestampSignature")]
    stamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected {
    alg: String,
    cty: String,
    crit: Vec<String>,
    #[serde(rename = "io.cncf.notary.signingScheme")]
    scheme: String,
    // The signer's own word: no time follows from it.
    #[serde(rename = "io.cncf.notary.signingTime")]
    _signing_time: String,
    #[serde(rename = "io.cncf.notary.expiry")]
    expiry: Option<String>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    let json = |part| move |reason| EnvelopeError::Json { part, reason };
    let jws: Jws = read_json(bytes, LIMITS).map_err(json("the whole"))?;
    let header = url("the protected header", &jws.protected)?;
    let protected: Protected = read_json(&header, LIMITS).map_err(json("the protected header"))?;
    check(&protected)?;
    let plain =
        |text: &String| Base64::decode_vec(text).map_err(|_| EnvelopeError::Base64 { part: "the header" });
    let certificates = jws.header.x5c.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
    Ok(Envelope {
        message: format!("{}.{}", jws.protected, jws.payload).into_bytes(),
        signature: url("the signature", &jws.signature)?,
        digest: target(&url("the payload", &jws.payload)?)?,
        algorithm: protected.alg,
        chain: chain(&certificates)?,
        expiry: protected.expiry.as_deref().map(time).transpose()?,
        stamp: jws.header.stamp.as_ref().map(plain).transpose()?,
    })
}

fn check(protected: &Protected) -> Result<(), EnvelopeError> {
    let unsupported = |part, found: &str| EnvelopeError::Unsupported { part, found: cut(found) };
    if protected.cty != CONTENT {
        return Err(unsupported("the content type", &protected.cty));
    }
    if protected.scheme != SCHEME {
        return Err(unsupported("the signing scheme", &protected.scheme));
    }
    let known = [SCHEME_MEMBER, EXPIRY_MEMBER];
    if let Some(found) = protected.crit.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(EnvelopeError::Critical { found: cut(found) });
    }
    let marked = |name: &str| protected.crit.iter().any(|found| found == name);
    if !marked(SCHEME_MEMBER) || marked(EXPIRY_MEMBER) != protected.expiry.is_some() {
        return Err(EnvelopeError::Critical { found: protected.crit.join(",").chars().take(128).collect() });
    }
    Ok(())
}

/// A time with an offset from UTC (RFC 3339), in whole seconds.
fn time(text: &str) -> Result<UnixTime, EnvelopeError> {
    let fault = || EnvelopeError::Unsupported { part: "the expiry", found: cut(text) };
    if text.ends_with('Z') {
        return text.parse().map_err(|_| fault());
    }
    let (local, offset) =
        text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)).ok_or_else(fault)?;
    let UnixTime(local) = format!("{local}Z").parse().map_err(|_| fault())?;
    let (hours, minutes) = offset.get(1..).and_then(|digits| digits.split_once(':')).ok_or_else(fault)?;
    let number = |text: &str| text.parse::<u8>().map(u64::from).map_err(|_| fault());
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    let utc = match offset.as_bytes().first() {
        Some(b'+') => local.checked_sub(seconds),
        Some(b'-') => local.checked_add(seconds),
        _ => None,
    };
    utc.map(UnixTime).ok_or_else(fault)
}

fn url(part: &'static str, text: &str) -> Result<Vec<u8>, EnvelopeError> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| EnvelopeError::Base64 { part })
}

fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_from_utc_is_taken_off() {
        assert_eq!(time("1970-01-01T01:00:05+01:00").ok(), Some(UnixTime(5)));
        assert_eq!(time("1970-01-01T00:00:05-00:01").ok(), Some(UnixTime(65)));
        assert_eq!(time("1970-01-01T00:00:05Z").ok(), Some(UnixTime(5)));
        assert!(time("1970-01-01T00:00:05+0100").is_err() && time("").is_err());
    }
}
