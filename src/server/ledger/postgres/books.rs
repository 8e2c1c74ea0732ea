//! The check of the books, and the removal of old charges.

use super::fault::unsound;
use super::keys::{BALANCE, balance};
use super::{Postgres, row, schema};
use crate::Result;
use crate::server::ledger::keys::Entry;

impl Postgres {
    /// Compares each balance with the sums of its journals.
    pub(super) fn check_all(&self) -> Result<()> {
        let sql = format!(
            "SELECT name, {BALANCE},
                 (SELECT coalesce(sum(amount), 0) FROM grants
                  WHERE key = keys.id)::bigint AS sum_granted,
                 (SELECT coalesce(sum(amount), 0) FROM charges
                  WHERE key = keys.id AND state = 'reserved')::bigint AS sum_reserved,
                 (pruned + (SELECT coalesce(sum(amount), 0) FROM charges
                            WHERE key = keys.id AND state = 'spent'))::bigint AS sum_spent
             FROM keys ORDER BY id"
        );
        self.write_long(async |books| {
            for row in books.query(&sql, &[]).await? {
                let entry = Entry {
                    name: row.try_get("name")?,
                    balance: balance(&row)?,
                    sums: [
                        row.try_get("sum_granted")?,
                        row.try_get("sum_reserved")?,
                        row.try_get("sum_spent")?,
                    ],
                };
                if let Some(problem) = entry.problem() {
                    return Err(unsound(&self.place, problem).into());
                }
            }
            Ok(())
        })
    }

    pub(super) fn remove_old(&self, days: u32) -> Result<usize> {
        /// In one transaction.
        const AT_ONCE: i64 = 5000;
        let sql = "WITH old AS (
                 SELECT id FROM charges
                 WHERE state <> 'reserved' AND ended < now() - make_interval(secs => $1)
                     AND id < (SELECT max(id) FROM charges AS latest
                               WHERE latest.key = charges.key)
                 LIMIT $2
             ), gone AS (
                 DELETE FROM charges USING old WHERE charges.id = old.id
                 RETURNING charges.key, charges.amount, charges.state
             ), paid AS (
                 SELECT key, sum(amount)::bigint AS sum FROM gone
                 WHERE state = 'spent' GROUP BY key
             ), noted AS (
                 UPDATE keys SET pruned = pruned + sum FROM paid WHERE keys.id = paid.key
             )
             SELECT count(*) FROM gone";
        let seconds = f64::from(days) * 86_400.0;
        let mut removed = 0;
        loop {
            let some = self.write_long(async |books| {
                schema::alone(books).await?;
                match row(books, sql, &[&seconds, &AT_ONCE]).await? {
                    Some(row) => Ok(row.try_get::<_, i64>(0)?),
                    None => Ok(0),
                }
            })?;
            removed += usize::try_from(some).unwrap_or_default();
            if some < AT_ONCE {
                return Ok(removed);
            }
        }
    }
}
