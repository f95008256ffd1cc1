//! JSON from strangers: bounded in size and depth, and never ambiguous.
//!
//! `serde_json` keeps the last of two members with one name, other readers keep the first. Here such an object is refused.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

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
    if text.len() > limits.bytes {
        return Err(JsonError::TooLong { found: text.len(), limit: limits.bytes });
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Depth(limits.depth).deserialize(&mut reader);
    let value = value.and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| JsonError::Form { reason: error.to_string() })
}

/// Reads a value below which so many levels may follow.
#[derive(Clone, Copy)]
struct Depth(u8);

impl Depth {
    fn below<E: Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Depth).ok_or_else(|| E::custom("it is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut all = Vec::new();
        while let Some(element) = elements.next_element_seed(below)? {
            all.push(element);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(below)?;
            if all.contains_key(&name) {
                let name: String = name.chars().take(64).collect();
                return Err(A::Error::custom(format!("the member {name:?} is there twice")));
            }
            all.insert(name, value);
        }
        Ok(Value::Object(all))
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
