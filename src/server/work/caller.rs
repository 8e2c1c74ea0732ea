//! Who asks.

use crate::server::ledger::Key;

/// Whose job it is: a key's number, or `None` without keys.
pub type Owner = Option<i64>;

/// Who asks: a key, or anybody where the service has no keys.
#[derive(Debug, Clone)]
pub struct Caller {
    pub key: Option<Key>,
}

impl Caller {
    pub fn owner(&self) -> Owner {
        self.key.as_ref().map(|key| key.id)
    }
}
