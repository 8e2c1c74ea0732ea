//! A database of the tests' server.

use super::cluster::Cluster;
use crate::server::ledger::Place;
use crate::server::ledger::postgres::server::Server;
use crate::server::ledger::postgres::{LONG, Url};
use crate::server::ledger::tests::helpers::Home;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One that nobody else uses, with nothing in it.
pub struct Database(pub String);

impl Database {
    /// `None` where no server is installed.
    pub fn new() -> Option<Self> {
        Cluster::shared().map(Self::of)
    }

    pub fn of(cluster: &Cluster) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        execute(
            &cluster.url("postgres", ""),
            &format!("CREATE DATABASE {name}"),
        );
        Self(cluster.url(&name, ""))
    }

    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap()
    }
}

/// Runs SQL, in the ledger's schema where it names no other.
pub fn execute(url: &str, sql: &str) {
    let server = Server::new(&Url::recognize(url).unwrap()).unwrap();
    let done = server.run(LONG, async |client| Ok(client.batch_execute(sql).await?));
    if let Err(fault) = done {
        panic!("{sql}: {}", fault.at(""));
    }
}

impl Home for Database {
    fn place(&self) -> Place {
        Place::from(&self.0[..])
    }

    fn another(&self) -> Box<dyn Home> {
        Box::new(Self::new().unwrap())
    }

    fn execute(&self, sql: &str) {
        execute(&self.0, sql);
    }

    fn tamper(&self, sql: &str) {
        self.execute(
            "DO $$ DECLARE rule name; BEGIN
                 FOR rule IN SELECT conname FROM pg_constraint
                     WHERE conrelid = 'keys'::regclass AND contype = 'c'
                 LOOP EXECUTE format('ALTER TABLE keys DROP CONSTRAINT %I', rule); END LOOP;
             END $$",
        );
        self.execute(sql);
    }
}
