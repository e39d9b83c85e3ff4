//! Commands with one process: `wordcount --listen`, `demo`, `send`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::dir::Dir;
use crate::process::{DSTREAMS, Running, dstreams, message, program, run, until};
use crate::text::{naive, text};

/// Starts a `wordcount` for text and clients.
fn start(arguments: &[&str]) -> Running {
    let always = [
        "wordcount",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--clients",
        "127.0.0.1:0",
    ];
    Running::start(&[&always[..], arguments].concat())
}

fn connect(program: &Running) -> TcpStream {
    TcpStream::connect(program.said("listening")).unwrap()
}

#[test]
fn counts_of_two_producers_equal_a_naive_count() {
    let mut program = start(&["--interval", "50ms", "--window", "10m"]);
    let texts = [text(1, 30_000), text(2, 20_000)];
    std::thread::scope(|scope| {
        for text in &texts {
            let mut socket = connect(&program);
            // Split anywhere, as TCP does.
            let mut pieces = text.as_bytes().chunks(7_919);
            scope.spawn(move || {
                pieces
                    .try_for_each(|piece| socket.write_all(piece))
                    .unwrap()
            });
        }
    });
    program.wait_for(50_000);
    let last = program.batches.last().unwrap().clone();
    let (words, top) = naive(&[&texts[0], &texts[1]]);
    assert_eq!(last["window_words"], json!(words));
    assert_eq!(last["top"], top);
    for time in ["processing_ms", "scheduling_delay_ms"] {
        assert!(last[time].as_f64().unwrap() >= 0.0, "{last}");
    }
    program.terminate();
    assert_eq!(program.end(), (50_000, String::new()));
}

#[test]
fn each_window_is_the_sum_of_its_batches_and_becomes_empty() {
    let mut program = start(&["--interval", "20ms", "--window", "60ms"]);
    let mut socket = connect(&program);
    for burst in 1..=5 {
        // Three words per line, so that the number of words follows from the number of lines.
        socket
            .write_all("to be or\n".repeat(1000 * burst).as_bytes())
            .unwrap();
        program.wait_for((1..=burst as u64).sum::<u64>() * 1000);
    }
    while program.batches.last().unwrap()["window_words"] != json!(0) {
        let batch = program.next();
        program.batches.push(batch);
    }
    let mut window = VecDeque::new();
    let mut times = Vec::new();
    for batch in &program.batches {
        window.push_back(batch["records"].as_u64().unwrap());
        window.drain(..window.len().saturating_sub(3));
        let lines = window.iter().sum::<u64>();
        assert_eq!(batch["window_words"], json!(3 * lines), "{batch}");
        let top: &[_] = if lines == 0 {
            &[]
        } else {
            &[("be", lines), ("or", lines), ("to", lines)]
        };
        assert_eq!(batch["top"], json!(top));
        times.push(batch["batch_time"].as_u64().unwrap());
    }
    assert!(
        times.windows(2).all(|pair| pair[1] == pair[0] + 20),
        "{times:?}"
    );
}

#[test]
fn sigterm_drains_received_lines() {
    for round in 0..5 {
        let mut program = start(&["--interval", "100ms", "--window", "10m"]);
        let texts: Vec<_> = (0..3).map(|n| text(10 * round + n, 1_500)).collect();
        let mut first = connect(&program);
        first.write_all(texts[0].as_bytes()).unwrap();
        program.wait_for(1_500);
        // These fit into the socket buffers, so the kernel has them now; the last connection may
        // not be accepted yet. The last line counts without a line feed, since the producer closes.
        first.write_all(texts[1].as_bytes()).unwrap();
        let mut second = connect(&program);
        second.write_all(texts[2].trim_end().as_bytes()).unwrap();
        drop(second);
        program.terminate();
        let (words, top) = naive(&[&texts[0], &texts[1], &texts[2]]);
        assert_eq!(program.end(), (4_500, String::new()));
        let last = program.batches.last().unwrap();
        assert_eq!((&last["window_words"], &last["top"]), (&json!(words), &top));
    }
}

#[test]
fn lines_that_are_not_text_are_left_out_and_reported() {
    let mut program = start(&["--interval", "20ms"]);
    connect(&program)
        .write_all(b"good\n\xff\xfe\nagain\n")
        .unwrap();
    program.wait_for(2);
    program.terminate();
    let (total, errors) = program.end();
    assert_eq!(total, 2);
    assert!(errors.contains("1 line(s) left out"), "{errors}");
}

#[test]
fn batches_option_counts_empty_batches_too() {
    let mut program = start(&["--interval", "20ms", "--window", "1s", "--batches", "4"]);
    assert_eq!(program.end(), (0, String::new()));
    assert_eq!(program.batches.len(), 4);
}

#[test]
fn a_closed_output_ends_the_command_quietly() {
    let arguments = ["wordcount", "--listen", "127.0.0.1:0", "--interval", "20ms"];
    for json in [&["--json"][..], &[]] {
        let mut child = dstreams(&[&arguments[..], json].concat()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("listening"), "{line}");
        assert_eq!(message(child.wait_with_output().unwrap(), 0), "");
    }
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listen in [
        ["--listen", &address, "--clients", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--clients", &address],
    ] {
        let error = message(run(&[&["wordcount"], &listen[..]].concat(), b""), 1);
        assert!(
            error.contains(&address) && error.contains("in use"),
            "{error}"
        );
        assert!(error.contains("choose another port"), "{error}");
    }
}

#[test]
fn wrong_usage_is_explained() {
    let listen = ["wordcount", "--listen", "127.0.0.1:0"];
    for (arguments, wanted) in [
        (&["--interval", "1parsec"][..], "500ms, 1s or 2m"),
        (&["--interval", "0s"], "10 or more"),
        (
            &["--interval", "300ms", "--window", "1s"],
            "1s 200ms would be",
        ),
        (&["--interval", "1s", "--window", "0s"], "1s would be"),
        (&["--batches", "0"], "--batches"),
        (&["--clients", "nowhere"], "HOST:PORT"),
    ] {
        let error = message(run(&[&listen, arguments].concat(), b""), 2);
        assert!(error.contains(wanted), "{error} does not say {wanted}");
    }
}

#[test]
fn demo_counts_what_it_sends_and_prints_three_batches() {
    let arguments = [
        "demo",
        "--batches",
        "3",
        "--interval",
        "100ms",
        "--window",
        "1s",
    ];
    let output = run(&arguments, b"");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(message(output, 0), "", "{said}");
    assert_eq!(
        said.lines().filter(|line| line.contains(" ms ")).count(),
        3,
        "{said}"
    );
    let numbers: Vec<u64> = said
        .lines()
        .last()
        .unwrap()
        .split(' ')
        .flat_map(str::parse)
        .collect();
    let [fed, acknowledged, counted, batches] = numbers[..] else {
        panic!("{said}")
    };
    assert!(fed > 0 && batches >= 3, "{said}");
    assert_eq!((acknowledged, counted), (fed, fed), "{said}");
}

#[test]
fn send_feeds_a_program_and_reports() {
    let mut program = start(&["--interval", "50ms", "--window", "10m"]);
    let (file, input) = (text(7, 40_000), text(8, 10_001));
    let dir = Dir::new();
    let path = dir.join("lines");
    std::fs::write(&path, &file).unwrap();
    let send = |source: &str, input: &[u8]| {
        let output = run(
            &["send", program.said("clients"), "--stream", "lines", source],
            input,
        );
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(message(output, 0), "");
        said
    };
    let said = send(path.to_str().unwrap(), b"");
    assert!(
        said.starts_with("sent 40000 lines, acknowledged 40000 ("),
        "{said}"
    );
    // The last line needs no line feed.
    let said = send("-", input.trim_end().as_bytes());
    assert!(
        said.starts_with("sent 10001 lines, acknowledged 10001 ("),
        "{said}"
    );
    program.wait_for(50_001);
    let (words, top) = naive(&[&file, &input]);
    let last = program.batches.last().unwrap();
    assert_eq!((&last["window_words"], &last["top"]), (&json!(words), &top));
    program.terminate();
    program.end();
}

#[test]
fn send_keeps_to_its_rate() {
    let mut program = start(&["--interval", "50ms"]);
    let started = Instant::now();
    let arguments = [
        "send",
        program.said("clients"),
        "--stream",
        "lines",
        "--rate",
        "1000",
    ];
    let output = run(&arguments, text(9, 600).as_bytes());
    assert_eq!(message(output, 0), "");
    // It may catch up with the first tenth of a second.
    assert!(
        started.elapsed() >= Duration::from_millis(490),
        "{:?}",
        started.elapsed()
    );
    program.wait_for(600);
}

#[test]
fn send_explains_errors() {
    let mut program = start(&["--interval", "20ms"]);
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let send = |address: &str, stream: &str, file: &str, input: &[u8]| {
        message(run(&["send", address, "--stream", stream, file], input), 1)
    };
    let error = send(&closed, "lines", "-", b"x\n");
    assert!(
        error.contains(&closed) && error.contains("is the program running"),
        "{error}"
    );
    let error = send(program.said("clients"), "wrong", "-", b"x\n");
    assert!(
        error.contains("no stream `wrong`") && error.contains("`lines`"),
        "{error}"
    );
    let error = send(program.said("clients"), "lines", "/no/such/file", b"");
    assert!(
        error.contains("/no/such/file") && error.contains("No such file"),
        "{error}"
    );
    let error = send(program.said("clients"), "lines", "/", b"");
    assert!(error.contains("Is a directory"), "{error}");
    let error = send(
        program.said("clients"),
        "lines",
        "-",
        b"one\ntwo\nth\xffree\nfour\n",
    );
    assert!(error.contains("line 3: it is not UTF-8 text"), "{error}");
    let error = send(
        program.said("clients"),
        "lines",
        "-",
        &[b"one\n", &[b'x'; 3 << 20][..]].concat(),
    );
    assert!(
        error.contains("line 2: a record of 3145728 bytes"),
        "{error}"
    );
    program.wait_for(3);
    program.terminate();
    assert_eq!(program.end(), (3, String::new()));
}

/// With more connections than descriptors, accepted ones are served, the others wait, and the log says so periodically.
/// Some descriptors are left for files: a program with a state directory keeps running.
#[test]
fn connections_beyond_the_descriptors_wait() {
    let dir = Dir::missing();
    let state = dir.path();
    let counts = format!(
        "ulimit -n 64; exec {DSTREAMS} wordcount --json --listen 127.0.0.1:0 --clients 127.0.0.1:0 \
         --interval 50ms --window 10m --state {}",
        state.display()
    );
    let mut command = program("sh", &["-c", &counts]);
    let mut program = Running::spawn(&mut command).listening();
    let mut sockets: Vec<_> = (0..100)
        .map(|_| {
            let mut socket = connect(&program);
            socket.write_all(b"x\n").unwrap();
            socket
        })
        .collect();
    // Connections of clients use the same descriptors; these send nothing.
    let silent: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(program.said("clients")).unwrap())
        .collect();
    let warning = program.complaint_with("connections wait to be accepted");
    assert!(warning.contains("ulimit -n"), "{warning}");
    program.wait_for_some(25);
    // Checkpoints are written meanwhile.
    let inspected = || {
        run(
            &["checkpoint", "inspect", "--json", state.to_str().unwrap()],
            b"",
        )
        .stdout
    };
    let has_checkpoint = || {
        let inspected: serde_json::Value = serde_json::from_slice(&inspected()).unwrap_or_default();
        !inspected["checkpoint"].is_null()
    };
    until("a checkpoint", has_checkpoint);
    drop(silent);
    sockets.drain(..80);
    program.wait_for(100);
    let clients = program.said("clients").to_owned();
    message(run(&["send", &clients, "--stream", "lines"], b"y\n"), 0);
    program.wait_for(101);
    drop(sockets);
    program.terminate();
    let (total, errors) = program.end();
    assert_eq!(total, 101);
    assert!(errors.lines().count() < 10, "{errors}");
}

#[test]
fn addresses_that_other_machines_can_reach_are_reported_at_the_start() {
    let start = [
        "wordcount",
        "--json",
        "--listen",
        "0.0.0.0:0",
        "--clients",
        "127.0.0.1:0",
    ];
    let mut program = Running::start(&start);
    let said = program.complaint_with("other machines can reach");
    for part in [
        "stream `text`",
        "address=0.0.0.0:",
        "nothing asks for a token",
    ] {
        assert!(said.contains(part), "{said} does not say {part}");
    }
    program.terminate();
    // The other address, which they cannot reach, is not reported.
    assert_eq!(program.end(), (0, String::new()));
}

#[test]
fn limits_of_silence_and_patience_are_checked() {
    let worker = ["worker", "--master", "127.0.0.1:1", "--patience", "10ms"];
    let error = message(run(&worker, b""), 2);
    assert!(error.contains("1s to 24h"), "{error}");
    let master = ["master", "--listen", "127.0.0.1:0", "--silence", "100ms"];
    let error = message(run(&master, b""), 1);
    assert!(
        error.contains("silence") && error.contains("200 ms to an hour"),
        "{error}"
    );
}
