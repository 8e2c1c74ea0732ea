//! The services that share a database. Each says every few seconds that it lives; what those
//! that died had reserved goes back to its keys.

use super::fault::Fault;
use super::{Books, Postgres, change, row, schema};
use crate::Result;
use crate::server::ledger::secret;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A service that was not seen for so long has been away.
const AWAY: Duration = Duration::from_secs(20);
/// So long after it was away a service declares nobody dead: the others may have been cut
/// off as it was, and be coming back.
const GRACE: Duration = Duration::from_secs(20);

/// Refunds those of `charges` for which this holds, and counts them. One statement: what it
/// ends is what it gives back.
fn refunding(those: &str) -> String {
    format!(
        "WITH gone AS (
             UPDATE charges SET state = 'refunded', ended = now()
             WHERE state = 'reserved' AND {those} RETURNING key, amount
         ), held AS (
             SELECT key, sum(amount)::bigint AS sum FROM gone GROUP BY key
         ), given AS (
             UPDATE keys SET remaining = remaining + sum, reserved = reserved - sum
             FROM held WHERE keys.id = held.key
         )
         SELECT count(*) FROM gone"
    )
}

impl Postgres {
    /// The instance that this service is now.
    pub(super) fn instance(&self) -> Option<String> {
        let own = self.instance.as_ref()?.lock();
        Some(own.unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Becomes a new instance.
    pub(super) fn join(&self) -> Result<String> {
        let id = secret::draw_id()?;
        let sql = "INSERT INTO instances (id) VALUES ($1)";
        self.write(async |books| change(books, sql, &[&id]).await.map(drop))?;
        Ok(id)
    }

    /// Becomes a new instance in place of `old`, which others hold for dead, unless another
    /// thread has seen to it.
    pub(super) fn rejoin(&self, old: &str) -> Result<()> {
        let Some(own) = &self.instance else {
            return Ok(());
        };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        if *own == old {
            *own = self.join()?;
            tracing::warn!(
                "{}: this service was away for so long that others hold it for dead; what it \
                 had reserved was refunded, and it goes on as a new instance",
                self.place
            );
        }
        Ok(())
    }

    /// Says that this service lives.
    pub(super) fn say_alive(&self) -> Result<()> {
        let Some(own) = self.instance() else {
            return Ok(());
        };
        let sql = "UPDATE instances AS own SET seen = now()
             FROM (SELECT id, seen FROM instances WHERE id = $1 FOR UPDATE) AS before
             WHERE own.id = before.id AND own.died IS NULL
             RETURNING extract(epoch FROM now() - before.seen)::float8";
        let seen = self.write(async |books| match row(books, sql, &[&own]).await? {
            Some(row) => Ok(Some(row.try_get::<_, f64>(0)?)),
            None => Ok(None),
        })?;
        match seen {
            Some(seconds) if seconds < AWAY.as_secs_f64() => Ok(()),
            away => {
                let returned = &self.returned;
                *returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                match away {
                    Some(_) => Ok(()),
                    None => self.rejoin(&own),
                }
            }
        }
    }

    pub(super) fn refund_all_dead(&self) -> Result<usize> {
        let returned = *self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        if returned.is_some_and(|at| at.elapsed() < GRACE) {
            return Ok(0);
        }
        let own = self.instance();
        let refunded = self.write(async |books| {
            schema::alone(books).await?;
            bury(books, own.as_deref(), self.life).await?;
            let of_none = "job IS NULL AND (instance IS NULL OR instance NOT IN
                               (SELECT id FROM instances WHERE died IS NULL))";
            count(books, &refunding(of_none)).await
        })?;
        if refunded > 0 {
            let place = &self.place;
            tracing::info!("{place}: refunded {refunded} charges that a service left open");
        }
        Ok(refunded)
    }

    pub(super) fn refund_all_overdue(&self) -> Result<usize> {
        let refunded = self.write(async |books| {
            schema::alone(books).await?;
            count(books, &refunding("deadline <= now()")).await
        })?;
        if refunded > 0 {
            let place = &self.place;
            tracing::warn!("{place}: refunded {refunded} charges whose jobs did not end in time");
        }
        Ok(refunded)
    }

    /// So that others need not wait until they hold this service for dead.
    pub(super) fn leave(&mut self) {
        let Some(own) = self.instance() else { return };
        let well = self.trouble().is_none();
        let sql = "UPDATE instances SET died = now() WHERE id = $1";
        if well && let Err(error) = self.write(async |books| change(books, sql, &[&own]).await) {
            tracing::warn!("{error}");
        }
    }
}

/// Declares dead who was not seen for too long, and forgets who is dead for a day. A server
/// that was down has seen nobody.
async fn bury(books: &Books<'_>, own: Option<&str>, life: Duration) -> Result<(), Fault> {
    let life = life.as_secs_f64();
    let sql = "UPDATE instances SET died = now()
         WHERE died IS NULL AND id IS DISTINCT FROM $1
             AND greatest(seen, pg_postmaster_start_time()) < now() - make_interval(secs => $2)";
    change(books, sql, &[&own, &life]).await?;
    let sql = "DELETE FROM instances WHERE died < now() - interval '1 day'";
    change(books, sql, &[]).await.map(drop)
}

/// What a statement counted.
pub(super) async fn count(books: &Books<'_>, sql: &str) -> Result<usize, Fault> {
    let counted: i64 = match row(books, sql, &[]).await? {
        Some(row) => row.try_get(0)?,
        None => 0,
    };
    Ok(usize::try_from(counted).unwrap_or_default())
}
