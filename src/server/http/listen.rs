//! What listens: an address, a Unix socket, or what systemd hands over.

use crate::server::config::Listen;
use crate::{Error, Result};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What listens.
pub enum Listener {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener, Option<SocketFile>),
}

/// The file of a socket, which is removed with it.
#[cfg(unix)]
pub struct SocketFile(std::path::PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// What systemd hands over, if it does, or else `listen`.
    ///
    /// # Errors
    /// The address is taken or is not this machine's.
    pub fn bind(listen: &Listen) -> Result<Self> {
        let refused = |e: io::Error| {
            let allowed = format!("cannot be used ({e}); choose another address, port 0 for any");
            Error::invalid("listen", listen, allowed)
        };
        let listener = match (handed_over(), listen) {
            (Some(listener), _) => listener,
            (None, Listen::Tcp(address)) => std::net::TcpListener::bind(address).map(Listener::Tcp),
            #[cfg(unix)]
            (None, Listen::Unix(path)) => bind_unix(path),
            #[cfg(not(unix))]
            (None, Listen::Unix(_)) => Err(io::ErrorKind::Unsupported.into()),
        };
        let listener = listener.map_err(refused)?;
        match &listener {
            Listener::Tcp(listener) => listener.set_nonblocking(true),
            #[cfg(unix)]
            Listener::Unix(listener, _) => listener.set_nonblocking(true),
        }
        .map_err(refused)?;
        Ok(listener)
    }

    /// Its address for people, such as `127.0.0.1:40123`; a Unix socket has a path.
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|e| e.to_string(), |address| address.to_string()),
            #[cfg(unix)]
            Listener::Unix(listener, _) => {
                let address = listener.local_addr();
                let path = address.ok().and_then(|a| Some(a.as_pathname()?.to_owned()));
                format!("unix:{}", path.unwrap_or_default().display())
            }
        }
    }

    pub fn is_unix(&self) -> bool {
        !matches!(self, Listener::Tcp(_))
    }

    pub(super) fn start(self) -> io::Result<Accepting> {
        Ok(match self {
            Listener::Tcp(listener) => Accepting::Tcp(tokio::net::TcpListener::from_std(listener)?),
            #[cfg(unix)]
            Listener::Unix(listener, file) => {
                Accepting::Unix(tokio::net::UnixListener::from_std(listener)?, file)
            }
        })
    }
}

/// A Unix socket at `path`; one that nobody listens to any more makes room.
#[cfg(unix)]
fn bind_unix(path: &std::path::Path) -> io::Result<Listener> {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    let is_socket = path.metadata().is_ok_and(|m| m.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix(listener, Some(SocketFile(path.to_owned()))))
}

/// The first socket that systemd passes to this process (sd_listen_fds(3)).
#[cfg(unix)]
fn handed_over() -> Option<io::Result<Listener>> {
    use std::os::fd::{FromRawFd, OwnedFd};
    const FIRST: i32 = 3;
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID")? != std::process::id() || number("LISTEN_FDS")? == 0 {
        return None;
    }
    // SAFETY: systemd opened this descriptor for this process and says so by its id;
    // nothing else takes it, as this is called once, at the start.
    let descriptor = unsafe { OwnedFd::from_raw_fd(FIRST) };
    let listener = std::net::TcpListener::from(descriptor);
    if listener.local_addr().is_ok() {
        return Some(Ok(Listener::Tcp(listener)));
    }
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(listener));
    let known = listener.local_addr();
    Some(known.map(|_| Listener::Unix(listener, None)))
}

#[cfg(not(unix))]
fn handed_over() -> Option<io::Result<Listener>> {
    None
}

/// A listener that waits for connections.
pub(super) enum Accepting {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(
        tokio::net::UnixListener,
        #[allow(dead_code, reason = "removes the file when it is dropped")] Option<SocketFile>,
    ),
}

impl Accepting {
    /// The next connection, and its address if it has one.
    pub async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Accepting::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Some(address.ip().to_canonical())))
            }
            #[cfg(unix)]
            Accepting::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}

/// A connection's bytes.
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

macro_rules! each {
    ($self:ident, $stream:ident => $work:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $work,
            #[cfg(unix)]
            Stream::Unix($stream) => $work,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
