//! Base64 for URLs (RFC 4648, section 5), as JSON of this trade writes bytes: with padding or without.

use base64ct::{Base64Url, Base64UrlUnpadded, Encoding};

/// Decodes; `None` for anything that is not exactly one of the two forms.
pub(crate) fn url(text: &str) -> Option<Vec<u8>> {
    let decoded =
        if text.ends_with('=') { Base64Url::decode_vec(text) } else { Base64UrlUnpadded::decode_vec(text) };
    decoded.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!((url("_-8="), url("_-8")), (Some(vec![0xff, 0xef]), Some(vec![0xff, 0xef])));
    }

    #[test]
    fn the_other_alphabet_is_refused() {
        assert_eq!(url("/+8="), None);
    }
}
