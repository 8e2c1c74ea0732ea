//! A few connections to the server, and no wait without an end.

use super::fault::Fault;
use super::tls::Tls;
use super::url::Url;
use crate::{Error, Result};
use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use std::time::Duration;
use tokio::time::timeout;

/// A few of the hundred that a server allows by default; one service needs no more, since
/// each is held for milliseconds.
const MOST_CONNECTIONS: usize = 8;

/// The server, as this process reaches it. Its functions block any thread that calls them,
/// be it one of another runtime.
pub(super) struct Server {
    pool: Pool,
    /// Reads and writes for all connections. `None` once it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The URL makes no sense; the certificates that it names cannot be read.
    pub fn new(url: &Url) -> Result<Self> {
        let wanted = url.read()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ledger")
            .enable_all()
            .build()
            .map_err(|e| Error::file("/", e, "allow this user more threads"))?;
        let fast = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(wanted.config, Tls::new(&wanted.trust)?, fast);
        let pool = Pool::builder(manager)
            .max_size(MOST_CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::internal("the ledger's connections", error.to_string()))?;
        Ok(Self {
            pool,
            runtime: Some(runtime),
        })
    }

    /// Runs `work` with a connection; both must take no longer than `limit`, whatever the
    /// server does. A connection that was given up is closed.
    pub fn run<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let _inside = self.runtime.as_ref().map(tokio::runtime::Runtime::enter);
        // Not in turn with the other tasks of a runtime, which do not run meanwhile.
        let result = pollster::block_on(tokio::task::unconstrained(async {
            let mut held = None;
            let worked = timeout(limit, async {
                let client = self.pool.get().await?;
                work(held.insert(client)).await
            });
            let result = worked.await.unwrap_or(Err(Fault::Late(limit)));
            if result.as_ref().is_err_and(Fault::is_way)
                && let Some(client) = held
            {
                drop(Client::take(client));
            }
            result
        }));
        if result.as_ref().is_err_and(Fault::is_way) {
            // What happened to one happened to the others that nobody uses.
            self.pool.retain(|_, _| false);
        }
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
