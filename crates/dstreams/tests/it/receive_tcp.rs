//! Lines over real sockets: every line arrives once, bad ones are dead letters, memory is bounded.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dstreams::{Config, DeadLetter, Error, RddReceiver, Record};

use crate::program::{INTERVAL, Live, Program, block_on, soon};

/// Seeded numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

pub fn settings(block_memory: usize, line_bytes: usize) -> Config {
    let mut config = Config::new(INTERVAL);
    config.threads = 2;
    config.block_memory = block_memory;
    config.block_bytes = block_memory.min(64 << 10);
    config.line_bytes = line_bytes;
    config
}

pub struct Server {
    pub live: Live,
    pub lines: RddReceiver<String>,
    pub dead: RddReceiver<DeadLetter>,
    pub address: SocketAddr,
}

pub async fn serve(config: Config) -> Server {
    let mut program = Program::new(config);
    let lines = program.ctx.tcp_text("lines", "127.0.0.1:0").collect();
    let dead = program.ctx.dead_letters().collect();
    let live = program.start().await;
    let address = live.running.address("lines").unwrap();
    Server {
        live,
        lines,
        dead,
        address,
    }
}

pub fn take<T: Record>(from: &mut RddReceiver<T>, into: &mut Vec<T>) {
    while let Some(rdd) = from.try_recv() {
        into.extend(rdd.collect().unwrap());
    }
}

impl Server {
    /// Runs batches until there are so many lines and dead letters.
    pub async fn receive(&mut self, lines: usize, dead: usize) -> (Vec<String>, Vec<DeadLetter>) {
        let (mut all, mut letters) = (Vec::new(), Vec::new());
        let wait = async {
            while all.len() < lines || letters.len() < dead {
                self.live.batch().await;
                take(&mut self.lines, &mut all);
                take(&mut self.dead, &mut letters);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(crate::program::PATIENCE, wait)
            .await
            .is_err()
        {
            panic!(
                "{} of {lines} lines, {} of {dead} dead letters",
                all.len(),
                letters.len()
            );
        }
        (all, letters)
    }

    /// Stops gracefully; returns all lines and dead letters not taken before.
    pub async fn stop(mut self) -> (Vec<String>, Vec<DeadLetter>) {
        soon("the stop", self.live.running.stop()).await.unwrap();
        let (mut all, mut letters) = (Vec::new(), Vec::new());
        take(&mut self.lines, &mut all);
        take(&mut self.dead, &mut letters);
        (all, letters)
    }
}

/// Writes `bytes` in pieces of random sizes up to `most`.
fn send(socket: &mut TcpStream, bytes: &[u8], random: &mut Random, most: usize) {
    let mut from = 0;
    while from < bytes.len() {
        let size = (1 + random.below(most)).min(bytes.len() - from);
        socket.write_all(&bytes[from..from + size]).unwrap();
        from += size;
    }
}

#[test]
fn many_producers_with_pieces_of_any_size() {
    const PRODUCERS: usize = 16;
    const LINES: usize = 300;
    block_on(async {
        let mut server = serve(settings(64 << 20, 1000)).await;
        let address = server.address;
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                std::thread::spawn(move || {
                    let mut random = Random(producer as u64 * 77 + 1);
                    let (mut bytes, mut sent) = (Vec::new(), Vec::new());
                    for n in 0..LINES {
                        let text = match random.below(5) {
                            0 => String::new(),
                            1 => format!("{producer:02} {n:04}"),
                            2 => format!(
                                "{producer:02} {n:04} äöü€ {}",
                                "x".repeat(random.below(600))
                            ),
                            _ => format!("{producer:02} {n:04} {}", "y".repeat(random.below(30))),
                        };
                        bytes.extend_from_slice(text.as_bytes());
                        // The last one ends with the connection.
                        if n + 1 < LINES || text.is_empty() {
                            bytes.extend_from_slice([&b"\n"[..], b"\r\n"][random.below(2)]);
                        }
                        sent.push(text);
                    }
                    let mut socket = TcpStream::connect(address).unwrap();
                    socket.set_nodelay(true).unwrap();
                    send(
                        &mut socket,
                        &bytes,
                        &mut random,
                        [3, 100, 5000][producer % 3],
                    );
                    sent
                })
            })
            .collect();
        let (got, dead) = server.receive(PRODUCERS * LINES, 0).await;
        assert_eq!(got.len(), PRODUCERS * LINES);
        assert!(dead.is_empty());
        // Lines of one producer are in order.
        let mut by_producer = BTreeMap::<&str, Vec<&str>>::new();
        for line in got.iter().filter(|line| !line.is_empty()) {
            by_producer.entry(&line[..2]).or_default().push(line);
        }
        let mut empty = got.iter().filter(|line| line.is_empty()).count();
        for (producer, sent) in producers.into_iter().enumerate() {
            let sent = sent.join().unwrap();
            let full: Vec<&str> = sent
                .iter()
                .filter(|l| !l.is_empty())
                .map(String::as_str)
                .collect();
            assert_eq!(by_producer[format!("{producer:02}").as_str()], full);
            empty -= sent.len() - full.len();
        }
        assert_eq!(empty, 0);
        assert_eq!(server.live.running.status().dead_letters, BTreeMap::new());
        server.stop().await;
    });
}

#[test]
fn a_line_without_an_end_counts_if_the_connection_is_closed_cleanly() {
    block_on(async {
        let mut server = serve(settings(1 << 20, 1000)).await;
        let mut clean = TcpStream::connect(server.address).unwrap();
        clean.write_all(b"whole\nlast").unwrap();
        assert_eq!(server.receive(1, 0).await.0, ["whole"]);
        drop(clean);
        assert_eq!(server.receive(1, 0).await.0, ["last"]);

        let broken = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let peer = broken.local_addr().unwrap().to_string();
        broken.writable().await.unwrap();
        broken.try_write(b"whole again\nlost").unwrap();
        assert_eq!(server.receive(1, 0).await.0, ["whole again"]);
        broken.set_zero_linger().unwrap();
        drop(broken);
        let (lines, dead) = server.receive(0, 1).await;
        assert_eq!(lines, [""; 0]);
        let [letter] = &dead[..] else {
            panic!("{dead:?}")
        };
        assert_eq!((letter.bytes.as_slice(), letter.length), (&b"lost"[..], 4));
        assert_eq!((letter.stream.as_str(), &letter.producer), ("lines", &peer));
        assert!(letter.reason.contains("broke"), "{}", letter.reason);
        assert_eq!(
            server.live.running.status().dead_letters,
            BTreeMap::from([("lines".to_owned(), 1)])
        );
        assert_eq!(server.stop().await.0, [""; 0]);
    });
}

#[test]
fn the_first_bytes_of_a_connection_select_its_protocol() {
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let sent: [(Vec<u8>, &[&str], &str); 5] = [
        (
            "\u{feff}one\n\u{feff}two".into(),
            &["one", "\u{feff}two"],
            "",
        ),
        ("\u{feff}".into(), &[], ""),
        ("x".into(), &["x"], ""),
        (wide("to be\nor not\n"), &[], "UTF-16"),
        (
            [b"\x1f\x8b\x08\0".as_slice(), &b"packed\n".repeat(9000)].concat(),
            &[],
            "gzip",
        ),
    ];
    block_on(async {
        let mut server = serve(settings(4 << 20, 1000)).await;
        for (seed, most) in [(1, 1 << 20), (2, 2)] {
            for (bytes, wanted, words) in &sent {
                let (address, bytes) = (server.address, bytes.clone());
                let most = most.max(bytes.len() / 1000);
                let sends = std::thread::spawn(move || {
                    let mut socket = TcpStream::connect(address).unwrap();
                    socket.set_nodelay(true).unwrap();
                    send(&mut socket, &bytes, &mut Random(seed), most);
                });
                let dead = usize::from(!words.is_empty());
                let (lines, letters) = server.receive(wanted.len(), dead).await;
                sends.join().unwrap();
                assert!(lines.iter().eq(wanted.iter()), "{lines:?}");
                assert_eq!(letters.len(), dead);
                assert!(
                    letters.iter().all(|letter| letter.reason.contains(words)),
                    "{letters:?}"
                );
            }
        }
        let (lines, letters) = server.stop().await;
        assert!(
            lines.is_empty() && letters.is_empty(),
            "{lines:?} {letters:?}"
        );
    });
}

#[test]
fn bad_lines_are_dead_letters_and_their_neighbours_are_kept() {
    let just = "j".repeat(50);
    let over = "o".repeat(51);
    let mut huge = b"h".repeat(100_000);
    huge[99_999] = b'!';
    let mut bytes = Vec::new();
    for line in [
        b"good 1".to_vec(),
        b"bad \xff\xfe 1".to_vec(),
        just.clone().into_bytes(),
        over.clone().into_bytes(),
        [just.as_bytes(), b"\r"].concat(),
        [over.as_bytes(), b"\r"].concat(),
        b"good 2 \xc3\xa4".to_vec(),
        huge.clone(),
        [&huge[..], b"\r"].concat(),
        b"cut \xc3".to_vec(),
        b"good 3".to_vec(),
        b"\x80".to_vec(),
    ] {
        bytes.extend(line);
        bytes.push(b'\n');
    }
    let good = ["good 1", &just, &just, "good 2 ä", "good 3"];
    let dead: [(&[u8], &str); 7] = [
        (b"bad \xff\xfe 1", "invalid UTF-8 at byte 4"),
        (over.as_bytes(), "51 bytes and the limit is 50"),
        (over.as_bytes(), "51 bytes and the limit is 50"),
        (&huge, "100000 bytes and the limit is 50"),
        (&huge, "100000 bytes and the limit is 50"),
        (b"cut \xc3", "invalid UTF-8 at byte 4"),
        (b"\x80", "invalid UTF-8 at byte 0"),
    ];
    block_on(async {
        let mut server = serve(settings(4 << 20, 50)).await;
        for (seed, most) in [(1, 1 << 20), (2, 7), (3, 60), (4, 3000)] {
            let (address, bytes) = (server.address, bytes.clone());
            let sends = std::thread::spawn(move || {
                let mut socket = TcpStream::connect(address).unwrap();
                socket.set_nodelay(true).unwrap();
                send(&mut socket, &bytes, &mut Random(seed), most);
            });
            let (lines, letters) = server.receive(good.len(), dead.len()).await;
            sends.join().unwrap();
            assert_eq!(lines, good);
            assert_eq!(letters.len(), dead.len());
            for (letter, (bytes, reason)) in letters.iter().zip(dead) {
                assert!(
                    letter.reason.contains(reason),
                    "{reason} is not in {}",
                    letter.reason
                );
                assert_eq!(letter.length, bytes.len() as u64);
                assert!(bytes.starts_with(&letter.bytes), "pieces of {most}");
                assert!(
                    letter.bytes.len() >= bytes.len().min(50),
                    "{} bytes kept",
                    letter.bytes.len()
                );
            }
        }
        assert_eq!(server.live.running.status().dead_letters["lines"], 28);
        server.stop().await;
    });
}

#[test]
fn a_port_in_use_fails_the_start_and_is_named() {
    block_on(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        for (address, says) in [
            (address.as_str(), "choose another port"),
            ("no such host:1", "no such host:1"),
        ] {
            let mut program = Program::new(settings(1 << 20, 1000));
            program.ctx.tcp_text("lines", address).for_each_rdd(|_| {});
            let error = program.ctx.start().await.err().unwrap();
            assert!(matches!(error, Error::Source { .. }), "{error:?}");
            let message = error.to_string();
            assert!(
                message.contains(address) && message.contains("`lines`"),
                "{message}"
            );
            assert!(message.contains(says), "{message}");
        }
    });
}

#[test]
fn a_graceful_stop_takes_everything_the_sockets_accepted() {
    block_on(async {
        for round in 0..10 {
            let server = serve(settings(64 << 20, 1000)).await;
            let mut sockets = Vec::new();
            for producer in 0..6 {
                let mut socket = TcpStream::connect(server.address).unwrap();
                for n in 0..200 {
                    writeln!(socket, "{producer} {n}").unwrap();
                }
                // Closed, open, and in the middle of a line.
                match producer % 3 {
                    0 => drop(socket),
                    1 => sockets.push(socket),
                    _ => {
                        socket.write_all(b"unfinished").unwrap();
                        sockets.push(socket);
                    }
                }
            }
            let (lines, dead) = server.stop().await;
            assert_eq!(lines.len(), 1200, "round {round}");
            let unfinished: Vec<_> = dead.iter().map(|letter| letter.bytes.as_slice()).collect();
            assert_eq!(unfinished, [b"unfinished"; 2]);
        }
    });
}

#[test]
fn a_million_lines() {
    const PRODUCERS: usize = 4;
    const LINES: usize = 250_000;
    block_on(async {
        let mut config = settings(256 << 20, 1000);
        config.block_bytes = 4 << 20;
        let mut program = Program::new(config);
        let lines = program.ctx.tcp_text("lines", "127.0.0.1:0");
        let numbers = lines.map(|line| line.parse::<i64>().unwrap());
        let query = "select count(*) as key, coalesce(sum(value), 0) as value from this";
        let mut totals = numbers.sql::<(i64, i64)>(query).unwrap().collect();
        let mut live = program.start().await;
        let address = live.running.address("lines").unwrap();
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                std::thread::spawn(move || {
                    let mut socket = std::io::BufWriter::new(TcpStream::connect(address).unwrap());
                    for n in 0..LINES {
                        writeln!(socket, "{}", producer * LINES + n).unwrap();
                    }
                })
            })
            .collect();
        let (mut count, mut sum) = (0, 0);
        while count < (PRODUCERS * LINES) as i64 {
            live.batch().await;
            let totals = soon("a batch", totals.recv())
                .await
                .unwrap()
                .collect()
                .unwrap();
            count += totals[0].0;
            sum += totals[0].1;
        }
        producers
            .into_iter()
            .for_each(|producer| producer.join().unwrap());
        live.running.stop().await.unwrap();
        let all = (PRODUCERS * LINES) as i64;
        assert_eq!((count, sum), (all, all * (all - 1) / 2));
        assert_eq!(live.running.status().records, all as u64);
    });
}
