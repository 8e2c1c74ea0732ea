//! Who holds a connection: bounded in all and per address. Where there are too many,
//! those that ask for nothing make room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// All open connections.
pub struct Connections {
    most: usize,
    most_per_address: usize,
    start: Instant,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
}

/// One connection, from its acceptance to its end.
pub struct Connection {
    id: u64,
    /// `None` where addresses are not counted.
    address: Option<IpAddr>,
    start: Instant,
    /// Requests that are not answered to their end.
    busy: AtomicUsize,
    /// Requests in all.
    served: AtomicUsize,
    /// When it had nothing to do for the last time, in milliseconds from the start.
    idle_since: AtomicU64,
    /// When a write began to wait for the client, likewise; 0 where none does.
    stalled_since: AtomicU64,
    /// Asks for its end.
    pub close: Notify,
}

/// A request on a connection, until its answer has left or its client has.
pub struct Busy(Arc<Connection>);

impl Connections {
    pub fn new(most: usize, most_per_address: usize) -> Self {
        Self {
            most,
            most_per_address,
            start: Instant::now(),
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self) -> usize {
        self.open().connections.len()
    }

    /// A new connection from `address`, `None` where it is not counted. Where there are
    /// too many, the one that has been idle for the longest is closed for it, those first
    /// that never asked for anything; `None` if all are busy.
    pub fn admit(&self, address: Option<IpAddr>) -> Option<Arc<Connection>> {
        let mut open = self.open();
        let all = &open.connections;
        let of_address = |c: &Connection| address.is_some() && c.address == address;
        let own = all.values().filter(|c| of_address(c)).count();
        if address.is_some() && own >= self.most_per_address {
            let idlest = idlest(all.values().filter(|c| of_address(c)))?;
            open.close(idlest);
        } else if all.len() >= self.most {
            let idlest = idlest(all.values())?;
            open.close(idlest);
        }
        let id = open.next;
        open.next += 1;
        let connection = Arc::new(Connection {
            id,
            address,
            start: self.start,
            busy: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            idle_since: AtomicU64::new(since(self.start)),
            stalled_since: AtomicU64::new(0),
            close: Notify::new(),
        });
        open.connections.insert(id, connection.clone());
        Some(connection)
    }

    /// A connection has ended.
    pub fn left(&self, connection: &Connection) {
        self.open().connections.remove(&connection.id);
    }
}

impl Open {
    fn close(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            connection.close.notify_one();
        }
    }
}

fn idlest<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> Option<u64> {
    let idle = connections.filter(|c| c.busy.load(Ordering::Relaxed) == 0);
    let rank = |c: &&Arc<Connection>| {
        let served = c.served.load(Ordering::Relaxed) > 0;
        (served, c.idle_since.load(Ordering::Relaxed), c.id)
    };
    idle.min_by_key(rank).map(|c| c.id)
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Connection {
    /// Marks the beginning of a request.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Whether it has asked for nothing for so long.
    pub fn is_idle_for(&self, limit: Duration) -> bool {
        let idle = since(self.start).saturating_sub(self.idle_since.load(Ordering::Relaxed));
        self.busy.load(Ordering::Relaxed) == 0 && u128::from(idle) >= limit.as_millis()
    }

    /// Notes whether a write waits for the client.
    pub fn writes(&self, waits: bool) {
        let was = self.stalled_since.load(Ordering::Relaxed);
        if waits != (was > 0) {
            let now = if waits { since(self.start).max(1) } else { 0 };
            self.stalled_since.store(now, Ordering::Relaxed);
        }
    }

    /// Whether the client has not taken anything of an answer for so long.
    pub fn is_stalled_for(&self, limit: Duration) -> bool {
        let at = self.stalled_since.load(Ordering::Relaxed);
        at > 0 && u128::from(since(self.start).saturating_sub(at)) >= limit.as_millis()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let connection = &self.0;
        connection
            .idle_since
            .store(since(connection.start), Ordering::Relaxed);
        connection.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// The ids of those that are open.
    fn open(connections: &Connections) -> Vec<u64> {
        let mut ids: Vec<u64> = connections.open().connections.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn who_asks_for_nothing_makes_room() {
        let connections = Connections::new(3, 3);
        let served = connections.admit(address(1)).unwrap();
        drop(served.begin());
        let busy = connections.admit(address(1)).unwrap();
        let _request = busy.begin();
        let silent = connections.admit(address(2)).unwrap();
        connections.admit(address(3)).unwrap();
        assert_eq!(open(&connections), [0, 1, 3]);
        connections.left(&silent);
        connections.admit(address(3)).unwrap();
        connections.admit(address(3)).unwrap();
        assert_eq!(open(&connections), [0, 1, 5]);
    }

    #[test]
    fn an_address_has_a_share_and_what_works_is_not_closed() {
        let connections = Connections::new(10, 2);
        let held: Vec<_> = (0..2)
            .map(|_| connections.admit(address(1)).unwrap())
            .collect();
        let requests: Vec<Busy> = held.iter().map(Connection::begin).collect();
        assert!(connections.admit(address(1)).is_none());
        assert!(connections.admit(address(2)).is_some());
        for _ in 0..4 {
            assert!(connections.admit(None).is_some());
        }
        drop(requests);
        assert!(connections.admit(address(1)).is_some());
        assert_eq!(connections.count(), 7);
    }

    #[test]
    fn idle_and_stalled_connections_are_told() {
        let connections = Connections::new(1, 1);
        let connection = connections.admit(None).unwrap();
        assert!(connection.is_idle_for(Duration::ZERO));
        assert!(!connection.is_idle_for(Duration::from_secs(60)));
        let request = connection.begin();
        assert!(!connection.is_idle_for(Duration::ZERO));
        drop(request);
        assert!(!connection.is_stalled_for(Duration::ZERO));
        connection.writes(true);
        assert!(connection.is_stalled_for(Duration::ZERO));
        connection.writes(false);
        assert!(!connection.is_stalled_for(Duration::ZERO));
    }
}
