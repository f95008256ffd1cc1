//! The few elements of DER (ITU-T X.690) that certificates are written with.

use der::asn1::ObjectIdentifier;

/// What every name below a simulated root says of itself.
const ORGANIZATION: &[u8] = b"SIMULATED: proves nothing about hardware";

const COMMON_NAME: &str = "2.5.4.3";
const ORGANIZATION_NAME: &str = "2.5.4.10";

/// An element of at most 65535 bytes; a longer one, which nothing here makes, is cut.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let content = content.get(..usize::from(u16::MAX)).unwrap_or(content);
    let header = match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ 0..0x80] => vec![tag, short],
        [0, short] => vec![tag, 0x81, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [header.as_slice(), content].concat()
}

/// An object identifier; text that is none, which nothing here has, becomes an empty one.
pub fn identifier(text: &str) -> Vec<u8> {
    let parsed = ObjectIdentifier::new(text);
    element(0x06, parsed.as_ref().map_or(&[], |oid| oid.as_bytes()))
}

/// A name with an organization that says what it is, and a common name.
pub fn named(common: &str) -> Vec<u8> {
    let attribute = |of: &str, value: &[u8]| {
        element(0x31, &element(0x30, &[identifier(of), element(0x0c, value)].concat()))
    };
    let parts = [attribute(ORGANIZATION_NAME, ORGANIZATION), attribute(COMMON_NAME, common.as_bytes())];
    element(0x30, &parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_as_few_bytes_as_they_need() {
        let header = |length: usize| element(4, &vec![0; length])[..4].to_vec();
        assert_eq!(header(0x7f)[..2], [4, 0x7f]);
        assert_eq!(header(0x80)[..3], [4, 0x81, 0x80]);
        assert_eq!(header(0x100), [4, 0x82, 1, 0]);
    }

    #[test]
    fn an_identifier_is_written() {
        assert_eq!(identifier("2.5.4.3"), [6, 3, 0x55, 4, 3]);
    }
}
