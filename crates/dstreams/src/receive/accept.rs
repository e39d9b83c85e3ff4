//! [`Acceptor`]: the connections of one address, of which there may be so many and no more.
//!
//! Connections of all addresses leave some descriptors of the process for files: beyond that they wait to be accepted, so
//! that a flood of them ends no program that writes to a disk. Where none can be accepted for another reason, it pauses:
//! the error comes again at once otherwise. Peers that vanished without a word are found by probes.

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
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is said that connections are not accepted.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// An idle connection is probed after this time, then in such intervals, so often.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// How long a peer may take for the first bytes of HTTP/2, and how many these are: what holds a place and says nothing
/// is not a client.
const GREETING: Duration = Duration::from_secs(10);
const GREETING_BYTES: usize = 24;
/// Of the descriptors of the process a quarter is for files and the like; not fewer and not more than these.
const LEAST_SPARE: usize = 32;
const MOST_SPARE: usize = 1024;
/// As many are for connections in any case: each address has one that nobody has taken yet.
const LEAST: usize = 8;

/// Accepts connections of one address, up to a limit.
pub struct Acceptor {
    listener: TcpListener,
    address: SocketAddr,
    most: usize,
    room: Arc<Semaphore>,
    /// What a peer is told for which there is no room.
    refusal: &'static str,
    said: Option<Instant>,
}

debug_as!(Acceptor { address });

/// A connection; its place is free when this is dropped.
pub struct Accepted {
    pub socket: TcpStream,
    pub place: Place,
    /// Until it has greeted: by when it must have, and how many bytes of that are missing.
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
    /// Accepts `most` connections at once; what comes beyond gets the refusal and is closed.
    pub fn new(listener: TcpListener, most: usize, refusal: &'static str) -> io::Result<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Ok(Acceptor {
            address: listener.local_addr()?,
            listener,
            most,
            room: Arc::new(Semaphore::new(most)),
            refusal,
            said: None,
        })
    }

    /// The next connection. Can be cancelled.
    pub async fn accept(&mut self) -> (Accepted, SocketAddr) {
        loop {
            let descriptor = self.descriptor().await;
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.say(&format!("cannot accept connections: {error}"));
                    tokio::time::sleep(PAUSE).await;
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
                    self.say(&format!(
                        "connections are refused: there are {most}, as many as `connections` allows"
                    ));
                }
            }
        }
    }

    /// Waits until there is a descriptor for a connection.
    async fn descriptor(&mut self) -> OwnedSemaphorePermit {
        loop {
            let free = Arc::clone(descriptors());
            if let Ok(free) = Arc::clone(&free).try_acquire_owned() {
                return free;
            }
            self.say(
                "connections wait to be accepted: those that are open leave descriptors for files alone; \
                 allow the process more of them (`ulimit -n`)",
            );
            if let Ok(free) = free.acquire_owned().await {
                return free;
            }
        }
    }

    /// For a server of HTTP/2 that takes them one after the other; a peer that does not begin to speak that is closed.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Accepted>> {
        unfold(self, async |mut acceptor| {
            let (accepted, _) = acceptor.accept().await;
            // Answers are small and each is waited for.
            let _ = accepted.socket.set_nodelay(true);
            Some((Ok(accepted.greets_within(GREETING)), acceptor))
        })
    }

    /// Accepts no more; connections that wait can still be had of the listener.
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        self.listener.into_std()
    }

    fn say(&mut self, what: &str) {
        if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(address = %self.address, "{what}");
        }
    }
}

/// The descriptors of the process that connections may have, together.
fn descriptors() -> &'static Arc<Semaphore> {
    static FREE: OnceLock<Arc<Semaphore>> = OnceLock::new();
    FREE.get_or_init(|| {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let most = for_connections(&limits).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Semaphore::new(most))
    })
}

/// How many descriptors that is, by what Linux says of the process; none where it says nothing, or sets no limit.
fn for_connections(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let all: usize = line.split_whitespace().next()?.parse().ok()?;
    let spare = (all / 4).clamp(LEAST_SPARE, MOST_SPARE);
    Some(
        all.saturating_sub(spare)
            .clamp(LEAST, Semaphore::MAX_PERMITS),
    )
}

/// Has the system ask now and then whether the peer is there: nobody tells that a host was cut off.
pub fn probe(socket: &TcpStream) {
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY)
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
    async fn so_many_are_accepted_and_probed_and_the_others_are_told() {
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
    async fn who_does_not_greet_in_time_is_closed_and_who_does_may_be_silent() {
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
