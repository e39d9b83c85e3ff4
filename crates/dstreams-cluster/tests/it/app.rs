//! Programs whose role comes from the command line: the example `word_count`, in separate processes;
//! and a program that differs between processes.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use dstreams::{Clients, Config, OnFailure, StreamContext, agg::count};
use dstreams_client::{Client, Options};
use dstreams_cluster::app::{ReplayArgs, replay};
use dstreams_cluster::{Master, MasterOptions, WorkerOptions, run_worker};

use crate::dir::Dir;
use crate::process::master_options;
use crate::program::{block_on, until};

/// The example, built with these tests.
pub fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/word_count");
    assert!(built.exists(), "{} is not built", built.display());
    built
}

/// A running process of the example.
struct Role(Child, BufReader<ChildStdout>);

impl Role {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(example());
        command
            .args(arguments)
            .env_remove("DSTREAMS_TOKEN")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Role(child, output)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.1.read_line(&mut line).unwrap();
        assert!(read > 0, "it has ended");
        line.trim_end().to_owned()
    }

    /// The next line that contains `text`.
    fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.0.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end; returns its exit status and its standard error.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        let from = self.0.stderr.as_mut().unwrap();
        from.read_to_string(&mut errors).unwrap();
        (self.0.wait().unwrap().code(), errors)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends one line, and waits for its acknowledgement.
async fn send_line(address: &str, line: &str) {
    let client = Client::connect(address, Options::default()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send(line).await.unwrap();
    lines.finish().await.unwrap();
}

fn send(address: &str) {
    block_on(send_line(address, "to be or not to be"));
}

#[test]
fn one_program_runs_locally_and_as_master_and_workers() {
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let mut alone = Role::start(&["local", "--", &address]);
    alone.line(); // the first batch: it is listening now
    send(&address);
    assert_eq!(alone.line_with("| be "), "| be  | 2     |");
    alone.terminate();
    assert_eq!(alone.wait(), (Some(0), String::new()));

    let arguments = ["master", "--listen", "127.0.0.1:0", "--workers", "2"];
    let mut master = Role::start(&arguments);
    let line = master.line();
    let address = line.strip_prefix("master ").unwrap();
    let mut workers =
        [(); 2].map(|()| Role::start(&["worker", "--master", address, "--cores", "1"]));
    for worker in &mut workers {
        let line = worker.line();
        assert!(
            line.ends_with(&format!(", of the master {address}")),
            "{line}"
        );
        let joined = master.line_with("worker ");
        assert!(
            joined.contains("(pid ") && joined.contains("1 core(s)"),
            "{joined}"
        );
    }
    send(address);
    assert_eq!(master.line_with("| be "), "| be  | 2     |");
    let (code, table) = {
        let mut status = Role::start(&["status", "--master", address]);
        let mut table = String::new();
        status.1.read_to_string(&mut table).unwrap();
        (status.wait().0, table)
    };
    assert!(
        code == Some(0) && table.contains(": 1 records in "),
        "{table}"
    );
    master.terminate();
    let end = master.line_with("ended: ");
    assert!(end.starts_with("ended: 1 records in "), "{end}");
    let (code, errors) = master.wait();
    assert_eq!(code, Some(0), "{errors}");
    for worker in workers {
        let (code, errors) = worker.wait();
        assert_eq!(code, Some(0), "{errors}");
    }
}

fn program(arguments: &[String]) -> dstreams::Result<StreamContext> {
    let mut ctx = StreamContext::new(Duration::from_millis(100))?;
    let words = ctx.queue::<String>("words").1.keyed();
    let top = arguments.len();
    words.agg(count())?.top(top).print(1);
    Ok(ctx)
}

#[test]
fn a_worker_with_another_graph_is_refused_and_both_fingerprints_are_named() {
    let arguments = vec!["one".to_owned(), "two".to_owned()];
    let ctx = program(&arguments).unwrap();
    let mut options = master_options();
    options.arguments = arguments;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let master = runtime.block_on(Master::listen(ctx, options)).unwrap();
    let options = WorkerOptions::new(master.address());

    // The same function, with other arguments than the master's.
    let other = |arguments: &[String]| program(&arguments[1..]);
    let error = run_worker(&options, &other, &|_| {})
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("refuses this worker") && error.contains("different graphs"),
        "{error}"
    );
    let prints: Vec<_> = error
        .split([' ', ',', ':'])
        .filter(|word| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .collect();
    assert!(prints.len() == 2 && prints[0] != prints[1], "{error}");
    assert_eq!(master.status().workers.len(), 0);
}

/// A worker acknowledges records in its journal, which the next master process must be able to read.
#[test]
fn a_worker_that_cannot_see_the_masters_directory_is_refused() {
    let dir = Dir::new();
    let (ours, other) = (dir.join("ours"), dir.join("other"));
    std::fs::create_dir_all(&other).unwrap();
    let kept = |at: &std::path::Path| {
        let mut ctx = program(&[])?;
        ctx.persist_in(at);
        Ok::<_, dstreams::Error>(ctx)
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listen = |ctx| runtime.block_on(Master::listen(ctx, MasterOptions::default()));
    let refused = |master: &Master, worker: &dyn Fn() -> dstreams::Result<StreamContext>| {
        let options = WorkerOptions::new(master.address());
        let error = run_worker(&options, &|_: &[String]| worker(), &|_| {});
        assert_eq!(master.status().workers.len(), 0);
        error.unwrap_err().to_string()
    };
    let master = listen(kept(&ours).unwrap()).unwrap();
    let nowhere = refused(&master, &|| program(&[]));
    assert!(nowhere.contains("this worker's in none"), "{nowhere}");
    for file in [None, Some("the name of another process")] {
        if let Some(name) = file {
            std::fs::write(other.join("lock"), name).unwrap();
        }
        let elsewhere = refused(&master, &|| kept(&other));
        let (ours, other) = (ours.to_str().unwrap(), other.to_str().unwrap());
        assert!(
            elsewhere.contains(ours) && elsewhere.contains(other),
            "{elsewhere}"
        );
    }
    let master = listen(program(&[]).unwrap()).unwrap();
    let alone = refused(&master, &|| kept(&ours));
    assert!(alone.contains("the master's in none"), "{alone}");
}

/// Prints block on a pipe that nobody reads, but the end does not wait for them.
#[test]
fn a_full_pipe_does_not_prevent_the_end_of_a_program() {
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.75:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let mut role = Role::start(&["local", "--drain", "300ms", "--", &address]);
    // A table of these words exceeds the capacity of a pipe.
    let words: String = (0..10)
        .map(|n| format!("{n}{} ", "x".repeat(3000)))
        .collect();
    until_blocking("it listens", || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    block_on(send_line(&address, &words));
    let mut errors = BufReader::new(role.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("nobody reads standard output") {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0, "it has ended");
    }
    role.terminate();
    role.0.stderr = Some(errors.into_inner());
    let (code, said) = role.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("batch(es) left"), "{said}");
}

fn until_blocking(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}: not yet");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The command line of `replay`.
#[derive(Parser)]
struct Replay {
    #[command(flatten)]
    args: ReplayArgs,
}

#[test]
fn replay_runs_one_batch_that_was_set_aside() {
    let dir = Dir::missing();
    let app = |arguments: &[String]| {
        let tolerant = arguments == ["tolerant_program"];
        let mut config = Config::new(Duration::from_millis(50));
        config.on_failure = OnFailure::SetAside;
        let mut ctx = StreamContext::with_config(config)?;
        let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
        let numbers = lines.map::<i64>(move |line| match line.parse() {
            Err(_) if tolerant => 0,
            number => number.expect("a number"),
        });
        numbers.for_each_rdd(|_| {});
        ctx.persist_in(dir.path());
        Ok::<_, dstreams::Error>(ctx)
    };
    block_on(async {
        let running = app(&[]).unwrap().start().await.unwrap();
        let address = running.address("lines").unwrap().to_string();
        send_line(&address, "no number").await;
        until("a batch to be set aside", || {
            running.status().set_aside == 1
        })
        .await;
        running.stop().await.unwrap();
        let batch = dstreams::inspect(dir.path()).unwrap().set_aside[0].to_string();
        let args = |more: &[&str]| {
            let always = ["replay", dir.path().to_str().unwrap(), "--batch", &batch];
            Replay::parse_from(always.iter().chain(more)).args
        };
        let error = replay(&args(&[]), &app).await.unwrap_err().to_string();
        for part in ["a number", "map", "app.rs", &batch] {
            assert!(error.contains(part), "{error} does not say {part}");
        }
        replay(&args(&["--", "tolerant_program"]), &app)
            .await
            .unwrap();
    });
}
