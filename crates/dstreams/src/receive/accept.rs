//! [`Acceptor`]: the connections of one address, of which there may be so many and no more.
//!
//! Where none can be accepted, since the process has no descriptor left or the like, it pauses: the error comes again at
//! once otherwise, and nothing but a closed connection changes that. Peers that vanished without a word are found by
//! probes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use futures::stream::unfold;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Pause after a connection that could not be accepted: others may be closed meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is said that connections are not accepted.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// An idle connection is probed after this time, then in such intervals, so often.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// See the module.
pub struct Acceptor {
    listener: TcpListener,
    address: SocketAddr,
    most: usize,
    room: Arc<Semaphore>,
    /// What a peer is told for which there is no room.
    refusal: &'static str,
    said: Option<Instant>,
}

/// A connection; its place is free when this is dropped.
pub struct Accepted {
    pub socket: TcpStream,
    pub place: OwnedSemaphorePermit,
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
                    return (Accepted { socket, place }, peer);
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

    /// For a server that takes them one after the other.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Accepted>> {
        unfold(self, async |mut acceptor| {
            let (accepted, _) = acceptor.accept().await;
            // Answers are small and each is waited for.
            let _ = accepted.socket.set_nodelay(true);
            Some((Ok(accepted), acceptor))
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
        Pin::new(&mut self.socket).poll_read(context, buffer)
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
    use tokio::io::AsyncReadExt;

    use super::*;

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
}
