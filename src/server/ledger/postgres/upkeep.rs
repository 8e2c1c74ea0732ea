//! What keeps the books in order.

use super::Postgres;
use super::instances;
use crate::server::ledger::charges::check_days;
use crate::server::ledger::contract::Upkeep;
use crate::{Error, Result};
use std::path::Path;

impl Upkeep for Postgres {
    fn is_well(&self) -> bool {
        self.trouble().is_none()
    }

    fn probe(&self) -> Result<()> {
        match self.instance {
            // A write, as a full disk shows in nothing else.
            Some(_) => self.say_alive(),
            None => self
                .write(async |books| instances::count(books, "SELECT 1::bigint").await.map(drop)),
        }
    }

    fn renew(&self) -> Result<()> {
        self.say_alive()
    }

    fn refund_dead(&self) -> Result<usize> {
        self.refund_all_dead()
    }

    fn refund_overdue(&self) -> Result<usize> {
        self.refund_all_overdue()
    }

    fn check(&self) -> Result<()> {
        self.check_all()
    }

    fn backup(&self, _: &Path) -> Result<()> {
        let remedy = "use pg_dump --schema=calotype, which copies them as they are at one moment";
        Err(Error::file(&self.place, "its books are in no file", remedy))
    }

    fn prune(&self, days: u32) -> Result<usize> {
        check_days(days)?;
        self.remove_old(days)
    }
}
