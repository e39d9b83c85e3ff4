//! Connections that break after any number of bytes, in either direction: each line is received once.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::TcpStream;

use super::*;

/// A proxy that cuts its connections after so many bytes, every second one on the way back to the client; then cuts
/// no more. Returns its address.
async fn cutting(server: SocketAddr, after: Vec<u64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let limits = after.into_iter().chain(std::iter::repeat(u64::MAX));
        for (number, limit) in limits.enumerate() {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            // Acknowledgements are few bytes.
            let (up, down) = match number % 2 {
                0 => (limit, u64::MAX),
                _ => (u64::MAX, limit / 20),
            };
            tokio::spawn(carry(client, server, up, down));
        }
    });
    address
}

async fn carry(mut client: TcpStream, mut server: TcpStream, up: u64, down: u64) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    tokio::select! {
        _ = async { copy(&mut from_client.take(up), &mut to_server).await } => {}
        _ = async { copy(&mut from_server.take(down), &mut to_client).await } => {}
    }
    let _ = (to_client.shutdown().await, to_server.shutdown().await);
}

#[tokio::test]
async fn lines_over_breaking_connections_are_received_once() {
    let (mut reconnects, mut resends) = (0, 0);
    for seed in 0..60u64 {
        let served = Served::lines().await;
        // The first connection only probes whether the server is there.
        let after = (0..7).map(|n| {
            if n == 0 {
                u64::MAX
            } else {
                seed * 97 * (n + 1) % 14_000
            }
        });
        let address = cutting(served.address, after.collect()).await;
        let mut options = Options::default();
        options.pack_lines = 5;
        options.retry.first_pause = Duration::from_micros(200);
        options.retry.longest_pause = Duration::from_millis(2);
        let client = Client::connect(address, options).await.unwrap();
        let mut lines = client.lines("lines").await.unwrap();
        let expected: Vec<_> = (0..200).map(|n| format!("seed {seed} line {n}")).collect();
        for (number, line) in expected.iter().enumerate() {
            lines.send(line).await.unwrap();
            if number % 20 == 0 {
                lines.flush().await.unwrap();
            }
        }
        let report = lines.finish().await.unwrap();
        assert_eq!(served.taken_lines(), expected, "seed {seed}");
        assert_eq!(report.records_acknowledged, 200, "seed {seed}");
        reconnects += report.reconnects;
        resends += report.resends;
    }
    assert!(
        reconnects > 60 && resends > 60,
        "{reconnects} reconnects, {resends} resends"
    );
}
