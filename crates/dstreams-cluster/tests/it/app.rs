//! Programs that run as what their command line says: the example `word_count`, in processes of its
//! own; and one that is not the same everywhere.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use dstreams::{StreamContext, agg::count};
use dstreams_client::{Client, Options};
use dstreams_cluster::{Master, MasterOptions, WorkerOptions, run_worker};

use crate::program::block_on;

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

/// The example, running.
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

    /// The first line that has this.
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

    /// Waits for its end; returns its exit status, and what it has said on standard error.
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

/// Has the line `to be or not to be` counted.
fn send(address: &str) {
    block_on(async {
        let client = Client::connect(address, Options::default()).await.unwrap();
        let mut lines = client.lines("lines").await.unwrap();
        lines.send("to be or not to be").await.unwrap();
        lines.finish().await.unwrap();
    });
}

#[test]
fn one_program_runs_alone_and_as_master_and_workers() {
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let mut alone = Role::start(&["local", "--", &address]);
    alone.line(); // of the first batch: it listens
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
        let told = master.line_with("worker ");
        assert!(
            told.contains("(pid ") && told.contains("1 core(s)"),
            "{told}"
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
fn a_worker_that_builds_another_graph_is_refused_with_both() {
    let arguments = vec!["one".to_owned(), "two".to_owned()];
    let ctx = program(&arguments).unwrap();
    let mut options = MasterOptions::default();
    options.arguments = arguments;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let master = runtime.block_on(Master::listen(ctx, options)).unwrap();
    let options = WorkerOptions::new(master.address());

    // The same function with another argument than the master has.
    let other = |arguments: &[String]| program(&arguments[1..]);
    let error = run_worker(&options, &other, &|_, _| {})
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("refuses this worker") && error.contains("other graphs"),
        "{error}"
    );
    let prints: Vec<_> = error
        .split([' ', ',', ':'])
        .filter(|word| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .collect();
    assert!(prints.len() == 2 && prints[0] != prints[1], "{error}");
    assert_eq!(master.status().workers.len(), 0);
}

/// What a worker acknowledges is in its journal: that must be where the master's next process reads it.
#[test]
fn a_worker_that_does_not_see_the_masters_directory_is_refused() {
    let name = format!("dstreams-directory-{}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let (ours, other) = (dir.join("ours"), dir.join("other"));
    std::fs::create_dir_all(&other).unwrap();
    let kept = |at: &std::path::Path| StreamContext::restore_or_new(at, || program(&[]));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listen = |ctx| runtime.block_on(Master::listen(ctx, MasterOptions::default()));
    let refused = |master: &Master, worker: &dyn Fn() -> dstreams::Result<StreamContext>| {
        let options = WorkerOptions::new(master.address());
        let error = run_worker(&options, &|_: &[String]| worker(), &|_, _| {});
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
    let _ = std::fs::remove_dir_all(&dir);
}
