//! The library for TLS and the code in Rust, asked the same.

use coffer_attestation::curves::{Curve, Curves};
use coffer_verifier::curves::AwsLc;
use p256::elliptic_curve::sec1::ToSec1Point;
use p384::ecdsa::signature::{Signer, Verifier};

/// Orders of the curves' groups.
const N256: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const N384: &str =
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";

/// One question, in the form in which it is asked: point, message, signature.
type Question = (Vec<u8>, Vec<u8>, Vec<u8>);

/// A good signature, and every way in which one bit of it, of its message or of its key can be wrong.
fn flipped((point, message, signature): &Question) -> Vec<Question> {
    let one = |bytes: &[u8], bit: usize| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    };
    let signatures =
        (0..signature.len() * 8).map(|bit| (point.clone(), message.clone(), one(signature, bit)));
    let messages = (0..message.len() * 8).map(|bit| (point.clone(), one(message, bit), signature.clone()));
    let points = (0..point.len() * 8).map(|bit| (one(point, bit), message.clone(), signature.clone()));
    std::iter::once((point.clone(), message.clone(), signature.clone()))
        .chain(signatures)
        .chain(messages)
        .chain(points)
        .collect()
}

/// Numbers at the ends of what is allowed, in each place; halves swapped; other lengths.
fn odd((point, message, signature): &Question, order: &str) -> Vec<Question> {
    let order = hex::decode(order).expect("hexadecimal");
    let (r, s) = signature.split_at(signature.len() / 2);
    let (zero, mut one, ones) = (vec![0; r.len()], vec![0; r.len()], vec![0xff; r.len()]);
    one[r.len() - 1] = 1;
    let mut below = order.clone();
    below[r.len() - 1] -= 1;
    let numbers = [zero, one, ones, order, below];
    let mut all: Vec<Vec<u8>> =
        numbers.iter().flat_map(|number| [[number, s].concat(), [r, number].concat()]).collect();
    all.extend([[s, r].concat(), r.to_vec(), [signature.as_slice(), &[0]].concat(), Vec::new()]);
    all.into_iter().map(|signature| (point.clone(), message.clone(), signature)).collect()
}

fn in_rust(curve: Curve, (point, message, signature): &Question) -> bool {
    match curve {
        Curve::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok_and(|key| {
            p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok())
        }),
        Curve::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok_and(|key| {
            p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok())
        }),
    }
}

/// Holds both against each other; exactly the first question is to be answered with yes.
fn held_against_each_other(curve: Curve, question: &Question, order: &str) -> usize {
    let all: Vec<Question> = flipped(question).into_iter().chain(odd(question, order)).collect();
    let differs = all.iter().enumerate().find_map(|(number, question)| {
        let (point, message, signature) = question;
        let (theirs, ours) = (AwsLc.verifies(curve, point, message, signature), in_rust(curve, question));
        (theirs != ours || ours != (number == 0)).then(|| format!("{number}: {theirs} and {ours}"))
    });
    assert_eq!(differs, None);
    all.len()
}

#[test]
fn both_say_the_same_of_every_changed_signature_on_p_384() {
    let key = p384::ecdsa::SigningKey::from_slice(&[5; 48]).expect("a key");
    let signature: p384::ecdsa::Signature = key.sign(b"a report");
    let point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let question = (point, b"a report".to_vec(), signature.to_bytes().to_vec());
    assert!(held_against_each_other(Curve::P384, &question, N384) > 1600);
}

#[test]
fn both_say_the_same_of_every_changed_signature_on_p_256() {
    let key = p256::ecdsa::SigningKey::from_slice(&[6; 32]).expect("a key");
    let signature: p256::ecdsa::Signature = key.sign(b"a token");
    let point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let question = (point, b"a token".to_vec(), signature.to_bytes().to_vec());
    assert!(held_against_each_other(Curve::P256, &question, N256) > 1000);
}

#[test]
fn what_is_agreed_on_is_what_the_other_side_computes() {
    let guest = p256::SecretKey::from_slice(&[7; 32]).expect("a key");
    let peer = guest.public_key().to_sec1_point(false);
    let (one, two) = (
        AwsLc.agree_p256(peer.as_bytes()).expect("agreed"),
        AwsLc.agree_p256(peer.as_bytes()).expect("agreed"),
    );
    let point = p256::PublicKey::from_sec1_bytes(&one.point).expect("a point");
    assert_eq!(guest.diffie_hellman(&point).raw_secret_bytes().as_slice(), one.shared.as_slice());
    assert_eq!((one.point.len(), one.shared.len()), (65, 32));
    assert_ne!(one.point, two.point, "made for one message");
}

#[test]
fn nothing_is_agreed_on_with_a_point_off_the_curve() {
    let guest = p256::SecretKey::from_slice(&[7; 32]).expect("a key");
    let mut off = guest.public_key().to_sec1_point(false).as_bytes().to_vec();
    off[64] ^= 1;
    assert!(AwsLc.agree_p256(&off).is_none());
    assert!(AwsLc.agree_p256(&[]).is_none());
}
