//! Guests with each kind of key that the protocol knows, opening what they are given by other code than ours.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64ct::{Base64UrlUnpadded, Encoding};
use der::Decode;
use p521::elliptic_curve::Generate;
use p521::elliptic_curve::sec1::ToSec1Point;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::running::Answer;
use crate::{KEY, attest_with, get, keep, place, token};

fn given(key: &Value) -> Value {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let bearer = format!("authorization: Bearer {}", token(&attest_with(&service, &place, key)));
    let Answer { status, body, .. } = get(&service, &place, KEY, Some(&bearer));
    assert_eq!(status, 200, "{body}");
    body
}

fn decoded(sealed: &Value, member: &str) -> Vec<u8> {
    Base64UrlUnpadded::decode_vec(sealed[member].as_str().expect("text")).expect("base64")
}

fn header(sealed: &Value) -> Value {
    serde_json::from_slice(&decoded(sealed, "protected")).expect("JSON")
}

fn opened(sealed: &Value, content_key: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::try_from(content_key).expect("32 bytes"));
    let both = [decoded(sealed, "ciphertext"), decoded(sealed, "tag")].concat();
    let iv: [u8; 12] = decoded(sealed, "iv").try_into().expect("12 bytes");
    let aad = sealed["protected"].as_str().expect("text").as_bytes();
    cipher.decrypt(&Nonce::from(iv), Payload { msg: &both, aad }).expect("opened")
}

#[derive(der::Sequence)]
struct Numbers {
    n: der::asn1::Uint,
    e: der::asn1::Uint,
}

#[test]
fn a_guest_with_an_rsa_key_gets_its_secret() {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key");
    let spki =
        aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(&key.public_key());
    let spki = spki.expect("a public key");
    let spki = x509_cert::spki::SubjectPublicKeyInfoRef::from_der(spki.as_ref()).expect("a public key");
    let numbers = Numbers::from_der(spki.subject_public_key.raw_bytes()).expect("two numbers");
    let text = |number: &der::asn1::Uint| Base64UrlUnpadded::encode_string(number.as_bytes());
    let sealed = given(&json!({
        "kty": "RSA", "alg": "RSA-OAEP-256", "n": text(&numbers.n), "e": text(&numbers.e),
    }));
    assert_eq!(header(&sealed), json!({"alg": "RSA-OAEP-256", "enc": "A256GCM"}));
    let key = OaepPrivateDecryptingKey::new(key).expect("a key");
    let mut content_key = vec![0; key.min_output_size()];
    let wrapped = decoded(&sealed, "encrypted_key");
    let content_key =
        key.decrypt(&OAEP_SHA256_MGF1SHA256, &wrapped, &mut content_key, None).expect("unwrapped");
    assert_eq!(opened(&sealed, content_key), b"a secret");
}

#[test]
fn a_guest_with_a_key_on_p_521_gets_its_secret() {
    let key = p521::SecretKey::try_generate_from_rng(&mut getrandom::SysRng).expect("randomness");
    let point = key.public_key().to_sec1_point(false);
    let text = |bytes: Option<&[u8]>| Base64UrlUnpadded::encode_string(bytes.expect("a coordinate"));
    let sealed = given(&json!({
        "kty": "EC", "crv": "P-521", "alg": "ECDH-ES+A256KW",
        "x": text(point.x().map(|x| x.as_slice())), "y": text(point.y().map(|y| y.as_slice())),
    }));
    let header = header(&sealed);
    assert_eq!((&header["alg"], &header["epk"]["crv"]), (&json!("ECDH-ES+A256KW"), &json!("P-521")));
    let sender = [vec![4], decoded(&header["epk"], "x"), decoded(&header["epk"], "y")].concat();
    let sender = p521::PublicKey::from_sec1_bytes(&sender).expect("a point");
    let shared = key.diffie_hellman(&sender);
    // Concat-KDF of RFC 7518, section 4.6.2, for one block of SHA-256.
    let parts: [&[u8]; 6] = [
        &1_u32.to_be_bytes(),
        shared.raw_secret_bytes(),
        &14_u32.to_be_bytes(),
        b"ECDH-ES+A256KW",
        &[0; 8],
        &256_u32.to_be_bytes(),
    ];
    let wrapping: [u8; 32] = Sha256::digest(parts.concat()).into();
    let mut content_key = [0; 32];
    let unwrapped = aes_kw::KwAes256::new(&wrapping.into())
        .unwrap_key(&decoded(&sealed, "encrypted_key"), &mut content_key)
        .map(|_| ());
    unwrapped.expect("unwrapped");
    assert_eq!(opened(&sealed, &content_key), b"a secret");
}
