//! A TCP proxy that cuts its first connections after seeded numbers of bytes, in either direction.
//!
//! Its address stays while the server behind it may be exchanged for another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::seed::Random;

pub struct Proxy {
    pub address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    cuts: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    accepts: JoinHandle<()>,
}

/// Bytes that a connection carries before it is cut.
#[derive(Debug, Clone, Copy)]
struct Limits {
    up: u64,
    down: u64,
}

impl Proxy {
    /// Cuts nothing.
    pub async fn faithful(target: SocketAddr) -> Self {
        Self::start(target, Vec::new()).await
    }

    /// Cuts between 1 and 8 connections: half of them on the way up, half on the way down.
    pub async fn cutting(target: SocketAddr, random: &mut Random) -> Self {
        let cuts = 1 + random.below(8);
        let limits = (0..cuts).map(|_| match random.below(2) {
            0 => Limits {
                up: random.below(8000),
                down: u64::MAX,
            },
            _ => Limits {
                up: u64::MAX,
                down: random.below(600),
            },
        });
        Self::start(target, limits.collect()).await
    }

    async fn start(target: SocketAddr, limits: Vec<Limits>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, targets) = watch::channel(Some(target));
        let cuts = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&cuts);
        let connections = Arc::new(AtomicU64::new(0));
        let accepted = Arc::clone(&connections);
        let accepts = tokio::spawn(async move {
            let mut limits = limits.into_iter();
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let limit = limits.next().unwrap_or(Limits {
                    up: u64::MAX,
                    down: u64::MAX,
                });
                tokio::spawn(carry(client, targets.clone(), limit, Arc::clone(&counter)));
            }
        });
        Self {
            address,
            target,
            cuts,
            connections,
            accepts,
        }
    }

    /// Cuts all connections now; new ones go to `target`, or are cut at once if there is none.
    pub fn retarget(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }

    /// Connections cut at their limit.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Proxy {
    /// Connections that clients opened.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn carry(
    client: TcpStream,
    mut targets: watch::Receiver<Option<SocketAddr>>,
    limits: Limits,
    cuts: Arc<AtomicU64>,
) {
    let target = *targets.borrow_and_update();
    let Some(target) = target else { return };
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        true = pump(from_client, to_server, limits.up) => cuts.fetch_add(1, Ordering::Relaxed),
        true = pump(from_server, to_client, limits.down) => cuts.fetch_add(1, Ordering::Relaxed),
        _ = targets.changed() => 0,
        else => 0,
    };
}

/// Carries bytes until the end (false) or the limit (true).
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    limit: u64,
) -> bool {
    let mut left = limit;
    let mut buffer = [0; 4096];
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let Ok(read @ 1..) = from.read(&mut buffer[..most]).await else {
            return false;
        };
        if to.write_all(&buffer[..read]).await.is_err() {
            return false;
        }
        left -= read as u64;
    }
    true
}
