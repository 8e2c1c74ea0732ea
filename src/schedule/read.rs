//! Reads values by their keys, from a checkpoint's file or from a request.

use super::choices::FIELD;
use super::config::Config;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The largest count of training timesteps that is believed.
pub(super) const MOST_TIMESTEPS: usize = 100_000;

pub(super) const REMEDY: &str = "correct it, or restore the checkpoint's own file";

/// Where keys come from, for the message about a wrong one.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    File(&'a Path),
    /// A request's options.
    Options,
}

/// An object's keys over a configuration.
pub(super) struct Reader<'a> {
    pub source: Source<'a>,
    object: &'a Map<String, Value>,
    /// Where keys that are missing take their values.
    pub base: &'a Config,
}

impl<'a> Reader<'a> {
    pub fn new(source: Source<'a>, object: &'a Map<String, Value>, base: &'a Config) -> Self {
        Reader {
            source,
            object,
            base,
        }
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub fn wrong(&self, key: &str, value: &Value, allowed: &str) -> Error {
        // Long values would hide the message.
        let mut shown: String = value.to_string();
        if shown.chars().count() > 60 {
            shown = shown.chars().take(57).collect::<String>() + "...";
        }
        match self.source {
            Source::File(path) => Error::file(
                path,
                format!("{key} is {shown}, allowed is {allowed}"),
                REMEDY,
            ),
            Source::Options => {
                let shown = shown.trim_matches('"');
                let allowed = format!("allowed is {allowed}");
                Error::invalid(FIELD, format!("{key}={shown}"), allowed)
            }
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, value, "a string")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.wrong(key, value, "true or false")),
        }
    }

    pub fn number(&self, key: &str, allowed: &str, fits: fn(f64) -> bool) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| fits(*number)) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(key, value, allowed)),
            },
        }
    }

    pub fn count(&self, key: &str, least: usize, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        // `1000.0` is a whole number too.
        value
            .as_f64()
            .filter(|count| count.fract() == 0.0 && (0.0..=1e9).contains(count))
            .map(|count| count as usize)
            .filter(|count| (least..=most).contains(count))
            .map(Some)
            .ok_or_else(|| {
                let allowed = format!("a whole number from {least} to {most}");
                self.wrong(key, value, &allowed)
            })
    }

    /// A variance of noise: between 0 and 1, both excluded.
    pub fn variance(&self, key: &str) -> Result<Option<f64>> {
        let allowed = "a number above 0 and below 1";
        self.number(key, allowed, |beta| beta > 0.0 && beta < 1.0)
    }

    pub fn share(&self, key: &str) -> Result<Option<f64>> {
        self.number(key, "a number from 0 to 1", |share| {
            (0.0..=1.0).contains(&share)
        })
    }

    /// A noise level or another positive number.
    pub fn level(&self, key: &str) -> Result<Option<f64>> {
        let allowed = "a number above 0 and at most 1e6";
        self.number(key, allowed, |sigma| sigma > 0.0 && sigma <= 1e6)
    }

    pub fn numbers(
        &self,
        key: &str,
        allowed: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .filter(|list| (1..=MOST_TIMESTEPS).contains(&list.len()))
            .ok_or_else(|| self.wrong(key, value, allowed))?;
        list.iter()
            .map(|entry| {
                let number = entry.as_f64().filter(|number| fits(*number));
                number.ok_or_else(|| self.wrong(key, entry, allowed))
            })
            .collect::<Result<Vec<_>>>()
            .map(Some)
    }

    pub fn falling(&self, key: &str, list: Vec<f64>, allowed: &str) -> Result<Vec<f64>> {
        match list.is_sorted_by(|a, b| a > b) {
            true => Ok(list),
            false => Err(self.wrong(key, &Value::from(list), allowed)),
        }
    }

    /// The value of `key` by its name.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(given) = self.text(key)? else {
            return Ok(None);
        };
        match choices.iter().find(|(name, _)| *name == given) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let allowed: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                let allowed = format!("one of {}", allowed.join(", "));
                Err(self.wrong(key, &Value::from(given), &allowed))
            }
        }
    }
}
