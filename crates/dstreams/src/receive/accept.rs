//! [`Acceptor`]: accepts the connections of one address, up to a limit.
//!
//! The connections of all addresses together leave some file descriptors of the process for files: beyond that they
//! wait to be accepted, so that a flood of connections cannot end a program that writes to a disk. After any other
//! error of `accept` the acceptor pauses, since the error would come again at once. Probes find peers that vanished
//! silently.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::debug::debug_as;
use futures::Stream;
use futures::stream::unfold;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Pause after a connection that could not be accepted: others may be closed meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two log messages about connections that are not accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// An idle connection is probed after [`PROBE_AFTER`], then at [`PROBE_INTERVAL`], [`PROBES`] times.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// Time limit for a peer's first bytes of HTTP/2, and their number: a silent peer is not a client and must not
/// occupy a place.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
const GREETING_BYTES: usize = 24;
/// A quarter of the descriptors of the process is reserved for files and the like, within these bounds.
const MIN_SPARE: usize = 32;
const MAX_SPARE: usize = 1024;
/// Minimum for connections: each address holds one descriptor for the connection it accepts next.
const MIN_DESCRIPTORS: usize = 8;

/// Accepts connections of one address, up to a limit.
pub struct Acceptor {
    listener: TcpListener,
    address: SocketAddr,
    most: usize,
    room: Arc<Semaphore>,
    /// Sent to a peer that is refused because there are too many connections.
    refusal: &'static str,
    last_warned: Option<Instant>,
}

debug_as!(Acceptor { address });

/// A connection; its place is free when this is dropped.
pub struct Accepted {
    pub socket: TcpStream,
    pub place: Place,
    /// Until the peer has greeted: the deadline, and the number of bytes still missing.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
}

debug_as!(Accepted);

/// A place among the connections of an address, and a descriptor of the process.
pub struct Place(#[allow(dead_code)] [OwnedSemaphorePermit; 2]);

debug_as!(Place);

impl Accepted {
    fn greets_within(mut self, time: Duration) -> Self {
        self.greeting = Some((Box::pin(sleep(time)), GREETING_BYTES));
        self
    }
}

impl Acceptor {
    /// Accepts up to `most` connections at once; the others get the refusal and are closed.
    pub fn new(listener: TcpListener, most: usize, refusal: &'static str) -> io::Result<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Ok(Acceptor {
            address: listener.local_addr()?,
            listener,
            most,
            room: Arc::new(Semaphore::new(most)),
            refusal,
            last_warned: None,
        })
    }

    /// The next connection. Cancellation-safe.
    pub async fn accept(&mut self) -> (Accepted, SocketAddr) {
        loop {
            let descriptor = self.descriptor().await;
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.warn(&format!("cannot accept connections: {error}"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            match Arc::clone(&self.room).try_acquire_owned() {
                Ok(place) => {
                    probe(&socket);
                    let place = Place([place, descriptor]);
                    let greeting = None;
                    let accepted = Accepted {
                        socket,
                        place,
                        greeting,
                    };
                    return (accepted, peer);
                }
                Err(_) => {
                    // It fits into the buffer of a socket that nothing was written to.
                    let _ = socket.try_write(self.refusal.as_bytes());
                    let most = self.most;
                    self.warn(&format!(
                        "connections are refused: {most} are open, the limit of `connections`"
                    ));
                }
            }
        }
    }

    /// Waits for a descriptor for a connection.
    async fn descriptor(&mut self) -> OwnedSemaphorePermit {
        loop {
            let free = Arc::clone(descriptors());
            if let Ok(free) = Arc::clone(&free).try_acquire_owned() {
                return free;
            }
            self.warn(
                "connections wait to be accepted: the open ones use all descriptors that are not reserved for files; \
                 raise the limit of the process (`ulimit -n`)",
            );
            if let Ok(free) = free.acquire_owned().await {
                return free;
            }
        }
    }

    /// The connections, one after the other, for an HTTP/2 server; a peer that does not start to speak HTTP/2 is
    /// closed.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Accepted>> {
        unfold(self, async |mut acceptor| {
            let (accepted, _) = acceptor.accept().await;
            // Answers are small, and a client waits for each.
            let _ = accepted.socket.set_nodelay(true);
            Some((Ok(accepted.greets_within(GREETING_TIMEOUT)), acceptor))
        })
    }

    /// Stops accepting; waiting connections can still be accepted from the listener.
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        self.listener.into_std()
    }

    fn warn(&mut self, what: &str) {
        if self
            .last_warned
            .is_none_or(|at| at.elapsed() >= LOG_INTERVAL)
        {
            self.last_warned = Some(Instant::now());
            tracing::warn!(address = %self.address, "{what}");
        }
    }
}

/// The descriptors of the process that all connections together may use.
fn descriptors() -> &'static Arc<Semaphore> {
    static FREE: OnceLock<Arc<Semaphore>> = OnceLock::new();
    FREE.get_or_init(|| {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let most = for_connections(&limits).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Semaphore::new(most))
    })
}

/// That number, from the limits that Linux reports for the process; `None` where it reports none, or no limit.
fn for_connections(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let all: usize = line.split_whitespace().next()?.parse().ok()?;
    let spare = (all / 4).clamp(MIN_SPARE, MAX_SPARE);
    Some(
        all.saturating_sub(spare)
            .clamp(MIN_DESCRIPTORS, Semaphore::MAX_PERMITS),
    )
}

/// Enables keep-alive probes: nothing else reveals that a host was cut off.
pub fn probe(socket: &TcpStream) {
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "a connection is not probed");
    }
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Some((deadline, missing)) = &mut self.greeting {
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                self.greeting = None;
            } else if read.is_pending() && deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn some_descriptors_are_left_for_files() {
        let limits = |most: &str| {
            format!(
                "Max processes  9  9  processes\nMax open files            {most}    1048576    files\n"
            )
        };
        let of = |most| for_connections(&limits(most));
        assert_eq!(of("64"), Some(32));
        assert_eq!(of("1024"), Some(768));
        assert_eq!(of("1048576"), Some(1047552));
        assert_eq!(of("20"), Some(8));
        assert_eq!(of("unlimited"), None);
        assert_eq!(for_connections(""), None);
    }

    #[tokio::test]
    async fn connections_up_to_the_limit_are_accepted_and_probed_and_others_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut acceptor = Acceptor::new(listener, 2, "full\n").unwrap();
        let address = acceptor.address;
        let connect = async || TcpStream::connect(address).await.unwrap();
        let peers = [connect().await, connect().await];
        let (first, peer) = acceptor.accept().await;
        assert_eq!(peer, peers[0].local_addr().unwrap());
        assert!(SockRef::from(&first.socket).keepalive().unwrap());
        let _second = acceptor.accept().await;
        let mut third = connect().await;
        let mut told = String::new();
        let reads = third.read_to_string(&mut told);
        tokio::select! {
            _ = acceptor.accept() => panic!("there is no room"),
            read = reads => assert_eq!(read.unwrap(), 5),
        }
        assert_eq!(told, "full\n");
        drop(first);
        let fourth = connect().await;
        let (_, peer) = acceptor.accept().await;
        assert_eq!(peer, fourth.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_peer_that_does_not_greet_in_time_is_closed_and_one_that_did_may_be_idle() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut acceptor = Acceptor::new(listener, 9, "").unwrap();
        let time = Duration::from_millis(100);
        for (greeting, waits) in [(0, false), (23, false), (24, true)] {
            let mut peer = TcpStream::connect(acceptor.address).await.unwrap();
            peer.write_all(&vec![b'x'; greeting]).await.unwrap();
            let mut accepted = acceptor.accept().await.0.greets_within(time);
            let mut read = vec![0; greeting];
            accepted.read_exact(&mut read).await.unwrap();
            let kind = match tokio::time::timeout(5 * time, accepted.read_u8()).await {
                Ok(read) => Some(read.unwrap_err().kind()),
                Err(_) => None,
            };
            assert_eq!(
                kind,
                (!waits).then_some(io::ErrorKind::TimedOut),
                "{greeting}"
            );
        }
    }
}
