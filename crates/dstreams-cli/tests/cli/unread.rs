//! Nobody reads the output: commands still end, with a full and with a closed pipe.

use std::io::{BufRead, BufReader, pipe};
use std::process::{Child, ChildStdout, Output};

use serde_json::{Value, json};

use crate::dir::Dir;
use crate::process::{Running, dstreams, end_of, kill, lines, message, run};
use crate::text::text;

const COUNT: [&str; 10] = [
    "wordcount",
    "--json",
    "--listen",
    "127.0.0.1:0",
    "--clients",
    "127.0.0.1:0",
    "--interval",
    "20ms",
    "--window",
    "10m",
];
/// Words per line, so long that a few batches exceed the capacity of a pipe.
const WORDS_PER_LINE: usize = 10;

/// `lines` equal lines.
fn long_lines(lines: usize) -> String {
    let word = |n: usize| format!("{n}{} ", "x".repeat(4000));
    let line: String = (0..WORDS_PER_LINE).map(word).collect();
    (line + "\n").repeat(lines)
}

/// Starts a program, and reads only the first line of its output.
fn start(arguments: &[&str]) -> (Child, BufReader<ChildStdout>, Value) {
    let mut child = dstreams(&[&COUNT[..], arguments].concat()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    (child, output, serde_json::from_str(&line).unwrap())
}

/// Sends lines and waits for their acknowledgement.
fn send(first: &Value, text: &str) {
    let to = first["clients"].as_str().unwrap();
    message(run(&["send", to, "--stream", "lines"], text.as_bytes()), 0);
}

/// Ends a program that has filled the pipe, with `signals`.
fn end_unread(arguments: &[&str], text: &str, signals: &[&str]) -> Output {
    let (mut child, output, first) = start(arguments);
    send(&first, text);
    let mut errors = child.stderr.take().unwrap();
    let mut complaints = BufReader::new(&mut errors);
    let mut line = String::new();
    complaints.read_line(&mut line).unwrap();
    assert!(
        line.contains("nobody reads standard output") && line.contains("waits"),
        "{line}"
    );
    for signal in signals {
        kill(signal, child.id().into());
    }
    child.stderr = Some(errors);
    let ended = end_of(child);
    // Only now, since a closed pipe is another case.
    drop(output);
    ended
}

#[test]
fn a_full_pipe_does_not_prevent_the_end_of_a_program() {
    std::thread::scope(|scope| {
        // The drain time passes; or a second signal comes before.
        for (drain, signals) in [("300ms", &["TERM"][..]), ("10m", &["TERM", "INT"])] {
            scope.spawn(move || {
                let said = message(end_unread(&["--drain", drain], &long_lines(2), signals), 1);
                let numbers: Vec<u64> = said.split(' ').flat_map(str::parse).collect();
                let [hidden, left] = numbers[..] else {
                    panic!("{said}")
                };
                assert!(hidden > 0 && left > 0, "{said}");
                assert!(
                    said.contains(&format!("{hidden} batch(es) were counted and not shown")),
                    "{said}"
                );
            });
        }
    });
}

#[test]
fn acknowledged_lines_are_counted_even_if_nobody_reads_the_output() {
    let (unread, closed) = (Dir::missing(), Dir::missing());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let arguments = [
                "--state",
                unread.path().to_str().unwrap(),
                "--drain",
                "100ms",
            ];
            message(end_unread(&arguments, &long_lines(20), &["TERM"]), 1);
            counts_on(&unread, 20 * WORDS_PER_LINE);
        });
        scope.spawn(|| {
            // `| head -1`
            let (child, output, first) = start(&["--state", closed.path().to_str().unwrap()]);
            send(&first, &text(1, 100));
            drop(output);
            assert_eq!(message(end_of(child), 0), "");
            let words = text(1, 100).split_whitespace().count();
            counts_on(&closed, words);
        });
    });
}

/// Checks that a restarted program has all the words.
fn counts_on(state: &Dir, words: usize) {
    let mut program =
        Running::start(&[&COUNT[..], &["--state", state.path().to_str().unwrap()]].concat());
    while program.next()["window_words"] != json!(words) {}
    program.terminate();
    while program.next().get("records_total").is_none() {}
    assert_eq!(program.wait().0.code(), Some(0));
}

#[test]
fn unread_logs_do_not_block_a_program() {
    let (reader, writer) = pipe().unwrap();
    let mut command = dstreams(&COUNT);
    // At this level, a few clients cause more log lines than a pipe holds.
    command.env("DSTREAMS_LOG", "trace").stderr(writer);
    let mut program = Running::spawn(&mut command).listening();
    drop(command);
    for _ in 0..3 {
        send(&program.first, &text(3, 10_000));
    }
    program.wait_for(30_000);
    program.terminate();
    program.end();
    let said = lines(reader);
    assert!(said.recv().is_ok());
    let bytes: usize = said.iter().map(|line| line.len()).sum();
    assert!(
        bytes > 50_000,
        "only {bytes} bytes of log: the pipe was never full"
    );
}
