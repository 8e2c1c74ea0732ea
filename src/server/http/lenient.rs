//! Values as real clients send them: numbers as strings, booleans as words.

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A whole number: `3`, `3.0`, `"3"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integer(pub i64);

/// A whole number as [`Integer`], with room for every seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub i128);

/// A finite number: `0.5`, `"0.5"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(pub f64);

/// `true`, `"yes"`, `"on"`, `"1"`, `1`, and their opposites, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        whole(&value)
            .map(Integer)
            .ok_or_else(|| refuse(&value, "must be a whole number"))
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        seed(&value).map(Seed).ok_or_else(|| {
            refuse(
                &value,
                "must be a whole number from -2^63 to 2^64 - 1; -1 draws one",
            )
        })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        number(&value)
            .map(Number)
            .ok_or_else(|| refuse(&value, "must be a number"))
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        flag(&value)
            .map(Flag)
            .ok_or_else(|| refuse(&value, "must be true or false"))
    }
}

fn whole(value: &Value) -> Option<i64> {
    /// Beyond this a float does not hold every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(n) => n.as_i64().or_else(|| {
            let n = n.as_f64()?;
            (n.fract() == 0.0 && n.abs() <= EXACT).then_some(n as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A number that was rounded on its way, as JavaScript does above 2^53, may be 2^64:
/// only a text holds every seed there.
fn seed(value: &Value) -> Option<i128> {
    match value {
        Value::Number(n) if n.is_u64() => n.as_u64().map(i128::from),
        Value::String(text) => text.trim().parse().ok(),
        _ => whole(value).map(i128::from),
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| n.is_finite())
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => match n.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Parsed again by [`crate::server::http::body`], which knows the field's name.
fn refuse<E: Error>(value: &Value, allowed: &'static str) -> E {
    E::invalid_value(Unexpected::Other(&shown(value)), &allowed)
}

/// A value as an error shows it: short.
pub fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_real_clients_send_is_taken() {
        for (value, wanted) in [
            (json!(3), Some(3)),
            (json!(3.0), Some(3)),
            (json!(" 3 "), Some(3)),
            (json!("999999999999999"), Some(999_999_999_999_999)),
            (json!(i64::MAX), Some(i64::MAX)),
            (json!(3.5), None),
            (json!("3.5"), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
            (json!(true), None),
            (json!(""), None),
            (json!([3]), None),
        ] {
            assert_eq!(whole(&value), wanted, "{value}");
        }
        for (value, wanted) in [
            (json!(u64::MAX), Some(u64::MAX.into())),
            (json!(" 18446744073709551615"), Some(u64::MAX.into())),
            (json!(i64::MIN), Some(i64::MIN.into())),
            (json!(7.0), Some(7)),
            (json!(-1), Some(-1)),
            // 2^64, which JavaScript makes of 2^64 - 1.
            (json!(18446744073709551616.0), None),
            (json!(""), None),
        ] {
            assert_eq!(seed(&value), wanted, "{value}");
        }
        for (value, wanted) in [
            (json!(0.5), Some(0.5)),
            (json!("7.5"), Some(7.5)),
            (json!(7), Some(7.0)),
            (json!("NaN"), None),
            (json!("inf"), None),
            (json!("1e999"), None),
            (json!(false), None),
        ] {
            assert_eq!(number(&value), wanted, "{value}");
        }
        for (value, wanted) in [
            (json!(true), Some(true)),
            (json!("Yes"), Some(true)),
            (json!("no"), Some(false)),
            (json!(1), Some(true)),
            (json!("0"), Some(false)),
            (json!(2), None),
            (json!("maybe"), None),
        ] {
            assert_eq!(flag(&value), wanted, "{value}");
        }
    }
}
