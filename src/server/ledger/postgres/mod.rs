//! Keys and credits, in a database of a PostgreSQL server, which several services may share
//! wherever they run.
//!
//! Everything is in the schema `calotype`, whose tables are those of the SQLite file. A
//! service is known to live by a row of `instances` that it renews.

mod books;
mod charges;
mod fault;
mod instances;
mod keys;
mod schema;
mod server;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod upkeep;
mod url;

pub use url::Url;

use crate::Result;
use deadpool_postgres::Transaction;
use fault::Fault;
use server::Server;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// How long anything takes at the most. A little more than the server itself allows to a
/// statement and its locks: a server that can still answer does.
const PATIENCE: Duration = Duration::from_secs(3);
/// For what reads everything.
const LONG: Duration = Duration::from_secs(600);
/// An instance that was not seen for so long is dead: longer than services take over a
/// pause, shorter than a user waits for credits.
const LIFE: Duration = Duration::from_secs(60);
const LONG_STATEMENTS: &str = "SET LOCAL statement_timeout = '600s'";

/// A database of keys and credits.
pub(super) struct Postgres {
    /// The URL without its password.
    place: String,
    server: Server,
    /// Why the database could not be written or read at the last try.
    trouble: Mutex<Option<String>>,
    /// Of a service: the instance that it is.
    instance: Option<Mutex<String>>,
    /// An instance that was not seen for so long is dead.
    life: Duration,
    /// When this service was last found to have been away.
    returned: Mutex<Option<Instant>>,
}

/// What a transaction does with the tables.
type Books<'a> = Transaction<'a>;

impl Postgres {
    /// Opens the database beside whoever else has it open, and makes the tables where they
    /// are missing. Reservations stay as they are.
    ///
    /// # Errors
    /// The server cannot be reached or refuses us; the tables are of another program, or of
    /// a newer version.
    pub fn open(url: &Url) -> Result<Self> {
        let ledger = Self::new(url)?;
        ledger.write(async |books| schema::install(books, &ledger.place).await)?;
        Ok(ledger)
    }

    /// [`Postgres::open`], but `None` where the tables are missing.
    ///
    /// # Errors
    /// Those of [`Postgres::open`].
    pub fn open_existing(url: &Url) -> Result<Option<Self>> {
        let ledger = Self::new(url)?;
        let there = ledger.read(async |books| schema::recognize(books, &ledger.place).await)?;
        Ok(there.then_some(ledger))
    }

    fn new(url: &Url) -> Result<Self> {
        Ok(Self {
            place: url.to_string(),
            server: Server::new(url)?,
            trouble: Mutex::default(),
            instance: None,
            life: LIFE,
            returned: Mutex::default(),
        })
    }

    /// Opens the database for a service: [`Postgres::open`], as an instance that others know
    /// to live while it is renewed. Checks the books, then refunds what instances that died
    /// had reserved.
    ///
    /// # Errors
    /// Those of [`Postgres::open`]; the books do not add up.
    pub fn serve(url: &Url) -> Result<Self> {
        let mut ledger = Self::open(url)?;
        ledger.instance = Some(Mutex::new(ledger.join()?));
        ledger.check_all()?;
        ledger.refund_all_dead()?;
        Ok(ledger)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction.
    fn write<T>(&self, work: impl AsyncFnOnce(&Books<'_>) -> Result<T, Fault>) -> Result<T> {
        let result = self.transact(PATIENCE, work);
        if result.is_ok() {
            *self.trouble() = None;
        }
        result.map_err(|fault| fault.at(&self.place))
    }

    /// As [`Postgres::write`], for what takes long.
    fn write_long<T>(&self, work: impl AsyncFnOnce(&Books<'_>) -> Result<T, Fault>) -> Result<T> {
        let result = self.transact(LONG, async |books| {
            books.batch_execute(LONG_STATEMENTS).await?;
            work(books).await
        });
        result.map_err(|fault| fault.at(&self.place))
    }

    /// As [`Postgres::write`], but success does not mean that the database can be written.
    fn read<T>(&self, work: impl AsyncFnOnce(&Books<'_>) -> Result<T, Fault>) -> Result<T> {
        let result = self.transact(PATIENCE, work);
        result.map_err(|fault| fault.at(&self.place))
    }

    fn transact<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&Books<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let result = self.server.run(limit, async |client| {
            let books = client.transaction().await?;
            let value = work(&books).await?;
            books.commit().await?;
            Ok(value)
        });
        // Trouble with the database is not the fault of who asked.
        if let Err(fault) = &result
            && let Some(why) = fault.is_trouble()
        {
            self.trouble().get_or_insert(why);
        }
        result
    }
}

type Values<'a> = [&'a (dyn ToSql + Sync)];

/// All rows of a statement that the connection remembers.
async fn rows(books: &Books<'_>, sql: &str, values: &Values<'_>) -> Result<Vec<Row>, Fault> {
    let statement = books.prepare_cached(sql).await?;
    Ok(books.query(&statement, values).await?)
}

/// Its row, if there is one.
async fn row(books: &Books<'_>, sql: &str, values: &Values<'_>) -> Result<Option<Row>, Fault> {
    let statement = books.prepare_cached(sql).await?;
    Ok(books.query_opt(&statement, values).await?)
}

/// How many rows it changed.
async fn change(books: &Books<'_>, sql: &str, values: &Values<'_>) -> Result<u64, Fault> {
    let statement = books.prepare_cached(sql).await?;
    Ok(books.execute(&statement, values).await?)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.leave();
    }
}
