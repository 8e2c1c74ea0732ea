//! Reads one JSON object of a checkpoint field by field: diffusers' defaults
//! where a key is absent or null, an error naming file, key and value where a
//! value cannot be.

use crate::{Error, Field, Remedy, Result, encoding};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Widths, counts and sizes beyond this are no model's.
const LARGEST: usize = 1 << 20;

/// Characters of a wrong value that a message shows.
const LONGEST_VALUE: usize = 80;

/// The object of one configuration file.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self> {
        let wanted = "a complete diffusers folder, a .safetensors file or `demo`";
        let text = encoding::read(path, Remedy::give(Field::Model, wanted))?;
        Self::parse(&text, path)
    }

    /// Reads a text; `path` names it in messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let map = serde_json::from_str(text).map_err(|e| {
            let problem = format!("not a JSON object ({e})");
            Error::file(path, problem, "download the file again")
        })?;
        Ok(Self::new(map, path))
    }

    pub fn new(map: Map<String, Value>, path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            map,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The whole object.
    pub fn value(&self) -> Value {
        Value::Object(self.map.clone())
    }

    /// The value of `key`, `None` if absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The error for `key`: `allowed` says what it may be.
    pub fn error(&self, key: &str, allowed: &str) -> Error {
        let value = self.map.get(key).unwrap_or(&Value::Null).to_string();
        let value: String = match value.char_indices().nth(LONGEST_VALUE) {
            Some((at, _)) => format!("{}...", value.get(..at).unwrap_or_default()),
            None => value,
        };
        let problem = format!("`{key}` is {value}, allowed: {allowed}");
        Error::file(
            &self.path,
            problem,
            "use an SDXL checkpoint, or correct the file",
        )
    }

    /// A whole number in `range`.
    pub fn count_in(
        &self,
        key: &str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        whole(value)
            .filter(|n| range.contains(n))
            .ok_or_else(|| self.error(key, &allowed(&range)))
    }

    /// A width or size: a whole number from 1.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        self.count_in(key, default, 1..=LARGEST)
    }

    /// A finite number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.optional_number(key).map(|n| n.unwrap_or(default))
    }

    /// A finite number or nothing.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|n| (*n as f32).is_finite());
        number
            .map(Some)
            .ok_or_else(|| self.error(key, "a finite number"))
    }

    /// A number above zero.
    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        let number = self.number(key, default)?;
        let fits = number as f32 > 0.0;
        fits.then_some(number)
            .ok_or_else(|| self.error(key, "a number above 0"))
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.optional_flag(key).map(|flag| flag.unwrap_or(default))
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let flag = value.as_bool();
        flag.map(Some)
            .ok_or_else(|| self.error(key, "true or false"))
    }

    /// One of a few words.
    pub fn word<'a>(&'a self, key: &str, default: &'a str, words: &[&str]) -> Result<&'a str> {
        let word = self.get(key).map_or(Some(default), Value::as_str);
        word.filter(|w| words.contains(w))
            .ok_or_else(|| self.error(key, &words.join(", ")))
    }

    /// A list of whole numbers from 1, of 1 to `most` entries.
    pub fn list(&self, key: &str, default: &[usize], most: usize) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(default.to_vec());
        };
        let wrong = || {
            self.error(
                key,
                &format!("a list of 1 to {most} whole numbers from 1 to {LARGEST}"),
            )
        };
        let list = value.as_array().ok_or_else(wrong)?;
        if !(1..=most).contains(&list.len()) {
            return Err(wrong());
        }
        let number = |v: &Value| whole(v).filter(|n| (1..=LARGEST).contains(n));
        list.iter().map(|v| number(v).ok_or_else(wrong)).collect()
    }

    /// One whole number for each level, given as one number or as a list of `levels`.
    pub fn per_level(
        &self,
        key: &str,
        default: usize,
        levels: usize,
        range: RangeInclusive<usize>,
    ) -> Result<Vec<usize>> {
        let wrong = || {
            let list = format!("{}, or a list of {levels} of them", allowed(&range));
            self.error(key, &list)
        };
        let number = |v: &Value| whole(v).filter(|n| range.contains(n)).ok_or_else(wrong);
        match self.get(key) {
            None => Ok(vec![default; levels]),
            Some(Value::Array(list)) if list.len() == levels => list.iter().map(number).collect(),
            Some(Value::Array(_)) => Err(wrong()),
            Some(value) => Ok(vec![number(value)?; levels]),
        }
    }

    /// A list of `levels` words out of `words`.
    pub fn words(
        &self,
        key: &str,
        default: &[&str],
        words: &[&str],
        levels: usize,
    ) -> Result<Vec<String>> {
        let wrong = || self.error(key, &format!("a list of {levels} of {}", words.join(", ")));
        let list: Vec<String> = match self.get(key) {
            None => default.iter().map(|w| w.to_string()).collect(),
            Some(value) => {
                let list = value.as_array().ok_or_else(wrong)?;
                let word = |v: &Value| v.as_str().map(String::from).ok_or_else(wrong);
                list.iter().map(word).collect::<Result<_>>()?
            }
        };
        let known = list.iter().all(|w| words.contains(&w.as_str()));
        if list.len() != levels || !known {
            return Err(wrong());
        }
        Ok(list)
    }

    /// Numbers of any count, or nothing.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || self.error(key, "null or a list of finite numbers");
        let list = value.as_array().ok_or_else(wrong)?;
        let number = |v: &Value| v.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
        let list: Result<_> = list.iter().map(|v| number(v).ok_or_else(wrong)).collect();
        list.map(Some)
    }

    /// Refuses options that this program does not have: each key must be absent,
    /// null, or the one value given (itself null where nothing else is allowed).
    pub fn only(&self, options: &[(&str, Value)]) -> Result<()> {
        for (key, value) in options {
            if self.get(key).is_some_and(|v| !same(v, value)) {
                return Err(self.error(key, &value.to_string()));
            }
        }
        Ok(())
    }
}

/// Equal, `1` and `1.0` alike.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A whole number, also if written `4.0`.
fn whole(value: &Value) -> Option<usize> {
    let number = value.as_f64()?;
    let fits = number.fract() == 0.0 && (0.0..=9e15).contains(&number);
    fits.then_some(number as usize)
}

fn allowed(range: &RangeInclusive<usize>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}
