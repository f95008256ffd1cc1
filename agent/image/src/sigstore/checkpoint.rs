//! A log's checkpoint: a signed note that says how many entries there are and what their root is.

use base64ct::{Base64, Encoding};
use coffer_attestation::x509::PublicKey;

const MAX_BYTES: usize = 16 << 10;
const MAX_SIGNATURES: usize = 16;

/// Size and root, if `key` signed the note.
pub(super) fn verify(note: &str, key: &PublicKey) -> Result<(u64, Vec<u8>), &'static str> {
    if note.len() > MAX_BYTES {
        return Err("the checkpoint is too long");
    }
    let (text, signatures) = note.rsplit_once("\n\n").ok_or("the checkpoint has no signatures")?;
    // The empty line's first line feed belongs to the text.
    let text = format!("{text}\n");
    let mut lines = text.lines();
    let mut line = || lines.next().ok_or("the checkpoint has no size and root");
    line()?;
    let size = line()?.parse().map_err(|_| "the checkpoint's size is no number")?;
    let root = Base64::decode_vec(line()?).map_err(|_| "the checkpoint's root is no base64")?;
    let signed = signatures.lines().take(MAX_SIGNATURES).any(|line| {
        let signature = signature_of(line);
        signature
            .is_some_and(|signature| key.verify(key.usual_algorithm(), text.as_bytes(), &signature).is_ok())
    });
    if signed { Ok((size, root)) } else { Err("the log's key did not sign the checkpoint") }
}

/// A dash, the signer's name, and base64 of four bytes of the key's hash with the signature behind them.
fn signature_of(line: &str) -> Option<Vec<u8>> {
    let (_, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let bytes = Base64::decode_vec(encoded).ok()?;
    bytes.get(4..).map(<[u8]>::to_vec)
}
