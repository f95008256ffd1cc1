//! A log's checkpoint: a signed note that says how many entries there are and what their root is.

use base64ct::{Base64, Encoding};
use sha2::{Digest as _, Sha256};

use crate::trusted_root::LogKey;
use crate::work::Work;

const MAX_BYTES: usize = 16 << 10;
const MAX_LINES: usize = 16;
/// The most signatures that call themselves the log's and are verified.
const MAX_SIGNATURES: usize = 2;

/// A note; whoever signed it was not looked at.
pub(super) struct Checkpoint<'a> {
    pub(super) size: u64,
    pub(super) root: Vec<u8>,
    text: String,
    signatures: &'a str,
}

impl<'a> Checkpoint<'a> {
    pub(super) fn read(note: &'a str) -> Result<Self, String> {
        if note.len() > MAX_BYTES {
            return Err("the checkpoint is too long".to_owned());
        }
        let (text, signatures) = note.rsplit_once("\n\n").ok_or("the checkpoint has no signatures")?;
        // The empty line's first line feed belongs to the text.
        let text = format!("{text}\n");
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or("the checkpoint has no size and root");
        line()?;
        let size = line()?.parse().map_err(|_| "the checkpoint's size is no number")?;
        let root = Base64::decode_vec(line()?).map_err(|_| "the checkpoint's root is no base64")?;
        Ok(Self { size, root, text, signatures })
    }

    /// Checks that `log` signed it.
    pub(super) fn check_signed_by(&self, log: &LogKey, work: &Work) -> Result<(), String> {
        let signed = self.signatures.lines().take(MAX_LINES).filter_map(|line| signature_of(line, log));
        let mut why = "the log's key did not sign the checkpoint".to_owned();
        for signature in signed.take(MAX_SIGNATURES) {
            match log.key.verify_usual(self.text.as_bytes(), &signature, work) {
                Ok(()) => return Ok(()),
                Err(reason) => why = format!("the checkpoint of the log: {reason}"),
            }
        }
        Err(why)
    }
}

/// A dash, the signer's name, and base64 of four bytes that hint at the key with the signature behind them. Other signers have
/// their lines in the same note; a line is `log`'s if the hint is.
fn signature_of(line: &str, log: &LogKey) -> Option<Vec<u8>> {
    let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let bytes = Base64::decode_vec(encoded).ok()?;
    let (hint, signature) = bytes.split_first_chunk::<4>()?;
    let by_id = log.id.as_deref().is_some_and(|id| id.starts_with(hint));
    (by_id || log.key.id().starts_with(hint) || noted(name, log).starts_with(hint))
        .then(|| signature.to_vec())
}

/// How signed notes call a key on Ed25519: by the hash of its holder's name, a one, and its 32 bytes, which are the last of the DER.
fn noted(name: &str, log: &LogKey) -> [u8; 32] {
    let key = log.key.spki().last_chunk::<32>().map(<[u8; 32]>::as_slice).unwrap_or_default();
    Sha256::new_with_prefix(name).chain_update(b"\n\x01").chain_update(key).finalize().into()
}
