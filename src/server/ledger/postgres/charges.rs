//! Charges: reserved when a job comes, spent or refunded when it ends.

use super::fault::{Fault, unsound};
use super::keys::{BALANCE, TIME, balance, balance_of, known};
use super::{Books, Postgres, change, row};
use crate::Result;
use crate::server::ledger::charges::{
    Charge, End, Purpose, Reservation, Settlement, State, Usage, charged, check_reservation, whole,
};
use crate::server::ledger::contract::Charges;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// What came of trying to reserve.
enum Tried {
    Reserved(Reservation),
    Poor,
    /// Others hold this instance for dead.
    Dead,
}

impl Charges for Postgres {
    fn reserve(&self, key: i64, amount: i64, purpose: &Purpose<'_>) -> Result<Option<Reservation>> {
        check_reservation(amount, purpose)?;
        loop {
            // A job outlives the service that took it.
            let own = match purpose.job {
                Some(_) => None,
                None => self.instance(),
            };
            let own = own.as_deref();
            match self.write(async |books| reserve(books, key, amount, purpose, own).await)? {
                Tried::Reserved(reservation) => return Ok(Some(reservation)),
                Tried::Poor => return Ok(None),
                Tried::Dead => self.rejoin(own.unwrap_or_default())?,
            }
        }
    }

    fn claim(&self, reservation: &Reservation, fence: i64) -> Result<bool> {
        let Reservation { id, key, amount } = *reservation;
        let sql = "UPDATE charges SET fence = $4
             WHERE id = $1 AND key = $2 AND amount = $3 AND state = 'reserved' AND fence < $4";
        self.write(async |books| Ok(change(books, sql, &[&id, &key, &amount, &fence]).await? > 0))
    }

    fn settle(&self, reservation: &Reservation, fence: i64, spent: i64) -> Result<Settlement> {
        let end = End::spent(reservation, fence, spent)?;
        self.write(async |books| finish(books, reservation, &end, &self.place).await)
    }

    fn refund(&self, reservation: &Reservation, fence: i64) -> Result<Settlement> {
        let end = End::refunded(reservation, fence)?;
        self.write(async |books| finish(books, reservation, &end, &self.place).await)
    }

    fn charge_of(&self, job: &str) -> Result<Option<Charge>> {
        let sql = "SELECT id, key, amount, state, fence FROM charges WHERE job = $1";
        self.read(async |books| {
            let found = row(books, sql, &[&job]).await?;
            found.map(|row| read_charge(&row, &self.place)).transpose()
        })
    }

    fn usage(&self, name: Option<&str>, most: usize) -> Result<Vec<Usage>> {
        let sql = format!(
            "SELECT to_char(charges.created, {TIME}) AS created, name, route, request_id,
                 samples, steps, width, height, refiner, amount, state
             FROM charges JOIN keys ON keys.id = charges.key
             WHERE $2::bigint IS NULL OR charges.key = $2
             ORDER BY charges.id DESC LIMIT $1"
        );
        self.read(async |books| {
            let key = match name {
                Some(name) => Some(known(books, name).await?),
                None => None,
            };
            let charges = books.query(&sql, &[&whole(most), &key]).await?;
            charges.iter().map(read_usage).collect()
        })
    }
}

async fn reserve(
    books: &Books<'_>,
    key: i64,
    amount: i64,
    purpose: &Purpose<'_>,
    own: Option<&str>,
) -> Result<Tried, Fault> {
    if let Some(own) = own {
        // Whoever declares it dead waits for this to end, and refunds it then.
        let sql = "SELECT FROM instances WHERE id = $1 AND died IS NULL FOR SHARE";
        if row(books, sql, &[&own]).await?.is_none() {
            return Ok(Tried::Dead);
        }
    }
    let hold = "UPDATE keys SET remaining = remaining - $2, reserved = reserved + $2
         WHERE id = $1 AND remaining >= $2 AND revoked IS NULL";
    if change(books, hold, &[&key, &amount]).await? == 0 {
        // Which of the two is told first does not depend on the credits.
        return match purpose.job {
            Some(job) if is_charged(books, job.id).await? => Err(charged(job.id).into()),
            _ => Ok(Tried::Poor),
        };
    }
    note(books, key, amount, purpose, own).await
}

async fn note(
    books: &Books<'_>,
    key: i64,
    amount: i64,
    purpose: &Purpose<'_>,
    own: Option<&str>,
) -> Result<Tried, Fault> {
    let [samples, steps, width, height] = [
        purpose.samples,
        purpose.steps,
        purpose.width,
        purpose.height,
    ]
    .map(whole);
    let job = purpose.job.map(|job| job.id);
    let wait = purpose.job.map(|job| job.deadline.as_secs_f64());
    let insert = "INSERT INTO charges (key, amount, route, request_id, samples, steps, width,
             height, refiner, instance, job, deadline)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
             $11, now() + make_interval(secs => $12))
         ON CONFLICT (job) DO NOTHING RETURNING id";
    let Purpose {
        route,
        request_id,
        refiner,
        ..
    } = purpose;
    let values: [&(dyn ToSql + Sync); 12] = [
        &key, &amount, route, request_id, &samples, &steps, &width, &height, refiner, &own, &job,
        &wait,
    ];
    match row(books, insert, &values).await? {
        Some(noted) => Ok(Tried::Reserved(Reservation {
            id: noted.try_get(0)?,
            key,
            amount,
        })),
        None => Err(charged(job.unwrap_or_default()).into()),
    }
}

async fn is_charged(books: &Books<'_>, job: &str) -> Result<bool, Fault> {
    let sql = "SELECT FROM charges WHERE job = $1";
    Ok(row(books, sql, &[&job]).await?.is_some())
}

async fn finish(
    books: &Books<'_>,
    reservation: &Reservation,
    end: &End,
    place: &str,
) -> Result<Settlement, Fault> {
    let Reservation { id, key, amount } = *reservation;
    let update = "UPDATE charges SET state = $4, amount = $5, fence = $6, ended = now()
         WHERE id = $1 AND key = $2 AND amount = $3 AND state = 'reserved' AND fence <= $6";
    let state = end.state.name();
    let values: [&(dyn ToSql + Sync); 6] = [&id, &key, &amount, &state, &end.charge, &end.fence];
    if change(books, update, &values).await? == 0 {
        return not_open(books, reservation, end, place).await;
    }
    let update = format!(
        "UPDATE keys SET reserved = reserved - $2, spent = spent + $3,
             remaining = remaining + $2 - $3
         WHERE id = $1 RETURNING {BALANCE}"
    );
    let Some(paid) = row(books, &update, &[&key, &amount, &end.spent]).await? else {
        return Err(unsound(place, format!("charge {id} is of no key")).into());
    };
    Ok(Settlement::Paid(balance(&paid)?))
}

async fn not_open(
    books: &Books<'_>,
    reservation: &Reservation,
    end: &End,
    place: &str,
) -> Result<Settlement, Fault> {
    let Reservation { id, key, amount } = *reservation;
    let sql = "SELECT id, key, amount, state, fence FROM charges WHERE id = $1 AND key = $2";
    let found = row(books, sql, &[&id, &key]).await?;
    let found = found.map(|row| read_charge(&row, place)).transpose()?;
    match found {
        Some(found) if found.state != State::Reserved || found.reservation.amount == amount => {
            Ok(end.instead(&found, balance_of(books, key).await?))
        }
        found => Err(End::mistaken(id, found.map(|found| found.state)).into()),
    }
}

fn read_charge(row: &Row, place: &str) -> Result<Charge, Fault> {
    let state: &str = row.try_get("state")?;
    let unknown = || unsound(place, format!("a charge is {state:?}"));
    Ok(Charge {
        reservation: Reservation {
            id: row.try_get("id")?,
            key: row.try_get("key")?,
            amount: row.try_get("amount")?,
        },
        state: State::of(state).ok_or_else(unknown)?,
        fence: row.try_get("fence")?,
    })
}

fn read_usage(row: &Row) -> Result<Usage, Fault> {
    Ok(Usage {
        created: row.try_get("created")?,
        key: row.try_get("name")?,
        route: row.try_get("route")?,
        request_id: row.try_get("request_id")?,
        samples: row.try_get("samples")?,
        steps: row.try_get("steps")?,
        width: row.try_get("width")?,
        height: row.try_get("height")?,
        refiner: row.try_get("refiner")?,
        amount: row.try_get("amount")?,
        state: row.try_get("state")?,
    })
}
