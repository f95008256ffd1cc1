//! `coffer audit verify` on logs as a verifier writes them.

use std::path::Path;
use std::process::{Command, Output};

use base64ct::{Base64, Encoding};
use coffer_attestation::audit::{Chain, Checkpoint, Frontier, leaf_hash, link_after};
use coffer_attestation::time::UnixTime;
use p256::ecdsa::SigningKey;

/// A log of `count` entries, and its checkpoint.
fn log(count: u64) -> (Vec<u8>, Checkpoint) {
    let (mut text, mut tree, mut link) = (String::new(), Frontier::default(), Chain::default().last_link());
    (0..count).for_each(|number| {
        let entry = format!("{{\"at\":\"2026-11-22T00:00:00Z\",\"what\":{{\"released\":{number}}}}}");
        let leaf = leaf_hash(entry.as_bytes());
        link = link_after(&link, &leaf);
        tree.push(leaf);
        text.push_str(&format!("{number} {} {entry}\n", hex::encode(link)));
    });
    (text.into_bytes(), Checkpoint { size: count, root: tree.root(), at: UnixTime(1_800_000_000) })
}

fn verify(folder: &Path, log: &[u8], signed: &str, key: &SigningKey) -> Output {
    std::fs::write(folder.join("log"), log).expect("written");
    std::fs::write(folder.join("checkpoint"), signed).expect("written");
    let key = Base64::encode_string(&key.verifying_key().to_sec1_bytes());
    let mut coffer = Command::new(env!("CARGO_BIN_EXE_coffer"));
    coffer
        .args(["audit", "verify"])
        .arg(folder.join("log"))
        .arg("--checkpoint")
        .arg(folder.join("checkpoint"));
    coffer.arg("--key").arg(key).output().expect("coffer")
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_flipped_byte_of_10_000_entries_is_found_and_located_and_a_whole_log_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::from_slice(&[7; 32]).expect("a scalar");
    let (mut log, checkpoint) = log(10_000);
    let signed = checkpoint.sign(&key);
    let whole = said(&verify(folder.path(), &log, &signed, &key));
    assert_eq!(whole, (Some(0), "whole: 10000 entries, beginning with those of the checkpoint\n".to_owned()));
    let at = log.len() * 2 / 3;
    let line = log[..at].iter().filter(|byte| **byte == b'\n').count();
    log[at] ^= 1;
    let (code, text) = said(&verify(folder.path(), &log, &signed, &key));
    assert_eq!(code, Some(3));
    assert!(text.starts_with(&format!("line {line}, bytes ")), "{text}");
}

#[test]
fn a_log_without_its_end_or_a_checkpoint_of_another_key_is_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let [key, other] = [7, 8].map(|scalar| SigningKey::from_slice(&[scalar; 32]).expect("a scalar"));
    let (shorter, _) = log(9);
    let signed = log(10).1.sign(&key);
    let cut = said(&verify(folder.path(), &shorter, &signed, &key));
    assert_eq!(cut, (Some(3), "the log has 9 entries, the checkpoint speaks of 10\n".to_owned()));
    let foreign = verify(folder.path(), &shorter, &signed, &other);
    assert_eq!(foreign.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("signature does not match"));
}
