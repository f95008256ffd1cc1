//! Revocation lists (RFC 5280, section 5) of simulated roots.

use p384::ecdsa::SigningKey;

use super::asn1::{element, identifier, named};
use super::certificate::sign;

const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
/// When everything on a list was revoked.
const REVOKED: &[u8] = b"260601000000Z";

/// A list in DER of `issuer`, signed with its key, which names certificates by serial number and is good between two dates as
/// UTCTime has them: `261101000000Z`.
pub fn revocation_list(
    issuer: &str,
    signer: &SigningKey,
    serials: &[u8],
    [from, until]: [&str; 2],
) -> Vec<u8> {
    let entry = |serial: &u8| element(0x30, &[element(0x02, &[*serial]), element(0x17, REVOKED)].concat());
    let entries: Vec<u8> = serials.iter().flat_map(entry).collect();
    // A list that names nobody has no sequence of names.
    let entries = if entries.is_empty() { entries } else { element(0x30, &entries) };
    let parts = [
        element(0x02, &[1]),
        element(0x30, &identifier(ECDSA_SHA384)),
        named(issuer),
        element(0x17, from.as_bytes()),
        element(0x17, until.as_bytes()),
        entries,
    ];
    sign(&element(0x30, &parts.concat()), signer, ECDSA_SHA384)
}

#[cfg(test)]
mod tests {
    use crate::sim::{FIRMWARE, Processor};
    use crate::x509::RevocationList;

    #[test]
    fn a_processors_list_is_its_roots_and_names_what_it_is_told() {
        let processor = Processor::new(&[1; 32], FIRMWARE);
        let list = processor.revocation_list(&[1, 7], ["261101000000Z", "261201000000Z"]);
        let list = RevocationList::from_der(&list).expect("a list");
        let root = processor.root().expect("a root");
        assert_eq!(list.check(&root, "2026-11-21T12:00:00Z".parse().expect("a time")), Ok(()));
        assert_eq!((list.len(), list.names(&root)), (2, true));
    }
}
