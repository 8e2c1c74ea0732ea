//! Keys and their balances, however they are stored.

use crate::{Error, Result};
use serde::Serialize;

/// The most credits that one key is ever granted: sums of balances stay far
/// below 2^63, and exact as JSON numbers.
pub const MOST_CREDITS: i64 = 1_000_000_000_000;

/// In characters.
const LONGEST_NAME: usize = 64;

/// A key that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: i64,
    pub name: String,
}

/// Credits of one key: `granted` is the sum of the others, and none is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// All that the key ever got.
    pub granted: i64,
    /// What it can still spend.
    pub remaining: i64,
    /// Held for jobs that have not ended.
    pub reserved: i64,
    pub spent: i64,
}

/// What is known of a key. Times are UTC, as ISO 8601.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    pub name: String,
    #[serde(flatten)]
    pub balance: Balance,
    pub created: String,
    /// Since when the key opens nothing.
    pub revoked: Option<String>,
    /// When its latest job came.
    pub last_used: Option<String>,
}

/// Checks the name and the first credits of a key that is to be made, and gives
/// the name as it will be kept.
///
/// # Errors
/// A name that is not 1 to 64 printable characters; credits below 0 or above
/// [`MOST_CREDITS`].
pub fn check_new(name: &str, credits: i64) -> Result<&str> {
    check_credits(credits, 0)?;
    let name = name.trim();
    // Quotes are printable, though escaped.
    let plain = name.replace(['"', '\'', '\\'], "");
    let printable = plain.escape_debug().eq(plain.chars());
    if name.is_empty() || !printable || name.chars().count() > LONGEST_NAME {
        let allowed = format!("must be 1 to {LONGEST_NAME} printable characters");
        return Err(Error::invalid("name", format!("{name:?}"), allowed));
    }
    Ok(name)
}

pub(super) fn check_credits(credits: i64, least: i64) -> Result<()> {
    if (least..=MOST_CREDITS).contains(&credits) {
        return Ok(());
    }
    let allowed = format!("must be from {least} to {MOST_CREDITS}");
    Err(Error::invalid("credits", credits, allowed))
}

/// Whether a key that was granted so much may have `credits` more.
pub(super) fn check_grant(name: &str, credits: i64, granted: i64, revoked: bool) -> Result<()> {
    if revoked {
        let allowed = "this key is revoked; add another";
        return Err(Error::invalid("name", format!("{name:?}"), allowed));
    }
    if credits > MOST_CREDITS - granted {
        let allowed =
            format!("the key was granted {granted} already, and {MOST_CREDITS} is the most in all");
        return Err(Error::invalid("credits", credits, allowed));
    }
    Ok(())
}

/// Another key has this name.
pub(super) fn taken(name: &str) -> Error {
    let allowed = "there is a key of this name already; choose another name";
    Error::invalid("name", format!("{name:?}"), allowed)
}

/// No key has this name, but `names` are there.
pub(super) fn unknown(name: &str, names: &[String]) -> Error {
    match names.is_empty() {
        true => Error::invalid("name", format!("{name:?}"), "there is no key yet; add one"),
        false => Error::unknown("name", name, names.iter().map(String::as_str)),
    }
}

/// A key's balance as its row has it, and as the journals have it.
pub(super) struct Entry {
    pub name: String,
    pub balance: Balance,
    /// Sums of the journals: what was granted, is reserved, was spent.
    pub sums: [i64; 3],
}

impl Entry {
    /// What does not add up, if anything.
    pub fn problem(&self) -> Option<String> {
        let [granted, reserved, spent] = self.sums;
        let journals = Balance {
            granted,
            // A figure that nobody can have where the journals make no sense.
            remaining: granted.saturating_sub(reserved).saturating_sub(spent),
            reserved,
            spent,
        };
        let Entry { name, balance, .. } = self;
        (*balance != journals || balance.remaining < 0).then(|| {
            format!(
                "the books of key {name:?} do not add up: its balance is {}, its journals say {}",
                words(balance),
                words(&journals)
            )
        })
    }
}

fn words(balance: &Balance) -> String {
    format!(
        "granted {}, remaining {}, reserved {}, spent {}",
        balance.granted, balance.remaining, balance.reserved, balance.spent
    )
}
