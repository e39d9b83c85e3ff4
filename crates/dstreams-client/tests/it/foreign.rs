//! A client in another language: `tests/pyarrow/send.py`, written from the protocol's documentation.
//!
//! Runs the Python of the environment variable `DSTREAMS_PYTHON`, or `python3`; it needs pyarrow.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::master::Directory;
use crate::proxy::Proxy;
use crate::seed::Random;
use crate::server::{Server, Store};
use crate::until_within;

/// A Python that has pyarrow.
fn python() -> String {
    let python = std::env::var("DSTREAMS_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let tried = Command::new(&python)
        .args(["-c", "import pyarrow.flight"])
        .output();
    let has = tried.as_ref().is_ok_and(|tried| tried.status.success());
    assert!(
        has,
        "{python} with pyarrow is needed to test a client in another language: `pip install pyarrow`, or \
         set DSTREAMS_PYTHON to a Python that has it ({tried:?})"
    );
    python
}

/// Waits longer, since Python is slow to start.
async fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(100), what, condition).await;
}

/// A running script; killed on drop.
struct Run(Option<Child>);

impl Run {
    fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap()))
    }

    fn is_over(&mut self) -> bool {
        let child = self.0.as_mut().unwrap();
        child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends. Its output fits into the pipe.
    async fn output(mut self) -> Output {
        until("the script is over", || self.is_over()).await;
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = (child.kill(), child.wait());
        }
    }
}

/// A file of lines, removed on drop.
struct Lines {
    path: PathBuf,
    lines: Vec<String>,
}

impl Lines {
    fn new(name: &str, count: usize) -> Self {
        let path = format!("dstreams-client-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(path);
        let lines: Vec<_> = (0..count)
            .map(|n| format!("\u{e9} line {n} of {name}"))
            .collect();
        let ends = ["\n", "\r\n"];
        let text = lines.iter().enumerate();
        let text: String = text.map(|(n, line)| line.clone() + ends[n % 2]).collect();
        std::fs::write(&path, text).unwrap();
        Self { path, lines }
    }

    /// Runs the script on this file, in batches of 10 rows.
    fn send(&self, address: impl ToString, arguments: &[&str], token: &str) -> Run {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pyarrow/send.py");
        let mut command = Command::new(python());
        command
            .args([script, &address.to_string()])
            .args(arguments)
            .arg(&self.path)
            .args(["--batch-rows", "10"])
            .env("DSTREAMS_TOKEN", token);
        Run::start(&mut command)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn pyarrow_finds_workers_and_sends_each_line_once_over_cuts_and_deaths() {
    let store = Store::lines();
    let mut random = Random::new(3);
    let mut workers = vec![Server::start(&store), Server::start(&store)];
    let mut proxies = Vec::new();
    for worker in &workers {
        proxies.push(Proxy::cutting(worker.address, &mut random).await);
    }
    let directory = Directory::lines(proxies.iter().map(|proxy| proxy.address));
    let master = Server::master(&directory);
    store.acknowledging.send_replace(false);
    let file = Lines::new("failover", 1995);
    let mut sending = file.send(master.address, &["lines"], "");
    until("the window is full, or its connection cut", || {
        store.received.load(Relaxed) >= 10 || sending.is_over()
    })
    .await;
    workers.sort_by_key(|worker| worker.local.opened.load(Relaxed) == 0);
    drop(workers.remove(0)); // with acknowledgements that it never sent
    store.acknowledging.send_replace(true);
    let output = sending.output().await;
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(store.stored_lines(), file.lines, "{said}");
    assert!(
        said.contains("1995 lines, 200 batches are acknowledged"),
        "{said}"
    );
    assert!(!said.contains(" 0 reconnects"), "{said}");
    assert!(proxies.iter().map(Proxy::cuts).sum::<u64>() > 0);
    assert!(directory.asked() > 1);
}

#[tokio::test]
async fn pyarrow_resends_unacknowledged_batches_and_they_are_recognised() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let proxy = Proxy::faithful(worker.address).await;
    store.acknowledging.send_replace(false);
    store.modest.store(true, Relaxed); // the first answer is 0: all of the window comes again
    let file = Lines::new("again", 155);
    let sending = file.send(proxy.address, &["lines"], "");
    until("all is on the way", || store.stored_lines().len() == 155).await;
    proxy.retarget(Some(worker.address));
    store.acknowledging.send_replace(true);
    let output = sending.output().await;
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 reconnects, 16 resends"), "{said}");
    assert_eq!(store.repeated.load(Relaxed), 16, "{said}");
    assert_eq!(store.stored_lines(), file.lines);
}

#[tokio::test]
async fn pyarrow_resumes_after_a_producer_restart_with_the_token() {
    let store = Store::lines();
    let worker = Server::start(&store);
    *store.token.lock().unwrap() = Some("s3cret");
    let file = Lines::new("restart", 100);
    let mine = ["lines", "--producer", "mine"];
    for _ in 0..2 {
        let output = file.send(worker.address, &mine, "s3cret").output().await;
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("100 lines, 10 batches"), "{said}");
    }
    assert_eq!(store.stored_lines(), file.lines);
    assert_eq!(
        store.repeated.load(Relaxed),
        0,
        "it did not send them again"
    );
}

#[tokio::test]
async fn pyarrow_reports_refusals() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let directory = Directory::lines([worker.address]);
    let master = Server::master(&directory);
    *store.token.lock().unwrap() = Some("s3cret");
    let file = Lines::new("refused", 10);
    let cases = [
        (master.address, "lnes", "there are: lines"),
        (worker.address, "lines", "this is not the token"),
    ];
    for (address, stream, words) in cases {
        let output = file.send(address, &[stream], "guess").output().await;
        let said = said(&output);
        assert!(!output.status.success(), "{said}");
        assert!(
            said.starts_with("refused:") && said.contains(words),
            "{said}"
        );
    }
    assert_eq!(directory.asked(), 1);
    assert!(store.stored_lines().is_empty());
}

#[tokio::test]
async fn pyarrow_waits_for_a_cluster_without_workers() {
    let store = Store::lines();
    let worker = Server::start(&store);
    worker.local.unavailable.store(true, Relaxed);
    let directory = Directory::lines([""; 0]);
    *directory.unavailable.lock().unwrap() = Some("no worker has registered");
    let master = Server::master(&directory);
    let file = Lines::new("waits", 10);
    let sending = file.send(master.address, &["lines"], "");
    until("it was told so", || directory.asked() >= 2).await;
    *directory.unavailable.lock().unwrap() = None;
    let before = directory.asked();
    until("it was named none", || directory.asked() >= before + 2).await;
    directory.names([worker.address]);
    let before = directory.asked();
    until("it was refused", || directory.asked() >= before + 2).await;
    worker.local.unavailable.store(false, Relaxed);
    let output = sending.output().await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(store.stored_lines(), file.lines);
}

/// The example in the documentation runs.
#[tokio::test]
async fn pyarrow_runs_the_example_of_the_protocol() {
    let documentation = include_str!("../../src/protocol.rs");
    let (_, example) = documentation.split_once("```python\n").unwrap();
    let (example, _) = example.split_once("//! ```").unwrap();
    let example = example.replace("//! ", "");
    let store = Store::lines();
    let worker = Server::start(&store);
    let directory = Directory::lines([worker.address]);
    let master = Server::master(&directory);
    for address in [master.address, worker.address] {
        let program = example.replace("127.0.0.1:7077", &address.to_string());
        assert_ne!(program, example);
        let mut command = Command::new(python());
        command.args(["-c", &program]);
        let output = Run::start(&mut command).output().await;
        assert!(output.status.success(), "{}", said(&output));
    }
    // The second run resumes after the first, since the producer's name is the same.
    let twice = ["one line", "another", "one line", "another"];
    assert_eq!(store.stored_lines(), twice);
}
