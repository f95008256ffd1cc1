//! The authorities above a real VCEK are changed, left out, or replaced.

use coffer_attestation::snp::Evidence;
use coffer_attestation::x509::Certificate;

use super::case::{Case, Expected, NOW, VECTORS, Vector, judge};

/// Each change of each vector's authorities.
pub(crate) fn cases() -> Vec<Case> {
    VECTORS
        .iter()
        .flat_map(|vector| [replaced(vector), bits(vector), dates(vector)].into_iter().flatten())
        .collect()
}

/// Other certificates than the right ones in the right places.
fn replaced(vector: &Vector) -> Vec<Case> {
    let [ask, ark, asvk] = vector.authorities();
    let vek = vector.evidence().vek;
    let others = VECTORS.iter().filter(|other| other.authorities != vector.authorities);
    let mut cases: Vec<Case> = others
        .map(|other| {
            let name = format!("{}: authorities of {}", vector.name, other.name);
            given(vector, name, other.authorities().to_vec(), &["vek-issuer"])
        })
        .collect();
    let sets: [(&str, Vec<Certificate>); 4] = [
        ("the ARK alone", vec![ark.clone()]),
        ("the ASVK in place of the ASK", vec![asvk, ark.clone()]),
        ("the VCEK in place of the ASK", vec![vek.clone(), ark.clone()]),
        ("the VCEK in every place", vec![vek.clone(), vek]),
    ];
    cases.extend(
        sets.into_iter()
            .map(|(what, set)| given(vector, format!("{}: {what}", vector.name), set, &["vek-issuer"])),
    );
    let ask_as_root = format!("{}: an ARK of another generation", vector.name);
    let other =
        VECTORS.iter().find(|other| other.authorities != vector.authorities).expect("another generation");
    let [_, other_ark, _] = other.authorities();
    cases.push(given(vector, ask_as_root, vec![ask, other_ark], &["intermediate-issuer"]));
    cases
}

/// One bit of an authority's DER.
fn bits(vector: &Vector) -> Vec<Case> {
    // Offsets from the end lie in the signature; the modulus is found by its header.
    let places: [(&str, usize, Place, &[&str]); 6] = [
        ("ASK's signature", 0, Place::End(1), &["intermediate-issuer", "revocation"]),
        (
            "ASK's serial number",
            0,
            Place::Behind(&[0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x03], 1),
            &["intermediate-issuer", "revocation"],
        ),
        (
            "ASK's modulus",
            0,
            Place::Behind(&[0x02, 0x82, 0x02, 0x01, 0x00], 100),
            &["vek-issuer", "intermediate-issuer", "revocation"],
        ),
        ("ARK's signature", 1, Place::End(1), &["root-of-trust"]),
        (
            "ARK's serial number",
            1,
            Place::Behind(&[0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x03], 1),
            &["root-of-trust"],
        ),
        (
            "ARK's modulus",
            1,
            Place::Behind(&[0x02, 0x82, 0x02, 0x01, 0x00], 100),
            &["intermediate-issuer", "root-of-trust"],
        ),
    ];
    let case = |(what, which, place, reasons): (&str, usize, Place, &[&'static str])| {
        let [ask, ark, _] = vector.authorities();
        let mut set = [ask.der().to_vec(), ark.der().to_vec()];
        let at = place.find(&set[which]);
        set[which][at] ^= 1;
        let set = set.iter().map(|der| Certificate::from_der(der).expect("still a certificate")).collect();
        given(vector, format!("{}: {what}", vector.name), set, reasons)
    };
    places.into_iter().map(case).collect()
}

/// The right authorities at the wrong time.
fn dates(vector: &Vector) -> Vec<Case> {
    let all = &["vek-validity", "intermediate-validity", "root-validity"];
    let times: [(&str, &[&'static str]); 4] = [
        ("1971-01-01T00:00:00Z", all),
        ("2020-01-01T00:00:00Z", all),
        ("2040-01-01T00:00:00Z", &["vek-validity"]),
        ("2050-01-01T00:00:00Z", all),
    ];
    let case = |(at, reasons): (&str, &[&'static str])| Case {
        name: format!("{} at {at}", vector.name),
        seen: judge(&vector.evidence(), &vector.expectations(), at),
        expected: vector.reasons(reasons),
    };
    times.into_iter().map(case).collect()
}

fn given(vector: &Vector, name: String, authorities: Vec<Certificate>, reasons: &[&'static str]) -> Case {
    let evidence = Evidence { authorities, ..vector.evidence() };
    let expected: Expected = vector.reasons(reasons);
    Case { name, seen: judge(&evidence, &vector.expectations(), NOW), expected }
}

enum Place {
    /// So many bytes from the end.
    End(usize),
    /// So many bytes behind the first place of a pattern.
    Behind(&'static [u8], usize),
}

impl Place {
    fn find(&self, der: &[u8]) -> usize {
        match self {
            Place::End(bytes) => der.len() - bytes,
            Place::Behind(pattern, bytes) => {
                let mut windows = der.windows(pattern.len());
                windows.position(|window| window == *pattern).expect("the pattern") + pattern.len() + bytes
            }
        }
    }
}
