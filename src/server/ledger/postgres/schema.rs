//! The tables, and how a database is known to hold them.

use super::fault::{Fault, not_ours};
use crate::Error;
use deadpool_postgres::Transaction;

/// In the table of the version: `calo`.
const APPLICATION: i32 = 0x6361_6c6f;
/// Counts up with every change of the tables.
const VERSION: i32 = 1;
/// Advisory locks of ours: who makes the tables, and who refunds or prunes many charges.
const INSTALLING: i64 = 0x6361_6c6f_0000_0001;
const BULK: i64 = 0x6361_6c6f_0000_0002;

/// The limits are those of [`crate::server::ledger::MOST_CREDITS`]. `pruned` is the part of
/// `spent` whose charges are in the journal no longer, `instance` the service that reserved;
/// `job` and `deadline` are of what is reserved for no service, `fence` the highest attempt
/// that was noted. An instance that has `died` never lives again.
const TABLES: &str = "
CREATE TABLE version (
    application integer NOT NULL,
    version integer NOT NULL
);
CREATE TABLE keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    granted bigint NOT NULL CHECK (granted BETWEEN 0 AND 1000000000000),
    remaining bigint NOT NULL CHECK (remaining >= 0),
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    spent bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    created timestamptz NOT NULL DEFAULT now(),
    revoked timestamptz,
    pruned bigint NOT NULL DEFAULT 0 CHECK (pruned >= 0),
    CHECK (granted = remaining + reserved + spent)
);
CREATE TABLE grants (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key bigint NOT NULL REFERENCES keys (id),
    amount bigint NOT NULL CHECK (amount > 0),
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE charges (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key bigint NOT NULL REFERENCES keys (id),
    amount bigint NOT NULL CHECK (amount >= 0),
    state text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'spent', 'refunded')),
    route text NOT NULL,
    request_id text NOT NULL,
    samples bigint NOT NULL,
    steps bigint NOT NULL,
    width bigint NOT NULL,
    height bigint NOT NULL,
    refiner boolean NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    ended timestamptz,
    instance text,
    job text UNIQUE,
    deadline timestamptz,
    fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
    CHECK ((state = 'reserved') = (ended IS NULL)),
    CHECK ((job IS NULL) = (deadline IS NULL))
);
CREATE TABLE instances (
    id text PRIMARY KEY,
    seen timestamptz NOT NULL DEFAULT now(),
    died timestamptz
);
CREATE INDEX grants_of_key ON grants (key);
CREATE INDEX charges_of_key ON charges (key, id);
CREATE INDEX open_charges ON charges (key) WHERE state = 'reserved';
";

/// Makes the schema and its tables where they are missing. Refuses what [`recognize`] does,
/// and a database that cannot hold every name.
pub(super) async fn install(books: &Transaction<'_>, place: &str) -> Result<(), Fault> {
    // Whoever comes first makes them; the others wait.
    let lock = "SELECT pg_advisory_xact_lock($1)";
    books.execute(lock, &[&INSTALLING]).await?;
    if recognize(books, place).await? {
        return Ok(());
    }
    let encoding = books.query_one("SHOW server_encoding", &[]).await?;
    let encoding: &str = encoding.try_get(0)?;
    if encoding != "UTF8" {
        let problem = format!("its encoding is {encoding}, which lacks letters of names");
        let remedy = "make the database with ENCODING 'UTF8' and TEMPLATE template0";
        return Err(Error::file(place, problem, remedy).into());
    }
    // To make it needs a right that whoever owns it may lack.
    let schema = "SELECT to_regnamespace('calotype') IS NOT NULL";
    if !is(books, schema).await? {
        books.batch_execute("CREATE SCHEMA calotype").await?;
    }
    books.batch_execute(TABLES).await?;
    let note = "INSERT INTO version VALUES ($1, $2)";
    books.execute(note, &[&APPLICATION, &VERSION]).await?;
    Ok(())
}

/// Whether the tables are there as this version has them. Refuses those of another program
/// or of a newer version. Writes nothing.
pub(super) async fn recognize(books: &Transaction<'_>, place: &str) -> Result<bool, Fault> {
    let nothing = "SELECT NOT EXISTS (SELECT FROM pg_class
                       WHERE relnamespace = to_regnamespace('calotype'))";
    if is(books, nothing).await? {
        return Ok(false);
    }
    let ours = "SELECT count(*) = 2 FROM pg_attribute
                WHERE attrelid = to_regclass('calotype.version')
                    AND attname IN ('application', 'version') AND atttypid = 'int4'::regtype";
    let rows = match is(books, ours).await? {
        true => {
            let sql = "SELECT application, version FROM version";
            books.query(sql, &[]).await?
        }
        false => Vec::new(),
    };
    let [row] = &rows[..] else {
        return Err(not_ours(place).into());
    };
    match (row.try_get(0)?, row.try_get::<_, i32>(1)?) {
        (APPLICATION, VERSION) => Ok(true),
        (APPLICATION, newer) if newer > VERSION => {
            let problem =
                format!("has tables of version {newer}; this calotype knows version {VERSION}");
            Err(Error::file(place, problem, "use a newer calotype").into())
        }
        _ => Err(not_ours(place).into()),
    }
}

async fn is(books: &Transaction<'_>, sql: &str) -> Result<bool, Fault> {
    Ok(books.query_one(sql, &[]).await?.try_get(0)?)
}

/// One at a time changes many charges, so that none waits for a row of the other.
pub(super) async fn alone(books: &Transaction<'_>) -> Result<(), Fault> {
    let lock = "SELECT pg_advisory_xact_lock($1)";
    books.execute(lock, &[&BULK]).await?;
    Ok(())
}
