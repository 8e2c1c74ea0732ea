//! Old charges leave the journal; their sums stay.

use super::Sqlite;
use crate::Result;

impl Sqlite {
    pub(super) fn remove_old(&self, days: u32) -> Result<usize> {
        /// In one transaction, for which other programs wait.
        const AT_ONCE: usize = 5000;
        let mut removed = 0;
        loop {
            let some = self.write(|books| {
                books.execute_batch(
                    "CREATE TEMP TABLE IF NOT EXISTS old (id INTEGER PRIMARY KEY);
                     DELETE FROM old;",
                )?;
                let some = books.execute(
                    "INSERT INTO old SELECT id FROM charges
                     WHERE state <> 'reserved'
                         AND ended < strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?1)
                         AND id < (SELECT max(id) FROM charges AS latest
                                   WHERE latest.key = charges.key)
                     LIMIT ?2",
                    rusqlite::params![format!("-{days} days"), AT_ONCE as i64],
                )?;
                books.execute(
                    "UPDATE keys SET pruned = pruned + sum
                     FROM (SELECT key, sum(amount) AS sum FROM charges JOIN old USING (id)
                           WHERE state = 'spent' GROUP BY key) AS gone
                     WHERE keys.id = gone.key",
                    [],
                )?;
                books.execute("DELETE FROM charges WHERE id IN (SELECT id FROM old)", [])?;
                Ok(some)
            })?;
            removed += some;
            if some < AT_ONCE {
                return Ok(removed);
            }
        }
    }
}
