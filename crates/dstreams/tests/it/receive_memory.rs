//! The memory of received lines is bounded, and the bound blocks no producer permanently.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::dir::Dir;
use crate::program::{Program, block_on, soon, until};
use crate::receive_tcp::{serve, settings, take};

/// Numbered lines, written without blocking until `stop`; returns the number of accepted bytes.
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
    // More than the kernel buffers for both ends of a connection.
    const MAX_BYTES: usize = 64 << 20;
    block_on(async {
        let mut server = serve(settings(MEMORY, 1000)).await;
        let accepted = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let producer = {
            let (address, accepted, stop) =
                (server.address, Arc::clone(&accepted), Arc::clone(&stop));
            std::thread::spawn(move || flood(address, &accepted, &stop, MAX_BYTES))
        };
        // The clock stands still: eventually nothing more is accepted.
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
        assert!(last < MAX_BYTES, "all {last} bytes were accepted");
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
fn idle_producers_take_no_memory_from_others() {
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

/// Producers that pause in the middle of long lines take no memory that others need, and only a bounded amount.
#[test]
fn unfinished_lines_block_no_other_producer() {
    const UNFINISHED_BYTES: usize = 40 << 10;
    block_on(async {
        let mut server = serve(settings(256 << 10, 64 << 10)).await;
        let mut idle: Vec<_> = (0..16)
            .map(|_| {
                let mut socket = TcpStream::connect(server.address).unwrap();
                socket.write_all(&[b'x'; UNFINISHED_BYTES]).unwrap();
                socket
            })
            .collect();
        let mut honest = TcpStream::connect(server.address).unwrap();
        let sends = std::thread::spawn(move || {
            for n in 0..5_000 {
                writeln!(honest, "line {n} {}", "of some length".repeat(5)).unwrap();
            }
        });
        let (lines, dead) = server.receive(5_000, 0).await;
        assert!(lines.iter().all(|line| line.starts_with("line ")) && dead.is_empty());
        sends.join().unwrap();
        for socket in &mut idle {
            socket.write_all(b"\n").unwrap();
        }
        // There is room for three of them beside the memory. The others are refused.
        let both = async {
            let (mut lines, mut dead) = (Vec::new(), Vec::new());
            while lines.len() + dead.len() < 16 {
                server.live.batch().await;
                take(&mut server.lines, &mut lines);
                take(&mut server.dead, &mut dead);
            }
            (lines, dead)
        };
        let (lines, dead) = soon("the half lines", both).await;
        assert!(lines.len() >= 3 && lines.iter().all(|line| line.len() == UNFINISHED_BYTES));
        for letter in dead {
            assert!(
                letter.reason.contains("raise `block_memory`"),
                "{}",
                letter.reason
            );
            assert_eq!(letter.length, UNFINISHED_BYTES as u64);
        }
        server.stop().await;
    });
}

#[test]
fn an_unfinished_line_leaves_memory_for_others() {
    block_on(async {
        let memory = 256 << 10;
        let mut program = Program::new(settings(memory, memory));
        let mut lines = program.ctx.tcp_text("lines", "127.0.0.1:0").collect();
        let (queue, pushed) = program.ctx.queue::<String>("pushed");
        let mut all = pushed.collect();
        let mut live = program.start().await;
        let address = live.running.address("lines").unwrap();
        let mut idle = TcpStream::connect(address).unwrap();
        idle.write_all(b"abc").unwrap();
        until("its bytes", || live.running.status().block_memory > 0).await;
        let long = std::thread::spawn(move || {
            let mut socket = TcpStream::connect(address).unwrap();
            let line = [&[b'x'; 150 << 10][..], b"\n"].concat();
            socket.write_all(&line).unwrap();
        });
        let large = tokio::spawn(async move { queue.push(["y".repeat(2 * memory)]).await });
        let (mut got, mut rows) = (Vec::new(), Vec::new());
        let both = async {
            while got.is_empty() || rows.is_empty() {
                live.batch().await;
                take(&mut lines, &mut got);
                take(&mut all, &mut rows);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("both", both).await;
        assert_eq!((got[0].len(), rows[0].len()), (150 << 10, 2 * memory));
        large.await.unwrap().unwrap();
        long.join().unwrap();
        live.running.stop().await.unwrap();
    });
}

/// With a directory, lines are on disk when they are read, not at the end of the interval.
#[test]
fn lines_are_in_the_journal_while_their_producer_pauses() {
    let dir = Dir::new();
    block_on(async {
        let mut program = Program::new(settings(1 << 20, 1000));
        program.ctx.tcp_text("lines", "127.0.0.1:0").print(0);
        program.ctx.persist_in(dir.path());
        let live = program.start().await;
        let address = live.running.address("lines").unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        for n in 1..4 {
            writeln!(socket, "line {n}").unwrap();
            let blocks = || dstreams::inspect(dir.path()).unwrap().journal.blocks;
            until("a block", || blocks() == n).await;
        }
        let summary = live.running.stop().await.unwrap();
        assert_eq!(summary.records, 3);
    });
}
