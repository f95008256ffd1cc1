//! A container's request, from its bytes to what it asks for.

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::ResourceName;

/// The longest head of a request, in bytes.
pub(super) const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 32;
const RESOURCE: &str = "/cdh/resource/";
const TOKEN: &str = "/aa/token";
const EVIDENCE: &str = "/aa/evidence";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A secret.
    Resource(ResourceName),
    /// The verifier's token.
    Token,
    /// Evidence over these bytes.
    Evidence(Box<[u8; 64]>),
}

/// A request that is not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Not a request.
    Form(&'static str),
    /// Not for reading.
    Method,
    /// Nothing of that name here.
    Path,
    /// Too long.
    Long,
}

/// Reads the head of a request; `None` while its end is not there.
pub(super) fn read(head: &[u8]) -> Result<Option<Asked>, Wrong> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() >= MAX_HEAD => return Err(Wrong::Long),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Wrong::Long),
        Err(_) => return Err(Wrong::Form("this is no request of HTTP/1.1")),
    }
    match (request.method, request.path) {
        (Some("GET"), Some(target)) => asked(target).map(Some),
        _ => Err(Wrong::Method),
    }
}

fn asked(target: &str) -> Result<Asked, Wrong> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    if let Some(name) = path.strip_prefix(RESOURCE) {
        let resource = ResourceName::parse(&format!("kbs:///{name}"));
        return resource.map(Asked::Resource).map_err(|_| Wrong::Form("secrets are named TENANT/KIND/TAG"));
    }
    match path {
        TOKEN => match value("token_type") {
            Some("kbs") => Ok(Asked::Token),
            _ => Err(Wrong::Form("token_type=kbs is understood")),
        },
        EVIDENCE => {
            let text = value("runtime_data").ok_or(Wrong::Form("runtime_data is missing"))?;
            runtime_data(text, value("encoding")).map(|data| Asked::Evidence(Box::new(data)))
        }
        _ => Err(Wrong::Path),
    }
}

/// The bytes that evidence is asked over, with zeros behind them.
fn runtime_data(text: &str, encoding: Option<&str>) -> Result<[u8; 64], Wrong> {
    let text = unescaped(text).ok_or(Wrong::Form("runtime_data is escaped wrongly"))?;
    let bytes = match encoding {
        None => text,
        Some("base64") => std::str::from_utf8(&text)
            .ok()
            .and_then(|text| Base64::decode_vec(text).ok())
            .ok_or(Wrong::Form("runtime_data is no base64"))?,
        Some(_) => return Err(Wrong::Form("encoding=base64 is understood, or none")),
    };
    let mut data = [0; 64];
    let place = data.get_mut(..bytes.len()).ok_or(Wrong::Form("runtime_data has more than 64 bytes"))?;
    place.copy_from_slice(&bytes);
    Ok(data)
}

/// Takes `%41` for `A`.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Option<Asked>, Wrong> {
        read(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n").as_bytes())
    }

    fn data(text: &[u8]) -> Result<Option<Asked>, Wrong> {
        let mut data = [0; 64];
        data[..text.len()].copy_from_slice(text);
        Ok(Some(Asked::Evidence(Box::new(data))))
    }

    #[test]
    fn a_secret_is_asked_for_by_its_path() {
        let name = ResourceName::parse("kbs:///acme/db/password").unwrap();
        assert_eq!(get("/cdh/resource/acme/db/password"), Ok(Some(Asked::Resource(name))));
        let wrong =
            ["", "acme", "acme/db", "acme/db/a/b", "acme/../x", "acme//x", "acme/db/%41", "acme/db/.x"];
        let refused = |name: &&str| matches!(get(&format!("/cdh/resource/{name}")), Err(Wrong::Form(_)));
        assert!(wrong.iter().all(refused));
    }

    #[test]
    fn tokens_and_evidence_are_asked_for_as_in_confidential_containers() {
        assert_eq!(get("/aa/token?token_type=kbs"), Ok(Some(Asked::Token)));
        assert!(matches!(get("/aa/token?token_type=coco_as"), Err(Wrong::Form(_))));
        assert_eq!(get("/aa/evidence?runtime_data=a%2Bb"), data(b"a+b"));
        assert_eq!(get("/aa/evidence?runtime_data=YWI=&encoding=base64"), data(b"ab"));
        let long = format!("/aa/evidence?runtime_data={}", "a".repeat(65));
        assert!(matches!(get(&long), Err(Wrong::Form(_))));
        assert!(matches!(get("/aa/evidence?runtime_data=%4"), Err(Wrong::Form(_))));
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        assert_eq!(get("/cdh/resource"), Err(Wrong::Path));
        assert_eq!(get("http://other/cdh/resource/a/b/c"), Err(Wrong::Path));
        assert_eq!(read(b"POST /aa/token HTTP/1.1\r\n\r\n"), Err(Wrong::Method));
    }

    #[test]
    fn a_head_is_waited_for_up_to_its_longest() {
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"GET /aa/token?token_type=kbs HTTP/1.1\r\n"), Ok(None));
        let mut long = b"GET / HTTP/1.1\r\nA: ".to_vec();
        long.resize(MAX_HEAD, b'a');
        assert_eq!(read(&long), Err(Wrong::Long));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(33));
        assert_eq!(read(many.as_bytes()), Err(Wrong::Long));
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        assert!(matches!(read(b"\x16\x03\x01\x00"), Err(Wrong::Form(_))));
        assert!(matches!(read(b"GET / HTTP/9\r\n\r\n"), Err(Wrong::Form(_))));
    }
}
