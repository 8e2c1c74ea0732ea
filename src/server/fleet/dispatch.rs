//! A front end at work.

use super::front::{DEVICE, Front};
use super::{muster, results};
use std::sync::Arc;

impl Front {
    /// Gives out what the queue brings until that is stopped and all has come back.
    pub async fn run(self: Arc<Self>) {
        let helpers = [
            tokio::spawn(muster::watch(self.clone())),
            tokio::spawn(muster::admit(self.clone())),
            tokio::spawn(self.clone().answer()),
            tokio::spawn(self.clone().show()),
            tokio::spawn(results::take(self.clone())),
        ];
        let (front, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let giving = tokio::task::spawn_blocking(move || front.give_out(&runtime));
        if let Err(error) = giving.await {
            tracing::error!("{error}");
        }
        helpers.iter().for_each(tokio::task::JoinHandle::abort);
        let service = self.service.clone();
        let _ = tokio::task::spawn_blocking(move || service.end_device(DEVICE)).await;
    }
}
