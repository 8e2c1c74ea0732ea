//! The server's errors in words.

use crate::Error;
use deadpool_postgres::PoolError;
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// What stops a transaction: the server, the way to it, or an error of ours.
pub(super) enum Fault {
    Server(tokio_postgres::Error),
    /// It did not answer in this time.
    Late(Duration),
    Other(Error),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::Server(error)
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Fault::Server(error),
            other => Fault::Other(Error::internal(
                "the ledger's connections",
                other.to_string(),
            )),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Other(error)
    }
}

impl Fault {
    fn code(&self) -> Option<&SqlState> {
        match self {
            Fault::Server(error) => error.code(),
            Fault::Late(_) | Fault::Other(_) => None,
        }
    }

    /// What hinders every use of the database for now, whatever was asked for.
    pub fn is_trouble(&self) -> Option<String> {
        let error = match self {
            Fault::Late(limit) => return Some(format!("no answer within {limit:?}")),
            Fault::Other(_) => return None,
            Fault::Server(error) => error,
        };
        // Connections, resources, the operator, the system, authorization, the database.
        const CLASSES: [&str; 6] = ["08", "53", "57", "58", "28", "3D"];
        let trouble = match error.code() {
            None => self.is_way(),
            Some(code) => {
                let of_all = [
                    &SqlState::LOCK_NOT_AVAILABLE,
                    &SqlState::READ_ONLY_SQL_TRANSACTION,
                    &SqlState::INSUFFICIENT_PRIVILEGE,
                    &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                ];
                of_all.contains(&code) || CLASSES.iter().any(|c| code.code().starts_with(c))
            }
        };
        trouble.then(|| words(error))
    }

    /// Whether the connection is of no use any more.
    pub fn is_way(&self) -> bool {
        match self {
            Fault::Late(_) => true,
            Fault::Other(_) => false,
            Fault::Server(error) => {
                let ours = ["error serializing", "error deserializing", "invalid column"];
                let text = error.to_string();
                error.code().is_none() && !ours.iter().any(|start| text.starts_with(start))
            }
        }
    }

    /// The error to show, which names the database.
    pub fn at(self, place: &str) -> Error {
        let code = self.code().cloned();
        let error = match self {
            Fault::Other(error) => return error,
            Fault::Late(limit) => {
                let problem = format!("did not answer within {} s", limit.as_secs_f64());
                return Error::file(place, problem, "see that the server runs and is not busy");
            }
            Fault::Server(error) => error,
        };
        let said = words(&error);
        let (problem, remedy) = match code {
            Some(code) => refused(&code, &said),
            None if error.to_string().starts_with("error performing TLS") => secret(&said),
            None => (
                format!("cannot be reached: {said}"),
                "see that the server runs, and that host and port are its own",
            ),
        };
        Error::file(place, problem, remedy)
    }
}

/// What the server answered, and what to do about it.
fn refused(code: &SqlState, said: &str) -> (String, &'static str) {
    let remedy = match code {
        c if c.code().starts_with("28") => "see the user and the password of the URL",
        c if c.code().starts_with("53") => "give the server more room, or fewer connections",
        c if c.code().starts_with("57P") => "try again when the server runs",
        c if *c == SqlState::INVALID_CATALOG_NAME => "make the database, or name another",
        c if *c == SqlState::INSUFFICIENT_PRIVILEGE => {
            "let this user have the schema calotype: CREATE SCHEMA calotype AUTHORIZATION user"
        }
        c if *c == SqlState::READ_ONLY_SQL_TRANSACTION => "name the primary server",
        c if *c == SqlState::LOCK_NOT_AVAILABLE || *c == SqlState::QUERY_CANCELED => {
            "try again, or see which session holds the tables (pg_stat_activity)"
        }
        _ => "nothing was changed; see the server's log",
    };
    (said.to_owned(), remedy)
}

fn secret(said: &str) -> (String, &'static str) {
    let remedy = match said {
        said if said.contains("does not support TLS") => {
            "switch TLS on at the server, or say sslmode=disable where the way to it is safe"
        }
        // Whether it is its own root or not.
        said if said.contains("CaUsedAsEndEntity") => {
            "give the server a certificate that is no authority's: basicConstraints=CA:FALSE"
        }
        said if said.contains("certificate") => {
            "name who signed the server's certificate by sslrootcert, and the server as it does"
        }
        _ => "see the server's settings of TLS",
    };
    (format!("TLS fails: {said}"), remedy)
}

/// The innermost cause, on one line; a server's own words where it answered.
fn words(error: &tokio_postgres::Error) -> String {
    let said = match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => {
            let mut inner: &dyn std::error::Error = error;
            while let Some(source) = inner.source() {
                inner = source;
            }
            inner.to_string()
        }
    };
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The database holds something else.
pub(super) fn not_ours(place: &str) -> Error {
    Error::file(
        place,
        "its schema calotype holds tables of another program",
        "name another database",
    )
}

/// What the tables hold cannot be true.
pub(super) fn unsound(place: &str, problem: impl ToString) -> Error {
    Error::file(
        place,
        problem,
        "stop whatever uses the database and put back a dump of it",
    )
}
