//! The memory of received lines is bounded, and its bound stops nobody for ever.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::program::{block_on, soon, until};
use crate::receive_tcp::{serve, settings, take};

/// Numbered lines, written without blocking until `stop`; returns how many bytes were accepted.
fn flood(address: SocketAddr, accepted: &AtomicUsize, stop: &AtomicBool, most: usize) -> usize {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut total = 0;
    let mut n = 0;
    let mut line = Vec::new();
    while (total < most && !stop.load(Ordering::SeqCst)) || !line.is_empty() {
        if line.is_empty() {
            line = format!("line number {n:09} with some more text\n").into_bytes();
            n += 1;
        }
        match socket.write(&line) {
            Ok(written) => {
                line.drain(..written);
                total += written;
                accepted.store(total, Ordering::SeqCst);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    n
}

#[test]
fn memory_is_bounded_and_producers_wait() {
    const MEMORY: usize = 128 << 10;
    // More than the kernel holds for both ends of a connection.
    const MOST: usize = 64 << 20;
    block_on(async {
        let mut server = serve(settings(MEMORY, 1000)).await;
        let accepted = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let producer = {
            let (address, accepted, stop) =
                (server.address, Arc::clone(&accepted), Arc::clone(&stop));
            std::thread::spawn(move || flood(address, &accepted, &stop, MOST))
        };
        // The clock stands still: at some point nothing more is accepted.
        let (mut last, mut same) = (0, 0);
        while same < 100 {
            let status = server.live.running.status();
            assert!(
                status.block_memory <= MEMORY,
                "{} bytes",
                status.block_memory
            );
            let now = accepted.load(Ordering::SeqCst);
            same = if now == last && now > 0 { same + 1 } else { 0 };
            last = now;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(last < MOST, "all {last} bytes were accepted");
        assert!(server.live.running.status().block_memory > MEMORY / 2);
        stop.store(true, Ordering::SeqCst);
        let mut got = Vec::new();
        let drain = async {
            while !producer.is_finished() {
                server.live.batch().await;
                assert!(server.live.running.status().block_memory <= MEMORY);
                take(&mut server.lines, &mut got);
            }
        };
        soon("the producer", drain).await;
        let sent = producer.join().unwrap();
        got.extend(server.receive(sent - got.len(), 0).await.0);
        assert_eq!(got.len(), sent);
        for (n, line) in got.iter().enumerate() {
            assert_eq!(*line, format!("line number {n:09} with some more text"));
        }
        server.stop().await;
    });
}

#[test]
fn idle_producers_do_not_hold_the_memory_of_others() {
    block_on(async {
        let mut server = serve(settings(64 << 10, 1000)).await;
        let mut idle = Vec::new();
        for n in 0..12 {
            let mut socket = TcpStream::connect(server.address).unwrap();
            // Half of them in the middle of a line.
            write!(
                socket,
                "idle {n}\n{}",
                if n % 2 == 0 { "" } else { "unfinished" }
            )
            .unwrap();
            idle.push(socket);
            assert_eq!(server.receive(1, 0).await.0, [format!("idle {n}")]);
        }
        for mut socket in idle.drain(..6) {
            socket.write_all(b" and more\n").unwrap();
        }
        let mut lines = server.receive(6, 0).await.0;
        lines.sort();
        assert_eq!(
            lines,
            [[" and more"; 3], ["unfinished and more"; 3]].concat()
        );
        server.stop().await;
    });
}

#[test]
fn lines_as_long_as_the_memory_get_through() {
    block_on(async {
        let bytes = 256 << 10;
        let mut server = serve(settings(bytes, bytes)).await;
        let address = server.address;
        let sends: Vec<_> = (0..4)
            .map(|n| {
                std::thread::spawn(move || {
                    let mut socket = TcpStream::connect(address).unwrap();
                    let line = [&[b'a' + n; 200 << 10][..], b"\n"].concat();
                    socket.write_all(&line).unwrap();
                })
            })
            .collect();
        let mut lines = server.receive(4, 0).await.0;
        lines.sort();
        for (line, n) in lines.iter().zip(b'a'..) {
            assert!(line.len() == 200 << 10 && line.bytes().all(|byte| byte == n));
        }
        sends.into_iter().for_each(|send| send.join().unwrap());
        server.stop().await;
    });
}

#[test]
fn a_graceful_stop_with_full_memory_ends_and_loses_nothing() {
    block_on(async {
        let server = serve(settings(64 << 10, 1000)).await;
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Until memory and the kernel's buffers are full: whole lines only.
        let line = [b'x'; 999];
        let mut accepted = 0usize;
        let running = &server.live.running;
        until("full sockets", || {
            let mut stuck = false;
            while !stuck {
                let rest = accepted % 1000;
                let next = if rest == 999 {
                    &b"\n"[..]
                } else {
                    &line[rest..]
                };
                match socket.write(next) {
                    Ok(written) => accepted += written,
                    Err(_) => stuck = true,
                }
            }
            running.status().block_memory > 32 << 10
        })
        .await;
        let (lines, _) = server.stop().await;
        let sent = accepted / 1000;
        assert!(lines.len() >= sent, "{} of {sent} lines", lines.len());
    });
}
