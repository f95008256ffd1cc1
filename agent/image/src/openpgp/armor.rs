//! The form with printable characters (RFC 4880, section 6.2). Its checksum is no protection and is not looked at.

use std::borrow::Cow;

use base64ct::{Base64, Encoding};

/// The bytes of `input`, which may be in that form; `None` for a form that is broken off.
pub(super) fn without_armor(input: &[u8]) -> Option<Cow<'_, [u8]>> {
    // A packet's first byte has its highest bit set.
    if input.first().is_none_or(|byte| byte & 0x80 != 0) {
        return Some(Cow::Borrowed(input));
    }
    let text = std::str::from_utf8(input).ok()?;
    let mut lines = text.lines().map(str::trim_end).skip_while(|line| !line.starts_with("-----BEGIN PGP "));
    lines.next()?;
    let mut body = String::new();
    for line in lines.skip_while(|line| !line.is_empty()).skip(1) {
        if line.starts_with("-----END PGP ") {
            return Base64::decode_vec(&body).ok().map(Cow::Owned);
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
    fn what_breaks_off_is_none() {
        assert_eq!(without_armor(b"-----BEGIN PGP MESSAGE-----\n\nAQID\n"), None);
        assert_eq!(without_armor(b"something"), None);
    }
}
