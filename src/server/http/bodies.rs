//! How many bytes of requests' bodies are in memory at a time, and how slowly they may
//! come.

use crate::server::work::Owner;
use axum::body::{Body, Bytes};
use flate2::write::GzDecoder;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

/// Bytes a second, over the whole of a body, after the time that any may take.
const LEAST_RATE: u64 = 64 << 10;

/// Bytes for bodies, of which no key has more than half.
pub struct Bodies {
    most: usize,
    used: Mutex<HashMap<Owner, usize>>,
    freed: Notify,
    closed: watch::Sender<bool>,
}

/// Why a body is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("the body did not arrive in time")]
    Slow,
    #[error("too many requests are sending pictures")]
    Crowded,
    #[error("the service is shutting down")]
    Closed,
    #[error("the body is larger than this service takes")]
    Long,
    #[error("the body is no gzip, or damaged")]
    Damaged,
}

/// Bytes that are set aside for one body; dropping it frees them.
pub struct Share {
    bodies: Arc<Bodies>,
    owner: Owner,
    bytes: Mutex<usize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let bytes = *self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self.bodies.used();
        if let Some(held) = used.get_mut(&self.owner) {
            *held -= bytes;
            if *held == 0 {
                used.remove(&self.owner);
            }
        }
        drop(used);
        self.bodies.freed.notify_waiters();
    }
}

impl Bodies {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            used: Mutex::default(),
            freed: Notify::new(),
            closed: watch::Sender::new(false),
        })
    }

    /// Nobody reads what still comes.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Ends when nobody reads any more.
    pub async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives as long as this does.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are in memory.
    pub fn in_memory(&self) -> usize {
        self.used().values().sum()
    }

    /// A share of no bytes yet.
    pub fn share(self: &Arc<Self>, owner: Owner) -> Arc<Share> {
        Arc::new(Share {
            bodies: self.clone(),
            owner,
            bytes: Mutex::default(),
        })
    }

    fn try_take(&self, owner: Owner, bytes: usize) -> bool {
        let mut used = self.used();
        let all: usize = used.values().sum();
        let own = used.get(&owner).copied().unwrap_or_default();
        let most = match owner {
            Some(_) => self.most / 2,
            None => self.most,
        };
        // One body is always let in: it is within the limit of a body.
        let fits = own == 0 || own + bytes <= most;
        if all + bytes > self.most || !fits {
            return false;
        }
        *used.entry(owner).or_default() += bytes;
        true
    }
}

impl Share {
    /// Sets so many more bytes aside, by `end`.
    pub async fn grow(&self, bytes: usize, end: Instant) -> Result<(), Unread> {
        loop {
            let freed = self.bodies.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if self.bodies.try_take(self.owner, bytes) {
                *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
                return Ok(());
            }
            if timeout_at(end, freed).await.is_err() {
                return Err(Unread::Crowded);
            }
        }
    }
}

/// Reads what comes within `patience`, and drops it: a client that still sends sees no
/// answer.
pub async fn drain(body: Body, patience: Duration) {
    let mut body = body.into_data_stream();
    let read = async { while let Some(Ok(_)) = body.next().await {} };
    // A slow client is cut off.
    let _ = tokio::time::timeout(patience, read).await;
}

/// `body`, of which every piece is counted in `share` where it was not before, and which
/// ends where it comes too slowly: later than `patience` and [`LEAST_RATE`] allow.
pub fn metered(body: Body, share: Arc<Share>, counted: bool, patience: Duration) -> Body {
    let meter = Meter {
        body: body.into_data_stream(),
        share,
        counted,
        end: Instant::now() + patience,
        patience,
    };
    Body::from_stream(unfold(Some(meter), |meter| async {
        let mut meter = meter?;
        let piece = meter.next().await?;
        let rest = piece.is_ok().then_some(meter);
        Some((piece, rest))
    }))
}

struct Meter<S> {
    body: S,
    share: Arc<Share>,
    counted: bool,
    /// When the next piece must be here.
    end: Instant,
    patience: Duration,
}

impl<S: Stream<Item = Result<Bytes, axum::Error>> + Unpin> Meter<S> {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let piece = tokio::select! {
            piece = timeout_at(self.end, self.body.next()) => piece,
            () = self.share.bodies.closed() => {
                return Some(Err(axum::Error::new(Unread::Closed)));
            }
        };
        let Ok(piece) = piece else {
            return Some(Err(axum::Error::new(Unread::Slow)));
        };
        let piece = match piece? {
            Ok(piece) => piece,
            failed => return Some(failed),
        };
        // What came fast buys no more than the patience that any client has.
        let earned = Duration::from_micros(piece.len() as u64 * 1_000_000 / LEAST_RATE);
        self.end = (self.end + earned).min(Instant::now() + self.patience);
        if !self.counted
            && let Err(why) = self
                .share
                .grow(piece.len(), Instant::now() + self.patience)
                .await
        {
            return Some(Err(axum::Error::new(why)));
        }
        Some(Ok(piece))
    }
}

/// `body` without its compression by gzip, at most `most` bytes of it, counted in `share`.
pub fn unzipped(body: Body, share: Arc<Share>, most: usize, patience: Duration) -> Body {
    let unzip = Unzip {
        body: body.into_data_stream(),
        share,
        decoder: Some(GzDecoder::new(Vec::new())),
        room: most,
        patience,
    };
    Body::from_stream(unfold(Some(unzip), |unzip| async {
        let mut unzip = unzip?;
        let piece = unzip.next().await.transpose()?;
        let rest = piece.is_ok().then_some(unzip);
        Some((piece, rest))
    }))
}

struct Unzip<S> {
    body: S,
    share: Arc<Share>,
    /// `None` once all is out.
    decoder: Option<GzDecoder<Vec<u8>>>,
    /// Bytes that may still come out.
    room: usize,
    patience: Duration,
}

impl<S: Stream<Item = Result<Bytes, axum::Error>> + Unpin> Unzip<S> {
    async fn next(&mut self) -> Result<Option<Bytes>, axum::Error> {
        /// So many bytes become a thousand times as many at the most.
        const SLICE: usize = 4 << 10;
        while let Some(mut decoder) = self.decoder.take() {
            let mut out = Vec::new();
            match self.body.next().await {
                Some(piece) => {
                    for slice in piece?.chunks(SLICE) {
                        decoder
                            .write_all(slice)
                            .map_err(|_| axum::Error::new(Unread::Damaged))?;
                        self.take(&mut out, std::mem::take(decoder.get_mut()))
                            .await?;
                    }
                    self.decoder = Some(decoder);
                }
                None => {
                    let rest = decoder.finish();
                    let rest = rest.map_err(|_| axum::Error::new(Unread::Damaged))?;
                    self.take(&mut out, rest).await?;
                }
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }

    async fn take(&mut self, out: &mut Vec<u8>, bytes: Vec<u8>) -> Result<(), axum::Error> {
        let room = self.room.checked_sub(bytes.len());
        self.room = room.ok_or_else(|| axum::Error::new(Unread::Long))?;
        let end = Instant::now() + self.patience;
        let grown = self.share.grow(bytes.len(), end).await;
        grown.map_err(axum::Error::new)?;
        out.extend(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_more_than_half_and_all_is_bounded() {
        let bodies = Bodies::new(100);
        assert!(bodies.try_take(Some(1), 30));
        assert!(!bodies.try_take(Some(1), 21));
        assert!(bodies.try_take(Some(1), 20));
        // One body of another key, though it is more than its share.
        assert!(!bodies.try_take(Some(2), 51));
        assert!(bodies.try_take(Some(2), 50));
        assert!(!bodies.try_take(None, 1));
        assert_eq!(bodies.in_memory(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_waits_for_room_and_gives_it_back() {
        let bodies = Bodies::new(100);
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = bodies.share(None);
        first.grow(80, soon()).await.unwrap();
        let second = bodies.share(None);
        assert_eq!(second.grow(30, soon()).await, Err(Unread::Crowded));
        let waiting = tokio::spawn(async move { second.grow(30, soon()).await });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(bodies.in_memory(), 0);
    }

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn gzip_is_unpacked_within_limits() {
        let bodies = Bodies::new(1 << 30);
        let unpack = async |bytes: Vec<u8>, most| {
            let second = Duration::from_secs(1);
            let body = unzipped(Body::from(bytes), bodies.share(None), most, second);
            axum::body::to_bytes(body, usize::MAX)
                .await
                .map_err(|e| format!("{e:?}"))
        };
        let text = b"a red circle ".repeat(1000);
        assert_eq!(unpack(zipped(&text), text.len()).await.unwrap(), text);
        assert!(
            unpack(zipped(&text), text.len() - 1)
                .await
                .unwrap_err()
                .contains("Long")
        );
        let cut = zipped(&text)[..20].to_vec();
        assert!(
            unpack(cut, text.len())
                .await
                .unwrap_err()
                .contains("Damaged")
        );
        assert!(
            unpack(b"{}".to_vec(), 10)
                .await
                .unwrap_err()
                .contains("Damaged")
        );
        // 64 MiB of nothing in 64 KiB.
        let bomb = zipped(&vec![0; 64 << 20]);
        assert!(bomb.len() < 70 << 10);
        assert!(unpack(bomb, 1 << 20).await.unwrap_err().contains("Long"));
        assert_eq!(bodies.in_memory(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_slowly_is_cut_off() {
        let bodies = Bodies::new(1 << 20);
        let drops = unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let body = Body::from_stream(drops);
        let patience = Duration::from_secs(3);
        let metered = metered(body, bodies.share(None), false, patience);
        let start = Instant::now();
        let error = axum::body::to_bytes(metered, 1000).await.unwrap_err();
        assert!(format!("{error:?}").contains("Slow"), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}
