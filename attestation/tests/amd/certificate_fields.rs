//! One field of a real VCEK is changed and the certificate is not signed anew. Each case must name the issuer, and every
//! check that looks at the field.

use coffer_attestation::x509::Certificate;

use super::case::{Case, Expected, NOW, VECTORS, Vector, judge};

/// Object identifier of AMD's extensions, in DER, without its last number.
const AMD: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];

/// Where a field is: behind the `occurrence`th place of `pattern`, counted from 0 (`usize::MAX`: the last), and `skip` bytes.
struct Place {
    pattern: Vec<u8>,
    occurrence: usize,
    skip: usize,
}

enum Says {
    Reasons(&'static [&'static str]),
    Unread(&'static str),
}

struct Change {
    field: &'static str,
    place: Place,
    bytes: Vec<u8>,
    says: Says,
}

const ISSUER: &[&str] = &["vek-issuer"];
const PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const SALT: &[u8] = &[0xa2, 0x03, 0x02, 0x01];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const UTC_TIME: &[u8] = &[0x17, 0x0d];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const POINT: &[u8] = &[0x03, 0x62, 0x00, 0x04];
const SIGNATURE: &[u8] = &[0x03, 0x82, 0x02, 0x01, 0x00];

/// Each change of each VCEK.
pub(crate) fn cases() -> Vec<Case> {
    VECTORS.iter().flat_map(|vector| changes(vector).into_iter().map(|change| case(vector, change))).collect()
}

fn changes(vector: &Vector) -> Vec<Change> {
    let mut all = names_and_numbers(vector);
    all.extend(extensions(vector));
    all
}

fn names_and_numbers(vector: &Vector) -> Vec<Change> {
    let validity: &[&str] = &["vek-issuer", "vek-validity"];
    let format: &[&str] = &["vek-issuer", "vek-format"];
    let at = |pattern: &[u8], occurrence, skip| Place { pattern: pattern.to_vec(), occurrence, skip };
    let change = |field, place, bytes: &[u8], says| Change { field, place, bytes: bytes.to_vec(), says };
    let (product, says): (&[u8], &[&str]) = match vector.name {
        "turin-v5" => (b"Milan", &["vek-issuer", "generation", "tcb-fmc"]),
        "genoa-v3" => (b"Milan", &["vek-issuer", "generation"]),
        // A version 2 report names no generation: only the chain tells.
        "milan-v2" => (b"Siena", ISSUER),
        _ => (b"Siena", &["vek-issuer", "generation"]),
    };
    vec![
        change("version 1", at(&[0xa0, 0x03, 0x02, 0x01], 0, 0), &[0], Says::Reasons(ISSUER)),
        change(
            "serial number",
            at(&[0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01], 0, 0),
            &[1],
            Says::Reasons(ISSUER),
        ),
        change("first signature algorithm", at(PSS, 0, 0).back(1), &[0x0b], Says::Reasons(ISSUER)),
        change("second signature algorithm", at(PSS, 1, 0).back(1), &[0x0b], Says::Reasons(ISSUER)),
        change("first salt length", at(SALT, 0, 0), &[0x20], Says::Reasons(ISSUER)),
        change("second salt length", at(SALT, 1, 0), &[0x20], Says::Reasons(ISSUER)),
        change("issuer", at(COMMON_NAME, 0, 2), b"XEV", Says::Reasons(ISSUER)),
        change("first day", at(UTC_TIME, 0, 0), b"29", Says::Reasons(validity)),
        change("last day", at(UTC_TIME, 1, 0), b"26", Says::Reasons(validity)),
        change("subject", at(COMMON_NAME, 1, 2), b"SEV-VCEX", Says::Reasons(format)),
        change("subject of a VLEK", at(COMMON_NAME, 1, 2), b"SEV-VLEK", Says::Reasons(format)),
        change("curve", at(P384, 0, 0).back(1), &[0x23], Says::Unread("no point on P-521")),
        change("public key, X", at(POINT, 0, 0), &[0; 48], Says::Unread("no point on P-384")),
        change("public key, form", at(POINT, 0, 0).back(1), &[5], Says::Unread("no point on P-384")),
        change("product", at(&[AMD, &[0x02]].concat(), 0, 4), product, Says::Reasons(says)),
        change(
            "product that is unknown",
            at(&[AMD, &[0x02]].concat(), 0, 4),
            b"Venus",
            Says::Reasons(format),
        ),
        change("signature, first byte", at(SIGNATURE, 0, 0), &[0], Says::Reasons(ISSUER)),
        change("signature, middle", at(SIGNATURE, 0, 256), &[0, 0], Says::Reasons(ISSUER)),
        change("signature, last byte", at(SIGNATURE, 0, 510), &[0, 0], Says::Reasons(ISSUER)),
    ]
}

fn extensions(vector: &Vector) -> Vec<Change> {
    let turin = vector.name == "turin-v5";
    let inside = |last: &[u8], skip| Place { pattern: [AMD, last].concat(), occurrence: 0, skip };
    let value = |field, last: &[u8], bytes: &[u8], says| Change {
        field,
        // Behind the identifier: the octet string's tag and length, the integer's tag.
        place: inside(last, 3),
        bytes: bytes.to_vec(),
        says: Says::Reasons(says),
    };
    let lost = |field, last: &'static [u8]| Change {
        field,
        place: inside(last, 0).back(1),
        bytes: vec![0x0f],
        says: Says::Reasons(&["vek-issuer", "vek-format"]),
    };
    let microcode: &[u8] = if vector.name == "milan-v3" { &[2, 0, 1] } else { &[1, 1] };
    let microcode_says: &[&str] = &["vek-issuer", "tcb-microcode"];
    let mut all = vec![
        value("structure version", &[0x01], &[1, 7], ISSUER),
        value("boot loader", &[3, 1], &[1, 0x63], &["vek-issuer", "tcb-boot-loader"]),
        value("tee", &[3, 2], &[1, 0x63], &["vek-issuer", "tcb-tee"]),
        value("snp", &[3, 3], &[1, 0x63], &["vek-issuer", "tcb-snp"]),
        value("reserved version 5", &[3, 5], &[1, 0x63], ISSUER),
        value("reserved version 6", &[3, 6], &[1, 0x63], ISSUER),
        value("reserved version 7", &[3, 7], &[1, 0x63], ISSUER),
        lost("boot loader's identifier", &[3, 1]),
        lost("tee's identifier", &[3, 2]),
        lost("snp's identifier", &[3, 3]),
        lost("microcode's identifier", &[3, 8]),
        lost("product's identifier", &[2]),
        lost("hardware id's identifier", &[4]),
    ];
    let ucode = if vector.name == "milan-v3" {
        value("microcode", &[3, 8], microcode, &["vek-issuer", "vek-format"])
    } else {
        value("microcode", &[3, 8], microcode, microcode_says)
    };
    all.push(ucode);
    all.push(Change {
        field: "hardware id",
        place: inside(&[4, 4], 1),
        bytes: vec![0, 1, 2, 3],
        says: Says::Reasons(&["vek-issuer", "chip-id"]),
    });
    all.push(Change {
        field: "one extension twice",
        place: inside(&[3, 6], 0).back(1),
        bytes: vec![7],
        says: Says::Unread("appears more than once"),
    });
    if turin {
        all.push(value("fmc", &[3, 9], &[1, 0x63], &["vek-issuer", "tcb-fmc"]));
        all.push(lost("fmc's identifier", &[3, 9]));
    }
    all
}

impl Place {
    /// Begins inside the pattern, `bytes` before its end.
    fn back(mut self, bytes: usize) -> Self {
        self.skip = self.skip.wrapping_sub(bytes);
        self
    }

    fn find(&self, der: &[u8]) -> Option<usize> {
        let windows = der.windows(self.pattern.len()).enumerate();
        let mut places = windows.filter(|(_, window)| *window == self.pattern.as_slice()).map(|(at, _)| at);
        places.nth(self.occurrence).map(|at| (at + self.pattern.len()).wrapping_add(self.skip))
    }
}

fn case(vector: &Vector, change: Change) -> Case {
    let name = format!("{}: VCEK's {}", vector.name, change.field);
    let mut der = vector.vek.to_vec();
    let start = change.place.find(&der).unwrap_or_else(|| panic!("{name}: no such place"));
    der[start..start + change.bytes.len()].copy_from_slice(&change.bytes);
    assert_ne!(der, vector.vek, "{name} is no change");
    let seen = Certificate::from_der(&der).map_err(|error| error.to_string()).and_then(|vek| {
        let evidence = coffer_attestation::snp::Evidence { vek, ..vector.evidence() };
        judge(&evidence, &vector.expectations(), NOW)
    });
    let expected = match change.says {
        Says::Reasons(reasons) => vector.reasons(reasons),
        Says::Unread(words) => Expected::Unread(words),
    };
    Case { name, seen, expected }
}
