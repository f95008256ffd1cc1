//! The handshake as others speak it: recorded exchanges of Confidential Containers' client, and another maker's RSA.

use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use coffer_attestation::handshake::{Attestation, Challenge, HashAlgorithm, Request, Sealed, Tee, TeeKey};
use getrandom::SysRng;
use serde_json::Value;

const TRANSCRIPT: &str = include_str!("../testdata/kbs/kbs-client-transcript.jsonl");

fn exchanges(path: &str) -> Vec<Value> {
    let all = TRANSCRIPT.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|exchange| exchange["p"] == path).collect()
}

#[test]
fn every_recorded_request_is_read_and_its_challenge_written_alike() {
    let recorded = exchanges("/kbs/v0/auth");
    let read = recorded.iter().map(|exchange| {
        let request = Request::parse(exchange["req"].to_string().as_bytes()).expect("a request");
        assert_eq!(request, Request { tee: Tee::Sample, hash: HashAlgorithm::Sha384 });
        let nonce = exchange["resp"]["nonce"].as_str().expect("a nonce").to_owned();
        let written = serde_json::to_value(Challenge { nonce, hash: request.hash }).expect("JSON");
        assert_eq!(written, exchange["resp"]);
    });
    assert_eq!(read.count(), 5);
}

#[test]
fn the_evidence_of_every_recorded_attestation_carries_our_hash() {
    let recorded = exchanges("/kbs/v0/attest");
    let read = recorded.iter().map(|exchange| {
        let sent = Attestation::parse(exchange["req"].to_string().as_bytes()).expect("an attestation");
        let bound = sent.report_data(HashAlgorithm::Sha384).expect("a canonical form");
        let evidence: Value = serde_json::from_str(&sent.evidence).expect("JSON");
        let carried = evidence["report_data"].as_str().expect("a text");
        assert_eq!(Base64::encode_string(bound.as_bytes()), carried);
        let written = sent.to_json().expect("JSON");
        assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON"), exchange["req"]);
        sent.key.describe()
    });
    assert_eq!(read.collect::<Vec<_>>(), ["P-256", "P-256", "P-256", "RSA", "P-256"]);
}

#[test]
fn evidence_for_another_nonce_key_or_addition_carries_another_hash() {
    let recorded = exchanges("/kbs/v0/attest");
    let body = |index: usize| recorded[index]["req"].to_string();
    let hash = |text: String| {
        let sent = Attestation::parse(text.as_bytes()).expect("an attestation");
        sent.report_data(HashAlgorithm::Sha384).expect("a canonical form")
    };
    let nonce = recorded[0]["req"]["runtime-data"]["nonce"].as_str().expect("a nonce");
    let other = recorded[1]["req"]["runtime-data"]["nonce"].as_str().expect("a nonce");
    let right = hash(body(0));
    assert_ne!(right, hash(body(0).replace(nonce, other)));
    assert_ne!(
        right,
        hash(body(0).replace("\"additional_evidence\":\"\"", "\"additional_evidence\":\"{}\""))
    );
    let mut swapped = recorded[0]["req"].clone();
    swapped["runtime-data"]["tee-pubkey"] = recorded[1]["req"]["runtime-data"]["tee-pubkey"].clone();
    assert_ne!(right, hash(swapped.to_string()));
}

#[test]
fn a_key_that_is_named_twice_is_refused() {
    let body = exchanges("/kbs/v0/attest")[0]["req"].to_string();
    let twice = body.replacen("{\"nonce\":", "{\"nonce\":\"x\",\"nonce\":", 1);
    assert_ne!(body, twice);
    assert!(Attestation::parse(twice.as_bytes()).is_err());
}

#[test]
fn what_is_sealed_for_an_rsa_key_opens_with_another_makers_code() {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key");
    let public = private.public_key();
    let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(&public)
        .expect("DER");
    // The last parts of the key's DER: modulus of 257 bytes with a leading zero, then 65537.
    let bytes = der.as_ref();
    let modulus = &bytes[bytes.len() - 5 - 256..bytes.len() - 5];
    let jwk = serde_json::json!({
        "kty": "RSA", "alg": "RSA-OAEP-256", "n": Base64UrlUnpadded::encode_string(modulus), "e": "AQAB",
    });
    let sealed =
        Sealed::seal(&TeeKey::parse(&jwk).expect("a key"), b"a secret", &mut SysRng).expect("sealed");
    let decoded = |text: &str| Base64UrlUnpadded::decode_vec(text).expect("base64");
    assert_eq!(decoded(&sealed.protected), br#"{"alg":"RSA-OAEP-256","enc":"A256GCM"}"#);
    let opener = OaepPrivateDecryptingKey::new(private).expect("a key");
    let mut room = vec![0; opener.min_output_size()];
    let wrapped = decoded(&sealed.encrypted_key);
    let content_key = opener.decrypt(&OAEP_SHA256_MGF1SHA256, &wrapped, &mut room, None).expect("opened");
    let cipher = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_256_GCM, content_key).expect("a key");
    let iv = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(&decoded(&sealed.iv)).expect("12 bytes");
    let mut both = [decoded(&sealed.ciphertext), decoded(&sealed.tag)].concat();
    let aad = aws_lc_rs::aead::Aad::from(sealed.protected.as_bytes());
    let opened = aws_lc_rs::aead::LessSafeKey::new(cipher).open_in_place(iv, aad, &mut both).expect("opened");
    assert_eq!(opened, b"a secret");
}
