//! Charges: reserved when a job comes, spent or refunded when it ends.

use super::fault::Fault;
use super::keys::known;
use super::{Balance, Ledger};
use crate::{Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

/// What a charge is for, as the journal keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    pub route: &'a str,
    pub request_id: &'a str,
    pub samples: usize,
    pub steps: usize,
    /// In pixels, of one picture.
    pub width: usize,
    pub height: usize,
    pub refiner: bool,
}

/// Credits that are held for a job until it is settled or refunded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: i64,
    pub key: i64,
    /// In credits.
    pub amount: i64,
}

/// One charge of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// When the job came: UTC, as ISO 8601.
    pub created: String,
    /// The key's name.
    pub key: String,
    pub route: String,
    pub request_id: String,
    pub samples: i64,
    pub steps: i64,
    /// In pixels, of one picture.
    pub width: i64,
    pub height: i64,
    pub refiner: bool,
    /// In credits.
    pub amount: i64,
    /// `reserved`, `spent` or `refunded`.
    pub state: String,
}

impl Ledger {
    /// Holds `amount` credits of a key. `None`, and nothing is changed, where the
    /// key has not that much left or was revoked since it was recognized.
    ///
    /// # Errors
    /// A negative amount; the file cannot be written.
    pub fn reserve(
        &self,
        key: i64,
        amount: i64,
        purpose: &Purpose<'_>,
    ) -> Result<Option<Reservation>> {
        if amount < 0 {
            return Err(Error::invalid("amount", amount, "must be 0 or more"));
        }
        self.write(|books| {
            let taken = books.execute(
                "UPDATE keys SET remaining = remaining - ?2, reserved = reserved + ?2
                 WHERE id = ?1 AND remaining >= ?2 AND revoked IS NULL",
                [key, amount],
            )?;
            if taken == 0 {
                return Ok(None);
            }
            let instance = self.instance.as_ref().map(|own| &own.id[..]);
            note(books, key, amount, purpose, instance)?;
            let id = books.last_insert_rowid();
            Ok(Some(Reservation { id, key, amount }))
        })
    }

    /// The job has drawn: `spent` of what was reserved is spent, and the charge is that
    /// much; the rest can be spent again.
    ///
    /// # Errors
    /// More than was reserved; the reservation has ended before; the file cannot be
    /// written.
    pub fn settle(&self, reservation: &Reservation, spent: i64) -> Result<Balance> {
        if !(0..=reservation.amount).contains(&spent) {
            let allowed = format!("must be from 0 to {}", reservation.amount);
            return Err(Error::invalid("spent", spent, allowed));
        }
        self.end(reservation, "spent", spent)
    }

    /// The job has failed: what was reserved can be spent again.
    ///
    /// # Errors
    /// Those of [`Ledger::settle`].
    pub fn refund(&self, reservation: &Reservation) -> Result<Balance> {
        self.end(reservation, "refunded", 0)
    }

    fn end(&self, reservation: &Reservation, state: &str, spent: i64) -> Result<Balance> {
        let Reservation { id, key, amount } = *reservation;
        // A refunded charge still says what it was for.
        let charge = if state == "refunded" { amount } else { spent };
        self.write(|books| {
            let ended = books.execute(
                "UPDATE charges SET state = ?4, amount = ?5,
                     ended = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
                 WHERE id = ?1 AND key = ?2 AND amount = ?3 AND state = 'reserved'",
                params![id, key, amount, state, charge],
            )?;
            if ended == 0 {
                return Err(self.not_open(books, id)?);
            }
            let update = "UPDATE keys SET reserved = reserved - ?2, spent = spent + ?3,
                     remaining = remaining + ?2 - ?3
                 WHERE id = ?1 RETURNING *";
            Ok(books.query_row(update, [key, amount, spent], Balance::read)?)
        })
    }

    fn not_open(&self, books: &Connection, id: i64) -> Result<Fault, Fault> {
        let sql = "SELECT state FROM charges WHERE id = ?1";
        let state: Option<String> = books.query_row(sql, [id], |row| row.get(0)).optional()?;
        let state = state.unwrap_or_else(|| "unknown".into());
        let problem = format!("charge {id} cannot end: it is {state}");
        Ok(Error::file(
            &self.path,
            problem,
            "a charge ends once, as it was reserved",
        )
        .into())
    }

    /// The latest charges, at most `most`, latest first; of one key where a name
    /// is given.
    ///
    /// # Errors
    /// No key has this name; the file cannot be read.
    pub fn usage(&self, name: Option<&str>, most: usize) -> Result<Vec<Usage>> {
        self.read(|books| {
            let only = match name {
                Some(_) => "WHERE charges.key = ?2",
                None => "WHERE ?2 IS NULL",
            };
            let key = name.map(|name| known(books, name)).transpose()?;
            let mut statement = books.prepare(&format!(
                "SELECT charges.*, name FROM charges JOIN keys ON keys.id = charges.key
                 {only} ORDER BY charges.id DESC LIMIT ?1"
            ))?;
            let charges = statement.query_map(params![whole(most), key], Usage::read)?;
            Ok(charges.collect::<Result<_, _>>()?)
        })
    }
}

impl Usage {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Usage {
            created: row.get("created")?,
            key: row.get("name")?,
            route: row.get("route")?,
            request_id: row.get("request_id")?,
            samples: row.get("samples")?,
            steps: row.get("steps")?,
            width: row.get("width")?,
            height: row.get("height")?,
            refiner: row.get("refiner")?,
            amount: row.get("amount")?,
            state: row.get("state")?,
        })
    }
}

fn note(
    books: &Connection,
    key: i64,
    amount: i64,
    purpose: &Purpose<'_>,
    instance: Option<&str>,
) -> rusqlite::Result<()> {
    let mut statement = books.prepare_cached(
        "INSERT INTO charges
             (key, amount, route, request_id, samples, steps, width, height, refiner, instance)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    let Purpose {
        route, request_id, ..
    } = purpose;
    let [samples, steps, width, height] = [
        purpose.samples,
        purpose.steps,
        purpose.width,
        purpose.height,
    ]
    .map(whole);
    let refiner = purpose.refiner;
    let row = params![
        key, amount, route, request_id, samples, steps, width, height, refiner, instance
    ];
    statement.execute(row).map(drop)
}

/// SQLite counts in `i64`.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
