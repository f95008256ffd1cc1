//! Layers that were encrypted: nothing of one that is not what its key was used for is ever decrypted.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use base64ct::{Base64, Encoding};
use coffer_layer::encrypted::{
    Envelope, EnvelopeError, Fresh, KEY_ANNOTATION, KeyError, OPTIONS_ANNOTATION, PassError, Source,
    decrypted_type, encrypt, encrypted_type,
};
use coffer_protocol::Digest;
use serde_json::{Value, json};
use zeroize::Zeroizing;

const KEY_ID: &str = "kbs:///acme/image-kek/web";
const WRAPPING_KEY: [u8; 32] = [7; 32];
const MIB: usize = 1 << 20;

type Annotations = BTreeMap<String, String>;

/// A layer as its manifest has it.
struct Layer {
    blob: Vec<u8>,
    annotations: Annotations,
}

fn layer(plain: &[u8]) -> Layer {
    let fresh = Fresh { key: Zeroizing::new([1; 32]), nonce: [2; 16], iv: [3; 12] };
    let mut blob = Vec::new();
    let encrypting = encrypt(&mut Cursor::new(plain), &mut blob, Digest::of(plain), fresh).unwrap();
    let envelope = encrypting.wrap(KEY_ID, &WRAPPING_KEY).unwrap();
    let annotations = envelope.annotations().map(|(name, text)| (name.to_owned(), text)).into();
    Layer { blob, annotations }
}

/// Decrypts a blob for whose digest the manifest has that of `signed`; answers what came before an error, too.
fn decrypted(
    envelope: &Envelope,
    signed: &[u8],
    first: &[u8],
    second: &[u8],
) -> (Vec<u8>, Result<(), PassError>) {
    let key = envelope.open(&WRAPPING_KEY).unwrap();
    let (size, digest) = (signed.len() as u64, Digest::of(signed));
    let blob = match key.authenticate(&mut Cursor::new(first), size, &digest) {
        Ok(blob) => blob,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut plain = Vec::new();
    let mut reader = blob.decrypt(second);
    let read = reader.read_to_end(&mut plain);
    let ended = match (reader.changed(), read) {
        (Some(changed), Err(_)) => Err(changed),
        (None, Err(source)) => Err(PassError::Read { read: plain.len() as u64, source }),
        (_, Ok(_)) => Ok(()),
    };
    (plain, ended)
}

fn read(annotations: &Annotations) -> Result<Envelope, EnvelopeError> {
    Envelope::parse(annotations)
}

/// With the JSON of one annotation changed.
fn changed(annotations: &Annotations, which: &str, change: impl FnOnce(&mut Value)) -> Annotations {
    let mut annotations = annotations.clone();
    let text = annotations.get_mut(which).unwrap();
    let mut value = serde_json::from_slice(&Base64::decode_vec(text).unwrap()).unwrap();
    change(&mut value);
    *text = Base64::encode_string(value.to_string().as_bytes());
    annotations
}

fn refused(annotations: &Annotations) -> String {
    let error = read(annotations).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn what_was_encrypted_comes_back() {
    let long: Vec<u8> = (0..2 * MIB + 77).map(|place| (place % 251) as u8).collect();
    for plain in [&b""[..], b"x", &long[..MIB], &long] {
        let Layer { blob, annotations } = layer(plain);
        assert_eq!(blob.len(), plain.len());
        assert!(plain.len() < 16 || blob != plain);
        let envelope = read(&annotations).unwrap();
        assert_eq!(envelope.key_id(), KEY_ID);
        let (found, ended) = decrypted(&envelope, &blob, &blob, &blob);
        ended.unwrap();
        assert!(found == plain);
        assert_eq!(envelope.open(&WRAPPING_KEY).unwrap().digest(), Some(&Digest::of(plain)));
    }
}

#[test]
fn a_blob_with_one_byte_changed_is_refused_before_any_of_it_is_decrypted() {
    let Layer { blob, annotations } = layer(b"an archive of a few bytes");
    let envelope = read(&annotations).unwrap();
    for place in 0..blob.len() {
        let mut other = blob.clone();
        other[place] ^= 1;
        // On its way: the manifest has another digest.
        let (plain, ended) = decrypted(&envelope, &blob, &other, &other);
        assert!(matches!(ended, Err(PassError::Digest { .. })) && plain.is_empty());
        // In an image that somebody signed without looking.
        let (plain, ended) = decrypted(&envelope, &other, &other, &other);
        assert!(matches!(ended, Err(PassError::Hmac)) && plain.is_empty());
    }
}

#[test]
fn a_blob_that_is_cut_short_is_not_decrypted() {
    let Layer { blob, annotations } = layer(&vec![5; MIB + 3]);
    let envelope = read(&annotations).unwrap();
    for length in [0, 1, MIB, MIB + 2] {
        let (plain, ended) = decrypted(&envelope, &blob, &blob[..length], &blob);
        assert!(matches!(ended, Err(PassError::Read { .. })) && plain.is_empty(), "{length}");
    }
    let (plain, ended) = decrypted(&envelope, &blob, &blob, &blob[..MIB + 2]);
    assert!(matches!(ended, Err(PassError::Read { .. })) && plain.len() == MIB);
}

#[test]
fn bytes_that_are_others_the_second_time_are_refused_at_their_mib() {
    let plain = vec![9; 3 * MIB];
    let Layer { blob, annotations } = layer(&plain);
    let envelope = read(&annotations).unwrap();
    for chunk in 0..3 {
        let mut other = blob.clone();
        other[chunk * MIB + 17] ^= 0x80;
        let (found, ended) = decrypted(&envelope, &blob, &blob, &other);
        assert!(matches!(ended, Err(PassError::Changed { chunk: at }) if at == chunk as u64));
        assert!(found == plain[..chunk * MIB]);
    }
    // Whole MiBs in another order are others, too.
    let swapped = [&blob[MIB..2 * MIB], &blob[..MIB], &blob[2 * MIB..]].concat();
    let (found, ended) = decrypted(&envelope, &blob, &blob, &swapped);
    assert!(matches!(ended, Err(PassError::Changed { chunk: 0 })) && found.is_empty());
}

#[test]
fn what_was_refused_once_is_not_read_on() {
    let Layer { blob, annotations } = layer(&vec![9; 2 * MIB]);
    let key = read(&annotations).unwrap().open(&WRAPPING_KEY).unwrap();
    let blob_of = key.authenticate(&mut blob.as_slice(), blob.len() as u64, &Digest::of(&blob)).unwrap();
    let mut other = blob.clone();
    other[0] ^= 1;
    other.extend_from_slice(&blob);
    let mut reader = blob_of.decrypt(other.as_slice());
    assert!(reader.read(&mut [0; 8]).is_err() && reader.read(&mut [0; 8]).is_err());
}

#[test]
fn the_first_time_no_byte_is_read_beyond_the_layers_last() {
    let Layer { blob, annotations } = layer(b"archive");
    let key = read(&annotations).unwrap().open(&WRAPPING_KEY).unwrap();
    let mut twice = Cursor::new([blob.clone(), blob.clone()].concat());
    let authenticated = key.authenticate(&mut twice, blob.len() as u64, &Digest::of(&blob)).unwrap();
    assert_eq!(twice.position(), blob.len() as u64);
    let mut plain = Vec::new();
    authenticated.decrypt(twice).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, b"archive");
}

#[test]
fn bytes_at_hand_can_be_had_again() {
    let mut source = Cursor::new(b"abc");
    source.read_to_end(&mut Vec::new()).unwrap();
    source.once_more().unwrap();
    let mut again = Vec::new();
    source.read_to_end(&mut again).unwrap();
    assert_eq!(again, b"abc");
}

#[test]
fn a_blob_that_says_it_is_endless_is_not_read() {
    let key = read(&layer(b"").annotations).unwrap().open(&WRAPPING_KEY).unwrap();
    let refused = key.authenticate(&mut std::io::repeat(0), u64::MAX, &Digest::of(b"")).map(drop);
    assert!(matches!(refused, Err(PassError::Long { .. })));
}

#[test]
fn another_wrapping_key_opens_nothing() {
    let envelope = read(&layer(b"x").annotations).unwrap();
    assert_eq!(envelope.open(&[8; 32]).map(drop), Err(KeyError::Another));
    for length in [0, 16, 31, 33, 44, 64] {
        let refused = envelope.open(&vec![7; length]).map(drop);
        assert_eq!(refused, Err(KeyError::Length));
    }
    let text = KeyError::Length.to_string();
    let numbers = text.split(|other: char| !other.is_ascii_digit()).filter(|number| !number.is_empty());
    assert_eq!(numbers.collect::<Vec<_>>(), ["32", "64"], "{text}");
}

/// Gives some bytes, fails, and would then give the rest.
struct Faltering<'a> {
    parts: std::vec::IntoIter<&'a [u8]>,
}

impl Read for Faltering<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.parts.next() {
            Some([]) => Err(std::io::ErrorKind::ConnectionReset.into()),
            Some(mut part) => part.read(buffer),
            None => Ok(0),
        }
    }
}

#[test]
fn a_source_that_failed_is_not_read_again_and_nothing_unchecked_is_served() {
    let Layer { blob, annotations } = layer(&[5; 64]);
    let key = read(&annotations).unwrap().open(&WRAPPING_KEY).unwrap();
    let authentic = key.authenticate(&mut blob.as_slice(), blob.len() as u64, &Digest::of(&blob)).unwrap();
    let parts = vec![&b"other"[..], &[], &blob];
    let mut plain = authentic.decrypt(Faltering { parts: parts.into_iter() });
    for _ in 0..3 {
        let error = plain.read(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(plain.changed().is_none());
}

#[test]
fn a_wrapped_key_with_one_bit_changed_is_none() {
    let annotations = layer(b"x").annotations;
    for member in ["wrapped_data", "iv"] {
        let other = changed(&annotations, KEY_ANNOTATION, |value| {
            let mut bytes = Base64::decode_vec(value[member].as_str().unwrap()).unwrap();
            bytes[0] ^= 1;
            value[member] = json!(Base64::encode_string(&bytes));
        });
        assert_eq!(read(&other).unwrap().open(&WRAPPING_KEY).map(drop), Err(KeyError::Another));
    }
}

#[test]
fn an_hmac_that_is_missing_short_or_another_is_refused() {
    let Layer { blob, annotations } = layer(b"x");
    let with = |hmac: Value| changed(&annotations, OPTIONS_ANNOTATION, |value| value["hmac"] = hmac);
    let none = changed(&annotations, OPTIONS_ANNOTATION, |value| {
        value.as_object_mut().unwrap().remove("hmac");
    });
    assert!(refused(&none).contains("hmac"));
    assert!(refused(&with(json!(""))).contains("the HMAC has 0 bytes, 32 are wanted"));
    assert!(refused(&with(json!(null))).contains("not of its form"));
    let envelope = read(&with(json!(Base64::encode_string(&[0; 32])))).unwrap();
    let (plain, ended) = decrypted(&envelope, &blob, &blob, &blob);
    assert!(matches!(ended, Err(PassError::Hmac)) && plain.is_empty());
}

#[test]
fn other_ciphers_and_wrappings_are_refused_by_name() {
    let annotations = layer(b"x").annotations;
    let with = |which, member: &str, said: Value| {
        refused(&changed(&annotations, which, |value| value[member] = said))
    };
    assert!(with(OPTIONS_ANNOTATION, "cipher", json!("AES_256_XTS")).contains("\"AES_256_XTS\""));
    assert!(with(KEY_ANNOTATION, "wrap_type", json!("A256CTR")).contains("\"A256GCM\" is supported"));
    assert!(with(KEY_ANNOTATION, "provider", json!("aliyun")).contains("\"kbs\" is supported"));
    assert!(with(KEY_ANNOTATION, "version", json!("0.2.0")).contains("\"0.1.0\" is supported"));
    assert!(with(KEY_ANNOTATION, "iv", json!("AAAA")).contains("3 bytes, 12 are wanted"));
}

#[test]
fn options_that_are_not_known_are_refused() {
    let annotations = layer(b"x").annotations;
    let with = |which, member: &str, said: Value| {
        refused(&changed(&annotations, which, |value| value[member] = said))
    };
    assert!(with(OPTIONS_ANNOTATION, "cipheroptions", json!({"nonce": "AAAA"})).contains("nonce"));
    assert!(with(OPTIONS_ANNOTATION, "pad", json!(1)).contains("pad"));
    assert!(with(KEY_ANNOTATION, "provider_settings", json!({"region": "x"})).contains("region"));
    assert!(with(KEY_ANNOTATION, "extra", json!(1)).contains("extra"));
    let null = changed(&annotations, OPTIONS_ANNOTATION, |value| value["cipheroptions"] = json!(null));
    read(&null).unwrap();
}

#[test]
fn annotations_that_are_missing_long_or_several_are_refused() {
    let annotations = layer(b"x").annotations;
    for which in [KEY_ANNOTATION, OPTIONS_ANNOTATION] {
        let mut less = annotations.clone();
        less.remove(which);
        assert!(refused(&less).contains(which));
        let more = Annotations::from([(which.to_owned(), "A".repeat(9000))]);
        let more = annotations.clone().into_iter().chain(more).collect();
        assert!(refused(&more).contains("9000 bytes"));
    }
    let mut two = annotations.clone();
    let text = two[KEY_ANNOTATION].clone();
    two.insert(KEY_ANNOTATION.to_owned(), format!("{text},{text}"));
    assert!(refused(&two).contains("2 wrapped keys"));
    two.insert(KEY_ANNOTATION.to_owned(), "{}".to_owned());
    assert!(refused(&two).contains("not in base64"));
}

/// Of a publisher who wraps something else.
fn wrapping(options: &Value) -> Envelope {
    use aes_gcm::aead::Aead;
    use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
    let cipher = Aes256Gcm::new(&WRAPPING_KEY.into());
    let wrapped = cipher.encrypt(&Nonce::from([3; 12]), options.to_string().as_bytes()).unwrap();
    let annotations = changed(&layer(b"x").annotations, KEY_ANNOTATION, |value| {
        value["wrapped_data"] = json!(Base64::encode_string(&wrapped));
    });
    read(&annotations).unwrap()
}

#[test]
fn what_was_wrapped_must_be_a_key_and_a_nonce_and_is_never_told() {
    let key = Base64::encode_string(&[0x5a; 32]);
    let nonce = Base64::encode_string(&[1; 16]);
    let good = json!({"symkey": key, "digest": "", "cipheroptions": {"nonce": nonce}});
    assert_eq!(wrapping(&good).open(&WRAPPING_KEY).unwrap().digest(), None);
    let mut bad = Vec::new();
    for (member, said) in [
        ("symkey", json!(Base64::encode_string(&[0x5a; 31]))),
        ("symkey", json!(Base64::encode_string(&[0x5a; 33]))),
        ("symkey", json!([1, 2])),
        ("digest", json!("sha512:00")),
        ("cipheroptions", json!({})),
        ("cipheroptions", json!({"nonce": Base64::encode_string(&[1; 12])})),
        ("cipheroptions", json!({"nonce": nonce, "iv": nonce})),
        ("more", json!(key)),
    ] {
        let mut options = good.clone();
        options[member] = said;
        bad.push(options);
    }
    bad.push(json!(key));
    for options in bad {
        let error = wrapping(&options).open(&WRAPPING_KEY).map(drop).unwrap_err();
        assert!(matches!(error, KeyError::Form { .. }), "{options}: {error}");
        assert!(!error.to_string().contains("WlpaWlpa"), "{error}");
    }
}

#[test]
fn another_nonce_is_another_plaintext() {
    let Layer { blob, .. } = layer(b"an archive");
    let key = Base64::encode_string(&[1; 32]);
    let nonce = Base64::encode_string(&[4; 16]);
    let envelope = wrapping(&json!({"symkey": key, "digest": "", "cipheroptions": {"nonce": nonce}}));
    // The HMAC is of `x`, under the same key.
    let of_x = layer(b"x").blob;
    let (plain, ended) = decrypted(&envelope, &of_x, &of_x, &of_x);
    ended.unwrap();
    assert_ne!(plain, b"x");
    assert!(decrypted(&envelope, &blob, &blob, &blob).1.is_err());
}

#[test]
fn media_types_say_what_is_encrypted() {
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    assert_eq!(decrypted_type(&encrypted_type(gzip)), Some(gzip));
    assert_eq!(decrypted_type(gzip), None);
}
