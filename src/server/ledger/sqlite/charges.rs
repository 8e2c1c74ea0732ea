//! Charges: reserved when a job comes, spent or refunded when it ends.

use super::Sqlite;
use super::fault::Fault;
use super::keys::{balance, known};
use crate::Result;
use crate::server::ledger::charges::{
    Charge, End, Purpose, Reservation, Settlement, State, Usage, charged, check_reservation, whole,
};
use crate::server::ledger::contract::Charges;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

impl Charges for Sqlite {
    fn reserve(&self, key: i64, amount: i64, purpose: &Purpose<'_>) -> Result<Option<Reservation>> {
        check_reservation(amount, purpose)?;
        self.write(|books| {
            if let Some(job) = &purpose.job
                && find(books, job.id)?.is_some()
            {
                return Err(charged(job.id).into());
            }
            let taken = books.execute(
                "UPDATE keys SET remaining = remaining - ?2, reserved = reserved + ?2
                 WHERE id = ?1 AND remaining >= ?2 AND revoked IS NULL",
                [key, amount],
            )?;
            if taken == 0 {
                return Ok(None);
            }
            let own = self.instance.as_ref().map(|own| &own.id[..]);
            // A job outlives the service that took it.
            let instance = own.filter(|_| purpose.job.is_none());
            note(books, key, amount, purpose, instance)?;
            let id = books.last_insert_rowid();
            Ok(Some(Reservation { id, key, amount }))
        })
    }

    fn claim(&self, reservation: &Reservation, fence: i64) -> Result<bool> {
        let Reservation { id, key, amount } = *reservation;
        self.write(|books| {
            let claimed = books.execute(
                "UPDATE charges SET fence = ?4
                 WHERE id = ?1 AND key = ?2 AND amount = ?3 AND state = 'reserved' AND fence < ?4",
                [id, key, amount, fence],
            )?;
            Ok(claimed > 0)
        })
    }

    fn settle(&self, reservation: &Reservation, fence: i64, spent: i64) -> Result<Settlement> {
        self.end(reservation, &End::spent(reservation, fence, spent)?)
    }

    fn refund(&self, reservation: &Reservation, fence: i64) -> Result<Settlement> {
        self.end(reservation, &End::refunded(reservation, fence)?)
    }

    fn charge_of(&self, job: &str) -> Result<Option<Charge>> {
        self.read(|books| Ok(find(books, job)?))
    }

    fn usage(&self, name: Option<&str>, most: usize) -> Result<Vec<Usage>> {
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
            let charges = statement.query_map(params![whole(most), key], read_usage)?;
            Ok(charges.collect::<Result<_, _>>()?)
        })
    }
}

impl Sqlite {
    fn end(&self, reservation: &Reservation, end: &End) -> Result<Settlement> {
        let Reservation { id, key, amount } = *reservation;
        self.write(|books| {
            let ended = books.execute(
                "UPDATE charges SET state = ?4, amount = ?5, fence = ?6,
                     ended = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
                 WHERE id = ?1 AND key = ?2 AND amount = ?3 AND state = 'reserved'
                     AND fence <= ?6",
                params![id, key, amount, end.state.name(), end.charge, end.fence],
            )?;
            if ended == 0 {
                return not_open(books, reservation, end);
            }
            let update = "UPDATE keys SET reserved = reserved - ?2, spent = spent + ?3,
                     remaining = remaining + ?2 - ?3
                 WHERE id = ?1 RETURNING *";
            let balance = books.query_row(update, [key, amount, end.spent], balance)?;
            Ok(Settlement::Paid(balance))
        })
    }
}

fn not_open(books: &Connection, reservation: &Reservation, end: &End) -> Result<Settlement, Fault> {
    let Reservation { id, key, amount } = *reservation;
    let sql = "SELECT * FROM charges WHERE id = ?1 AND key = ?2";
    let found = books.query_row(sql, [id, key], read_charge).optional()?;
    let state = found.map(|found| found.state);
    let found =
        found.filter(|found| found.state != State::Reserved || found.reservation.amount == amount);
    let Some(found) = found else {
        return Err(End::mistaken(id, state).into());
    };
    let sql = "SELECT * FROM keys WHERE id = ?1";
    Ok(end.instead(&found, books.query_row(sql, [key], balance)?))
}

fn find(books: &Connection, job: &str) -> rusqlite::Result<Option<Charge>> {
    let mut statement = books.prepare_cached("SELECT * FROM charges WHERE job = ?1")?;
    statement.query_row([job], read_charge).optional()
}

fn read_charge(row: &Row<'_>) -> rusqlite::Result<Charge> {
    Ok(Charge {
        reservation: Reservation {
            id: row.get("id")?,
            key: row.get("key")?,
            amount: row.get("amount")?,
        },
        state: row.get("state")?,
        fence: row.get("fence")?,
    })
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        State::of(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}

fn read_usage(row: &Row<'_>) -> rusqlite::Result<Usage> {
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

fn note(
    books: &Connection,
    key: i64,
    amount: i64,
    purpose: &Purpose<'_>,
    instance: Option<&str>,
) -> rusqlite::Result<()> {
    let mut statement = books.prepare_cached(
        "INSERT INTO charges
             (key, amount, route, request_id, samples, steps, width, height, refiner, instance,
              job, deadline)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
                 ?11, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?12))",
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
    let job = purpose.job.map(|job| job.id);
    let wait = purpose.job.map(|job| job.deadline.as_secs_f64());
    let wait = wait.map(|seconds| format!("+{seconds:.3} seconds"));
    let row = params![
        key, amount, route, request_id, samples, steps, width, height, refiner, instance, job, wait
    ];
    statement.execute(row).map(drop)
}
