//! The JSON Canonicalization Scheme (RFC 8785): one value, one text, so that both sides hash the same bytes.
//!
//! Members are sorted by the UTF-16 units of their names; numbers are written as ECMAScript writes doubles. An integer that
//! a double cannot hold exactly is refused, because two readers would not agree what it is. A fraction is written as the
//! double that was read, and `serde_json` may read one that is a neighbour of the nearest; what the protocol hashes has none.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// The largest integer up to which every integer is a double: 2^53 - 1.
const LARGEST_EXACT: u64 = (1 << 53) - 1;

/// A value without a canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// An integer beyond the range of exact doubles.
    #[error("the number {found} has no exact canonical form: integers up to 2^53 - 1 do")]
    Number {
        /// The number.
        found: String,
    },
}

/// Writes `value` in its canonical form.
///
/// # Errors
/// [`CanonicalError`]
pub fn canonical(value: &Value) -> Result<String, CanonicalError> {
    let mut text = String::new();
    write_value(&mut text, value)?;
    Ok(text)
}

fn write_value(text: &mut String, value: &Value) -> Result<(), CanonicalError> {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(text, number)?,
        Value::String(string) => write_string(text, string),
        Value::Array(elements) => {
            text.push('[');
            for (index, element) in elements.iter().enumerate() {
                separate(text, index);
                write_value(text, element)?;
            }
            text.push(']');
        }
        Value::Object(members) => write_object(text, members)?,
    }
    Ok(())
}

fn write_object(text: &mut String, members: &Map<String, Value>) -> Result<(), CanonicalError> {
    let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
    text.push('{');
    for (index, (name, value)) in sorted.into_iter().enumerate() {
        separate(text, index);
        write_string(text, name);
        text.push(':');
        write_value(text, value)?;
    }
    text.push('}');
    Ok(())
}

fn separate(text: &mut String, index: usize) {
    if index > 0 {
        text.push(',');
    }
}

fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            '\0'..='\u{1f}' => {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

fn write_number(text: &mut String, number: &Number) -> Result<(), CanonicalError> {
    let inexact = || CanonicalError::Number { found: number.to_string() };
    if let Some(integer) = number.as_i64() {
        if integer.unsigned_abs() > LARGEST_EXACT {
            return Err(inexact());
        }
        text.push_str(&integer.to_string());
        return Ok(());
    }
    let float = number.as_f64().filter(|_| !number.is_u64()).ok_or_else(inexact)?;
    text.push_str(&ecmascript(float));
    Ok(())
}

/// Number::toString of ECMAScript (ECMA-262, section 6.1.6.1.20) in base 10, of a finite number.
fn ecmascript(float: f64) -> String {
    if float == 0.0 {
        return "0".to_owned();
    }
    // Rust writes the shortest digits that read back as the same number, as ECMAScript asks: `-1.25e-7`.
    let scientific = format!("{float:e}");
    let (sign, scientific) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific.as_str()),
    };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    // Where the decimal point stands, counted from before the first digit.
    let point = exponent.parse::<i64>().unwrap_or(0) + 1;
    let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let zeros = |how_many: i64| "0".repeat(usize::try_from(how_many).unwrap_or(0));
    if (count..=21).contains(&point) {
        return format!("{sign}{digits}{}", zeros(point - count));
    }
    if (1..=21).contains(&point) {
        let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or(0).min(digits.len()));
        return format!("{sign}{whole}.{part}");
    }
    if (-5..=0).contains(&point) {
        return format!("{sign}0.{}{digits}", zeros(-point));
    }
    let (first, rest) = digits.split_at(1.min(digits.len()));
    let rest = if rest.is_empty() { String::new() } else { format!(".{rest}") };
    let direction = if point > 0 { '+' } else { '-' };
    format!("{sign}{first}{rest}e{direction}{}", (point - 1).abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sha2::{Digest, Sha384};

    fn of(text: &str) -> String {
        canonical(&serde_json::from_str(text).expect("JSON")).expect("a canonical form")
    }

    #[test]
    fn the_golden_vector_of_the_protocol_hashes_as_it_should() {
        let text = of(r#"{"b":1,"a":"test","c":{"d":"e"}}"#);
        assert_eq!(text, r#"{"a":"test","b":1,"c":{"d":"e"}}"#);
        let expected = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3";
        assert_eq!(hex::encode(Sha384::digest(text)), expected);
    }

    #[test]
    fn the_example_of_section_3_2_2_comes_out_sorted_and_escaped_as_printed() {
        let input = r#"{"numbers":[333333333.5,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let expected = r#"{"literals":[null,true,false],"numbers":[333333333.5,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(of(input), expected);
    }

    #[test]
    fn names_are_sorted_by_utf_16_units() {
        let input = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        assert_eq!(of(input), "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}");
    }

    #[test]
    fn doubles_are_written_as_appendix_b_lists_them() {
        let listed: [(u64, &str); 12] = [
            (0x0000_0000_0000_0001, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0001, "9007199254740994"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0xc1b3_de43_5555_5555, "-333333333.3333333"),
            (0x8000_0000_0000_0000, "0"),
        ];
        assert_eq!(listed.map(|(bits, _)| ecmascript(f64::from_bits(bits))), listed.map(|(_, text)| text));
    }

    #[test]
    fn an_integer_that_no_double_holds_is_refused() {
        assert!(canonical(&json!((1_u64 << 53) - 1)).is_ok());
        assert!(canonical(&json!(1_u64 << 53)).is_err());
        assert!(canonical(&json!(u64::MAX)).is_err());
        assert!(canonical(&json!(-(1_i64 << 53))).is_err());
    }
}
