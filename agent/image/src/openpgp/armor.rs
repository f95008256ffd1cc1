//! The form with printable characters (RFC 4880, section 6.2). Its checksum is no protection and is not looked at.

use std::borrow::Cow;

use base64ct::{Base64, Encoding};

const BEGINS: &str = "-----BEGIN PGP ";
const ENDS: &str = "-----END PGP ";

/// The bytes of `input`, which may be in that form: those of every block, one behind the other, as a revocation stands behind its
/// key. `None` for a form that is broken off.
pub(super) fn without_armor(input: &[u8]) -> Option<Cow<'_, [u8]>> {
    // A packet's first byte has its highest bit set.
    if input.first().is_none_or(|byte| byte & 0x80 != 0) {
        return Some(Cow::Borrowed(input));
    }
    let text = std::str::from_utf8(input).ok()?;
    let mut lines = text.lines().map(str::trim_end);
    let mut all = None;
    while lines.any(|line| line.starts_with(BEGINS)) {
        all.get_or_insert_with(Vec::new).extend(block(&mut lines)?);
    }
    all.map(Cow::Owned)
}

/// The rest of one block: headers, an empty line, and what it holds.
fn block<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    while !lines.next().filter(|line| !line.starts_with('-'))?.is_empty() {}
    let mut body = String::new();
    for line in lines {
        if line.starts_with(ENDS) {
            return Base64::decode_vec(&body).ok();
        }
        if !line.starts_with('=') {
            body.push_str(line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_checksum_are_left_out() {
        let text =
            b"-----BEGIN PGP MESSAGE-----\nComment: x\n\nAQID\nBAU=\n=abcd\n-----END PGP MESSAGE-----\n";
        assert_eq!(without_armor(text).as_deref(), Some(&[1, 2, 3, 4, 5][..]));
    }

    #[test]
    fn every_block_counts() {
        let one = "-----BEGIN PGP MESSAGE-----\n\nAQID\n-----END PGP MESSAGE-----\n";
        let two = format!("{one}between\n{}", one.replace("AQID", "BAU="));
        assert_eq!(without_armor(two.as_bytes()).as_deref(), Some(&[1, 2, 3, 4, 5][..]));
        let broken_off = format!("{one}-----BEGIN PGP MESSAGE-----\n\nAQID\n");
        assert_eq!(without_armor(broken_off.as_bytes()), None);
    }

    #[test]
    fn what_breaks_off_is_none() {
        assert_eq!(without_armor(b"-----BEGIN PGP MESSAGE-----\n\nAQID\n"), None);
        assert_eq!(without_armor(b"something"), None);
    }
}
