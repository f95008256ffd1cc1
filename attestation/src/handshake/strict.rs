//! JSON from strangers: bounded in size and depth, and never ambiguous.
//!
//! `serde_json` keeps the last of two members with one name, other readers keep the first. Here such an object is refused. The
//! text is read twice, first to see that it may be read at all: nothing is kept of what a stranger sends before that is known.
//! Names that `serde_json` keeps for itself are refused: a member with one of them is a text within the text, which it would
//! read anew, with a depth of its own.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// How the names begin that `serde_json` gives a meaning of its own.
const RESERVED: &str = "$serde_json::";

/// How large JSON may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of text.
    pub bytes: usize,
    /// Most arrays and objects inside each other.
    pub depth: u8,
}

/// Why text is not JSON that can be taken.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Longer than allowed.
    #[error("the JSON has {found} bytes, at most {limit} are read")]
    TooLong {
        /// Length found.
        found: usize,
        /// Most that is read.
        limit: usize,
    },
    /// Not JSON, too deep, or a member named twice.
    #[error("this is no JSON that can be taken: {reason}")]
    Form {
        /// What is wrong and where.
        reason: String,
    },
}

/// Reads one value that fills all of `text`.
///
/// # Errors
/// [`JsonError`]
pub fn parse(text: &[u8], limits: Limits) -> Result<Value, JsonError> {
    read(text, limits)
}

/// Reads a type of ours that fills all of `text`, also where that passes over parts of it.
///
/// # Errors
/// [`JsonError`]
pub fn read<T: for<'a> Deserialize<'a>>(text: &[u8], limits: Limits) -> Result<T, JsonError> {
    if text.len() > limits.bytes {
        return Err(JsonError::TooLong { found: text.len(), limit: limits.bytes });
    }
    let form = |error: serde_json::Error| JsonError::Form { reason: error.to_string() };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let looked_at = Depth(limits.depth).deserialize(&mut reader);
    looked_at.and_then(|()| reader.end()).map_err(form)?;
    serde_json::from_slice(text).map_err(form)
}

/// Looks at a value below which so many levels may follow, and keeps nothing of it.
#[derive(Clone, Copy)]
struct Depth(u8);

/// A member's name, which is copied only if it is written with escapes.
#[derive(PartialEq, Eq, Hash)]
struct Name<'a>(Cow<'a, str>);

impl Depth {
    fn below<E: Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Depth).ok_or_else(|| E::custom("it is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if value.is_finite() { Ok(()) } else { Err(E::custom("a number that is not finite")) }
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while elements.next_element_seed(below)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let below = self.below()?;
        let mut all = HashSet::new();
        while let Some(name) = members.next_key::<Name<'de>>()? {
            if name.0.starts_with(RESERVED) {
                return Err(A::Error::custom(format!("no member's name may begin with {RESERVED:?}")));
            }
            if all.contains(&name) {
                let name: String = name.0.chars().take(64).collect();
                return Err(A::Error::custom(format!("the member {name:?} is there twice")));
            }
            all.insert(name);
            members.next_value_seed(below)?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsName;
        impl<'de> Visitor<'de> for AsName {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(AsName)
    }
}

/// Reads a type of ours from a value that was taken.
pub(super) fn typed<T: for<'a> Deserialize<'a>>(value: Value) -> Result<T, JsonError> {
    serde_json::from_value(value).map_err(|error| JsonError::Form { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: Limits = Limits { bytes: 64, depth: 3 };

    fn reason(text: &str) -> String {
        parse(text.as_bytes(), LIMITS).expect_err("refused").to_string()
    }

    #[test]
    fn a_value_is_read() {
        let read = parse(br#"{"a":[1,-2,0.5,true,null,"x"]}"#, LIMITS).expect("JSON");
        assert_eq!(read, json!({"a": [1, -2, 0.5, true, null, "x"]}));
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused() {
        assert!(reason(r#"{"a":{"b":1,"b":1}}"#).contains("\"b\" is there twice"));
    }

    #[test]
    fn a_member_whose_name_is_escaped_the_second_time_is_refused() {
        assert!(reason(r#"{"b":1,"\u0062":1}"#).contains("twice"));
    }

    #[test]
    fn a_text_within_the_text_is_refused() {
        let limits = Limits { bytes: 1 << 20, depth: 3 };
        let within = |name: &str| format!(r#"{{"key":{{"{name}":"{{\"a\":1,\"a\":2}}"}}}}"#);
        for name in ["$serde_json::private::RawValue", r"\u0024serde_json::private::RawValue"] {
            let refused = parse(within(name).as_bytes(), limits).expect_err("refused").to_string();
            assert!(refused.contains("may begin with"), "{refused}");
        }
        assert!(parse(within("RawValue").as_bytes(), limits).is_ok());
    }

    #[test]
    fn three_levels_are_read_and_four_are_not() {
        assert!(parse(b"[[[1]]]", LIMITS).is_ok());
        assert!(reason("[[[[1]]]]").contains("too deeply"));
    }

    #[test]
    fn one_byte_too_many_is_refused_before_it_is_read() {
        let text = format!("[{}]", " ".repeat(63));
        assert!(matches!(parse(text.as_bytes(), LIMITS), Err(JsonError::TooLong { found: 65, limit: 64 })));
    }

    #[test]
    fn text_behind_the_value_is_refused() {
        assert!(parse(b"{} {}", LIMITS).is_err());
    }
}
