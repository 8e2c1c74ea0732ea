//! What keeps the books in order.

use super::fault::Fault;
use super::{Sqlite, schema};
use crate::Result;
use crate::server::ledger::charges::check_days;
use crate::server::ledger::contract::Upkeep;
use std::path::Path;

impl Upkeep for Sqlite {
    fn is_well(&self) -> bool {
        self.trouble().is_none()
    }

    fn probe(&self) -> Result<()> {
        let was_well = self.is_well();
        self.write(|books| match was_well {
            true => Ok(()),
            // A full disk shows in a write only.
            false => schema::touch(books).map_err(Fault::from),
        })
    }

    /// Others know by the lock.
    fn renew(&self) -> Result<()> {
        Ok(())
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

    fn backup(&self, to: &Path) -> Result<()> {
        self.copy_to(to)
    }

    fn prune(&self, days: u32) -> Result<usize> {
        check_days(days)?;
        self.remove_old(days)
    }
}
