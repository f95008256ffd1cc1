//! Names of certificates' holders, as Notation's trust policies write them: `x509.subject: C=US, ST=WA, O=example`.

use std::fmt::{self, Display};

/// Attributes that a name must have in Notation's policies.
const NEEDED: [&str; 3] = ["C", "ST", "O"];
const MAX_ATTRIBUTES: usize = 16;

/// Everybody whom the trust store vouches for, or who has all of these attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Distinguished {
    Anybody,
    Holder(Vec<(String, String)>),
}

impl Distinguished {
    /// Reads `*`, or a name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Anybody);
        }
        let name = text.strip_prefix("x509.subject:").ok_or("write * or x509.subject: and a name")?;
        let attributes = attributes(name, |text| text.trim_matches(' '))
            .ok_or("write a name as in C=US, ST=WA, O=example, without + and escapes")?;
        let missing = NEEDED.iter().find(|needed| attributes.iter().all(|(kind, _)| kind != *needed));
        match missing {
            Some(missing) => Err(format!("the name needs {missing}=")),
            None => Ok(Self::Holder(attributes)),
        }
    }

    /// Whether the holder called `subject` (RFC 4514) is meant. A name with escapes is nobody's: it could be read in two ways.
    pub(crate) fn fits(&self, subject: &str) -> bool {
        match self {
            Self::Anybody => true,
            // A space is part of a name that a certificate says.
            Self::Holder(wanted) => attributes(subject, |text| text)
                .is_some_and(|found| wanted.iter().all(|attribute| found.contains(attribute))),
        }
    }
}

impl Display for Distinguished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody whom the trust store vouches for"),
            Self::Holder(wanted) => {
                let parts: Vec<String> =
                    wanted.iter().map(|(kind, value)| format!("{kind}={value}")).collect();
                f.write_str(&parts.join(", "))
            }
        }
    }
}

/// Kinds and values; `None` for a kind that is there twice, and for whatever needs escapes or was made printable.
fn attributes(text: &str, trimmed: fn(&str) -> &str) -> Option<Vec<(String, String)>> {
    if text.contains(['\\', '"', '+', '#', ';', '<', '>', char::REPLACEMENT_CHARACTER]) {
        return None;
    }
    let mut all: Vec<(String, String)> = Vec::new();
    for part in text.split(',') {
        let (kind, value) = part.split_once('=')?;
        let (kind, value) = (trimmed(kind).to_ascii_uppercase(), trimmed(value).to_owned());
        let twice = all.iter().any(|(other, _)| *other == kind);
        if kind.is_empty() || value.is_empty() || twice || all.len() >= MAX_ATTRIBUTES {
            return None;
        }
        all.push((kind, value));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Distinguished {
        Distinguished::parse("x509.subject: C=US, ST=WA, O=example").expect("a name")
    }

    #[test]
    fn a_holder_may_have_more_attributes_in_any_order() {
        assert!(example().fits("CN=app,O=example,ST=WA,C=US"));
        assert!(!example().fits("CN=app,O=example2,ST=WA,C=US") && !example().fits("O=example,C=US"));
    }

    #[test]
    fn a_name_with_escapes_or_twice_the_same_is_nobodys() {
        assert!(!example().fits("CN=x\\,O=example,ST=WA,C=US"));
        assert!(!example().fits("O=other,O=example,ST=WA,C=US"));
    }

    #[test]
    fn white_space_around_a_name_is_part_of_it() {
        for space in [' ', '\u{a0}', '\u{2003}', '\u{3000}', '\t'] {
            assert!(!example().fits(&format!("O=example{space},ST=WA,C=US")), "{space:?}");
        }
        let wide = Distinguished::parse("x509.subject: C=US, ST=WA, O=example\u{a0}").expect("a name");
        assert!(!wide.fits("O=example,ST=WA,C=US") && wide.fits("O=example\u{a0},ST=WA,C=US"));
    }

    #[test]
    fn a_name_without_country_state_or_organization_is_refused() {
        assert_eq!(Distinguished::parse("x509.subject: C=US, O=a"), Err("the name needs ST=".to_owned()));
        assert!(Distinguished::parse("C=US").is_err());
    }
}
