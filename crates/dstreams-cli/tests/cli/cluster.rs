//! Commands with worker processes: `wordcount --workers`, `wordcount --master`, `master`, `worker`, `status`.

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::dir::Dir;
use crate::process::{
    self, DSTREAMS, PATIENCE, Running, dstreams, end_of, is_alive, kill, message, run, until,
};
use crate::text::{naive, text};

const LOOPBACK: &str = "127.0.0.1:0";
const TIMES: [&str; 4] = ["--interval", "200ms", "--window", "10m"];

/// Runs one cluster at a time: each is several processes with many threads.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A `wordcount --json` with workers of its own.
fn with_workers(count: &str) -> Running {
    let arguments = ["wordcount", "--json", "--workers", count];
    Running::start(&[&arguments[..], &TIMES].concat())
}

fn workers(of: &Value) -> &Vec<Value> {
    of["workers"].as_array().unwrap()
}

fn status(master: &str) -> Value {
    let output = run(&["status", "--master", master, "--json"], b"");
    let status = serde_json::from_slice(&output.stdout);
    status.unwrap_or_else(|_| panic!("{}", message(output, 0)))
}

/// The partitions of state in one list of each worker.
fn partitions(status: &Value, list: &str) -> Vec<u64> {
    let lists = workers(status)
        .iter()
        .flat_map(|worker| worker[list].as_array().unwrap());
    let mut all: Vec<_> = lists.map(|partition| partition.as_u64().unwrap()).collect();
    all.sort();
    all
}

fn send(master: &str, input: &str) {
    let output = run(&["send", master, "--stream", "lines"], input.as_bytes());
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(message(output, 0), "");
    let lines = input.lines().count();
    let wanted = format!("sent {lines} lines, acknowledged {lines} (");
    assert!(said.starts_with(&wanted), "{said}");
}

fn worker(master: &str, more: &[&str]) -> Command {
    let arguments = ["worker", "--json", "--cores", "1", "--master", master];
    dstreams(&[&arguments[..], more].concat())
}

fn check_counts(program: &Running, texts: &[&str]) {
    let (words, top) = naive(texts);
    let last = program.batches.last().unwrap();
    assert_eq!((&last["window_words"], &last["top"]), (&json!(words), &top));
}

#[test]
fn counts_of_a_cluster_equal_a_naive_count() {
    let _alone = alone();
    let mut program = with_workers("2");
    let master = program.said("master").to_owned();
    let texts = [text(1, 10_000), text(2, 20_000)];
    std::thread::scope(|scope| {
        for text in &texts {
            scope.spawn(|| send(&master, text));
        }
    });
    program.wait_for(30_000);
    check_counts(&program, &[&texts[0], &texts[1]]);

    let status = status(&master);
    assert_eq!(status["records"], json!(30_000));
    assert!(status["batches"].as_u64().unwrap() >= program.batches.len() as u64);
    assert_eq!(status["streams"][0]["name"], json!("lines"));
    assert!(status["last"]["committed_at"].is_u64(), "{status}");
    for (printed, found) in workers(&program.first).iter().zip(workers(&status)) {
        for name in ["id", "pid", "ingest"] {
            assert_eq!(printed[name], found[name]);
        }
        assert!(
            found["resident_memory"].as_u64().unwrap() > 1 << 20,
            "{found}"
        );
    }
    let held = partitions(&status, "holds");
    assert_eq!(held, (0..held.len() as u64).collect::<Vec<_>>());
    assert_eq!(partitions(&status, "stands_by"), held);

    let pids: Vec<_> = workers(&program.first)
        .iter()
        .map(|worker| worker["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(*pid)));
    program.terminate();
    assert_eq!(program.end(), (30_000, String::new()));
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "a worker is left");
}

#[test]
fn a_status_for_people_has_a_line_for_each_stream_and_worker() {
    let _alone = alone();
    let program = with_workers("2");
    let output = run(&["status", "--master", program.said("master")], b"");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(message(output, 0), "");
    assert!(
        said.starts_with(&format!("master {}: ", program.said("master"))),
        "{said}"
    );
    for worker in workers(&program.first) {
        let ingest = worker["ingest"].as_str().unwrap();
        let line = said.lines().find(|line| line.contains(ingest)).unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            cells[..2],
            [worker["id"].to_string(), worker["pid"].to_string()],
            "{said}"
        );
    }
    assert!(
        said.contains("lines") && said.contains("dead letters"),
        "{said}"
    );
}

#[test]
fn killing_a_worker_loses_no_acknowledged_line() {
    let _alone = alone();
    let mut program = with_workers("3");
    let master = program.said("master").to_owned();
    // It receives the lines and is a primary: others have to take over both.
    let before = status(&master);
    let holds = |worker: &&Value| worker["holds"].as_array().unwrap().contains(&json!(0));
    let victim = workers(&before).iter().find(holds).unwrap();
    let (id, pid) = (&victim["id"], victim["pid"].as_u64().unwrap());
    let to = format!("{},{master}", victim["ingest"].as_str().unwrap());

    let input = text(3, 12_000);
    let arguments = ["send", &to, "--stream", "lines", "--rate", "1000"];
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| run(&arguments, input.as_bytes()));
        program.wait_for_some(1);
        assert!(!sending.is_finished());
        kill("KILL", pid);
        let warning = program.complaint_with(") ended: ");
        let wanted = format!("dstreams: worker {id} (pid {pid}) ended: signal: 9 (SIGKILL)");
        assert_eq!(warning, wanted);
        assert!(!is_alive(pid));
        sending.join().unwrap()
    });
    let said = String::from_utf8(sent.stdout.clone()).unwrap();
    assert_eq!(message(sent, 0), "");
    assert!(
        said.starts_with("sent 12000 lines, acknowledged 12000 ("),
        "{said}"
    );
    assert!(said.contains(" reconnects, "), "{said}");
    program.wait_for(12_000);
    let after = status(&master);
    assert_eq!(workers(&after).len(), 2);
    assert!(workers(&after).iter().all(|worker| worker["id"] != *id));
    assert_eq!(partitions(&after, "holds"), partitions(&before, "holds"));
    check_counts(&program, &[&input]);
    program.terminate();
    assert_eq!(program.end().0, 12_000);
}

#[test]
fn external_workers_join_and_leave_while_the_program_runs() {
    let _alone = alone();
    let arguments = [
        "wordcount",
        "--json",
        "--min-workers",
        "2",
        "--master",
        LOOPBACK,
    ];
    let program = Running::spawn(&mut dstreams(&[&arguments[..], &TIMES].concat()));
    let waiting = program.complaint();
    let said = "dstreams: waiting for 2 worker(s): dstreams worker --master ";
    let master = waiting.strip_prefix(said).unwrap().to_owned();
    let start = || Running::spawn(&mut worker(&master, &[]));
    let first = [start(), start()].map(Running::listening);
    let mut program = program.listening();
    assert_eq!(program.said("master"), master);
    for worker in &first {
        let known = workers(&program.first)
            .iter()
            .find(|w| w["pid"] == json!(worker.pid()));
        assert_eq!(known.unwrap()["ingest"], worker.first["ingest"]);
        assert_eq!(worker.said("master"), master);
    }

    let third = start().listening();
    let warning = program.complaint_with("worker 3 at ");
    assert!(warning.contains(third.said("ingest")), "{warning}");
    send(&master, &text(4, 3_000));
    // It leaves on SIGTERM, without a message.
    let [mut leaving, staying] = first;
    leaving.terminate();
    let (status, errors) = leaving.wait();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    let warning = program.complaint_with("is gone");
    let gone = leaving.first["worker"].to_string();
    assert!(
        warning.starts_with(&format!("dstreams: worker {gone} is gone")),
        "{warning}"
    );
    send(&master, &text(5, 3_000));
    program.wait_for(6_000);
    check_counts(&program, &[&text(4, 3_000), &text(5, 3_000)]);

    program.terminate();
    assert_eq!(program.end().0, 6_000);
    for mut worker in [staying, third] {
        let (status, errors) = worker.wait();
        assert_eq!(status.code(), Some(0), "{errors}");
    }
}

#[test]
fn sigterm_of_a_master_ends_the_program_and_its_workers() {
    let _alone = alone();
    let arguments = ["master", "--json", "--workers", "2", "--listen", LOOPBACK];
    let mut program = Running::start(&[&arguments[..], &TIMES].concat());
    let master = program.said("master").to_owned();
    let mut others = [(); 2].map(|()| Running::spawn(&mut worker(&master, &[])));
    let mut joined = [program.next(), program.next()].map(|line| line["pid"].as_u64().unwrap());
    joined.sort();
    let mut pids = [others[0].pid(), others[1].pid()];
    pids.sort();
    assert_eq!(joined, pids);

    // Lines acknowledged right before the signal are counted.
    let batch = program.next();
    program.batches.push(batch);
    send(&master, &text(6, 5_000));
    program.terminate();
    assert_eq!(program.end(), (5_000, String::new()));
    check_counts(&program, &[&text(6, 5_000)]);
    for worker in &mut others {
        let (status, errors) = worker.wait();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    }
}

/// An address that is free now.
fn free_address() -> String {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_standby_master_goes_on_when_the_first_is_killed() {
    let (_alone, dir) = (alone(), Dir::new());
    let addresses = [(); 3].map(|()| free_address());
    let masters = addresses.join(",");
    let state = dir.path().join("state").display().to_string();
    let start = |address: &str| {
        let arguments = [
            "master",
            "--json",
            "--standby",
            "--lease",
            "2s",
            "--workers",
            "2",
        ];
        let place = ["--listen", address, "--state", &state];
        let standby = Running::start(&[&arguments[..], &place, &TIMES].concat());
        assert_eq!(standby.first, json!({"standby": true}));
        standby
    };
    let leads = |master: &Running, address: &str| {
        assert_eq!(master.next(), json!({"master": address}));
        let joined = [master.next(), master.next()];
        assert!(
            joined.iter().all(|line| line["ingest"].is_string()),
            "{joined:?}"
        );
    };
    let first = start(&addresses[0]);
    let mut workers = [(); 2].map(|()| Running::spawn(&mut worker(&masters, &[])));
    leads(&first, &addresses[0]);
    let (second, mut third) = (start(&addresses[1]), start(&addresses[2]));
    // A standby may leave at any time.
    third.terminate();
    let (left, errors) = third.wait();
    assert_eq!(left.code(), Some(0), "{errors}");
    let third = start(&addresses[2]);

    send(&masters, &text(6, 5_000));
    kill("KILL", first.pid());
    // One of the two leads; the test is the same whichever does.
    let (mut leader, mut waiting) = {
        let led = |at: usize| {
            let asked = run(&["status", "--master", &addresses[at]], b"");
            asked.status.success()
        };
        until("another master leads", || led(1) || led(2));
        if led(1) {
            (second, third)
        } else {
            (third, second)
        }
    };
    let address = leader.next()["master"].as_str().unwrap().to_owned();
    until("both workers have joined it", || {
        status(&masters)["workers"].as_array().unwrap().len() == 2
    });
    for joined in [leader.next(), leader.next()] {
        assert!(joined["ingest"].is_string(), "{joined}");
    }
    send(&masters, &text(7, 3_000));
    let texts = [text(6, 5_000), text(7, 3_000)];
    let (words, top) = naive(&texts.each_ref().map(String::as_str));
    loop {
        let batch = leader.next();
        if (&batch["window_words"], &batch["top"]) == (&json!(words), &top) {
            break;
        }
        assert!(batch["window_words"].as_u64() <= Some(words), "{batch}");
    }

    leader.terminate();
    let (ended, errors) = leader.wait();
    assert_eq!(ended.code(), Some(0), "{address}: {errors}");
    for other in workers.iter_mut().chain([&mut waiting]) {
        let (ended, errors) = other.wait();
        assert_eq!(ended.code(), Some(0), "{errors}");
    }
}

#[test]
fn workers_end_when_the_master_that_started_them_is_killed() {
    let _alone = alone();
    let mut program = with_workers("2");
    let pids: Vec<_> = workers(&program.first)
        .iter()
        .map(|worker| worker["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(*pid)));
    kill("KILL", program.pid());
    program.wait();
    until("its workers end", || !pids.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn without_any_worker_left_the_program_fails() {
    let _alone = alone();
    let mut program = with_workers("1");
    let pid = workers(&program.first)[0]["pid"].as_u64().unwrap();
    kill("KILL", pid);
    let (status, errors) = program.wait();
    assert_eq!(status.code(), Some(1));
    let wanted =
        format!("dstreams: worker 1 (pid {pid}) ended: signal: 9 (SIGKILL); no worker is left\n");
    assert!(errors.ends_with(&wanted), "{errors}");
}

#[test]
fn a_worker_that_reaches_no_master_fails_after_its_retry_time() {
    let closed = TcpListener::bind(LOOPBACK)
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let started = Instant::now();
    let output = end_of(worker(&closed, &["--retry", "700ms"]).spawn().unwrap());
    let error = message(output, 1);
    assert!(
        started.elapsed().as_millis() >= 700,
        "{:?}",
        started.elapsed()
    );
    assert!(started.elapsed() < PATIENCE);
    assert!(
        error.contains(&format!("no master at {closed} for 700ms")),
        "{error}"
    );
    assert!(
        error.contains(&format!("`master --listen {closed}`")),
        "{error}"
    );
}

#[test]
fn a_worker_of_another_build_is_refused_and_both_builds_are_named() {
    let _alone = alone();
    let arguments = ["master", "--json", "--listen", LOOPBACK];
    let program = Running::start(&arguments);
    // With one more byte at its end, the program still runs.
    let dir = Dir::new();
    let other = dir.join("other-build");
    std::fs::copy(DSTREAMS, &other).unwrap();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&other)
        .unwrap();
    std::io::Write::write_all(&mut file, b"\n").unwrap();
    drop(file);
    let arguments = ["worker", "--master", program.said("master")];
    let output = end_of(
        process::program(other.to_str().unwrap(), &arguments)
            .spawn()
            .unwrap(),
    );
    let error = message(output, 1);
    let builds: Vec<_> = error
        .split_whitespace()
        .filter(|word| word.starts_with("0.1.0-"))
        .collect();
    assert!(builds.len() == 2 && builds[0] != builds[1], "{error}");
    assert!(
        error.contains("refuses this worker") && error.contains("the same program"),
        "{error}"
    );
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind(LOOPBACK).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        &["wordcount", "--master", &address][..],
        &["master", "--listen", &address],
        &["worker", "--master", "127.0.0.1:1", "--listen", &address],
    ] {
        let error = message(run(arguments, b""), 1);
        assert!(
            error.contains(&address) && error.contains("in use"),
            "{error}"
        );
        assert!(error.contains("choose another port"), "{error}");
    }
}

#[test]
fn status_fails_if_nothing_or_something_else_answers() {
    let _alone = alone();
    let closed = TcpListener::bind(LOOPBACK)
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let ask = |address: &str| message(run(&["status", "--master", address], b""), 1);
    let error = ask(&closed);
    assert!(
        error.contains(&format!("no master answers at {closed}")),
        "{error}"
    );
    assert!(
        error.contains(&format!("`master --listen {closed}`")),
        "{error}"
    );

    let silent = TcpListener::bind(LOOPBACK).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = ask(&address);
    assert!(
        error.contains(&format!("no master answers at {address}")),
        "{error}"
    );

    let program = with_workers("1");
    let ingest = workers(&program.first)[0]["ingest"].as_str().unwrap();
    let error = ask(ingest);
    assert!(
        error.contains(&format!("{ingest} answers, but not as a master")),
        "{error}"
    );
}

#[test]
fn beyond_loopback_the_right_token_is_required() {
    let _alone = alone();
    for arguments in [
        &["wordcount", "--master", "0.0.0.0:0"][..],
        &["master", "--listen", "0.0.0.0:0"],
        &["worker", "--master", "127.0.0.1:1", "--listen", "0.0.0.0:0"],
    ] {
        let error = message(run(arguments, b""), 1);
        for wanted in ["0.0.0.0:0", "no token", "DSTREAMS_TOKEN", "--token-file"] {
            assert!(error.contains(wanted), "{error} does not say {wanted}");
        }
    }

    let dir = Dir::new();
    let token = dir.join("token");
    std::fs::write(&token, "secret-of-the-test\n").unwrap();
    let with_token = ["--token-file", token.to_str().unwrap()];
    let listen = ["--listen", "0.0.0.0:0", "--advertise", "127.0.0.1:0"];
    let arguments = [&["master", "--json"][..], &listen].concat();
    let mut program = Running::start(&[&arguments[..], &with_token, &TIMES].concat());
    let port = program.said("master").rsplit_once(':').unwrap().1;
    let master = format!("127.0.0.1:{port}");
    let mut guessing = worker(&master, &[]);
    guessing.env("DSTREAMS_TOKEN", "guessed");
    for output in [
        end_of(worker(&master, &[]).spawn().unwrap()),
        end_of(guessing.spawn().unwrap()),
        run(&["status", "--master", &master], b""),
        run(&["send", &master, "--stream", "lines"], b"a\n"),
    ] {
        let error = message(output, 1);
        assert!(error.contains("token"), "{error}");
        assert!(!error.contains("secret-of-the-test"), "{error}");
    }

    let mut other = worker(&master, &[]);
    let mut other = Running::spawn(other.env("DSTREAMS_TOKEN", "secret-of-the-test")).listening();
    assert_eq!(program.next()["pid"], json!(other.pid()));
    let sent = run(
        &[&["send", &master, "--stream", "lines"][..], &with_token].concat(),
        b"a b\nc\n",
    );
    assert_eq!(message(sent, 0), "");
    let asked = run(
        &[&["status", "--master", &master][..], &with_token].concat(),
        b"",
    );
    assert_eq!(message(asked, 0), "");
    program.wait_for(2);
    program.terminate();
    let (lines, said) = program.end();
    assert_eq!(lines, 2);
    // Only the addresses that other machines can reach are reported.
    let reached = |line: &str| line.contains("other machines can reach");
    assert!(said.lines().all(reached), "{said}");
    assert!(said.contains("it asks for the token"), "{said}");
    assert_eq!(other.wait().0.code(), Some(0));
}

#[test]
fn a_demo_on_workers_counts_what_it_sends() {
    let _alone = alone();
    let arguments = [
        "demo",
        "--workers",
        "2",
        "--batches",
        "3",
        "--interval",
        "200ms",
        "--window",
        "1s",
        "--rate",
        "2000",
    ];
    let output = run(&arguments, b"");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(message(output, 0), "", "{said}");
    for worker in ["    worker 1: ", "    worker 2: "] {
        let lines: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with(worker))
            .collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert!(
            lines[0].contains("blocks") && lines[0].contains("partitions"),
            "{said}"
        );
    }
    let last = said.lines().last().unwrap();
    let numbers: Vec<u64> = last.split([' ', ';']).flat_map(str::parse).collect();
    let [fed, acknowledged, counted, batches] = numbers[..] else {
        panic!("{said}")
    };
    assert!(fed > 0 && batches >= 3, "{said}");
    assert_eq!((acknowledged, counted), (fed, fed), "{said}");
}

/// Runs a demo with faults; returns its last line and its warnings. Its own comparison of all words with those sent is the
/// check: a wrong count ends it with an error.
fn demo_with_faults(more: &[&str]) -> (String, String) {
    let _alone = alone();
    let arguments = [
        "demo",
        "--workers",
        "2",
        "--kill-every",
        "3s",
        "--rate",
        "500",
    ];
    let output = run(&[&arguments, more].concat(), b"");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let warned = message(output, 0);
    let last = said.lines().last().unwrap().to_owned();
    assert!(
        last.ends_with("were counted as often as they were sent"),
        "{said}"
    );
    (last, warned)
}

/// How many workers were killed, according to the warnings.
fn killed_workers(warned: &str) -> usize {
    let killed = warned
        .lines()
        .filter(|line| line.contains(": kills worker "));
    killed.count()
}

#[test]
fn a_demo_with_faults_kills_workers_and_counts_every_word() {
    let (last, warned) = demo_with_faults(&["--batches", "16"]);
    let killed = killed_workers(&warned);
    assert!(killed > 0, "{warned}");
    assert!(warned.contains("SIGKILL"), "{warned}");
    let numbers: Vec<usize> = last.split(' ').flat_map(str::parse).collect();
    assert_eq!(numbers[0], killed, "{last}");
    assert!(numbers[1] > 1_000, "{last}");
}

/// Standbys take over from masters that are killed.
#[test]
fn a_demo_that_kills_masters_counts_every_word() {
    let (last, warned) = demo_with_faults(&["--kill-master", "--batches", "30"]);
    let masters = warned
        .lines()
        .filter(|line| line.contains(": kills the master that leads"));
    let masters = masters.count();
    assert!(masters > 0, "{warned}");
    // Each time, the other one leads.
    let leaders = warned
        .lines()
        .filter(|line| line.contains(": the master at ") && line.ends_with(" leads"));
    let addresses: Vec<_> = leaders
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(addresses.len(), masters + 1, "{warned}");
    assert!(addresses.windows(2).all(|two| two[0] != two[1]), "{warned}");
    let workers = killed_workers(&warned);
    let wanted = format!("killed {workers} workers and {masters} masters; all ");
    assert!(last.starts_with(&wanted), "{last}");
}

/// Its tasks are copied, and nothing is lost. Whether copies finish first depends on the machine.
#[test]
fn a_demo_with_a_slow_worker_counts_every_line() {
    let _alone = alone();
    let arguments = ["demo", "--workers", "3", "--slow-one", "--rate", "10000"];
    let times = ["--interval", "1s", "--batches", "20"];
    let output = run(&[&arguments[..], &times].concat(), b"");
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let warned = message(output, 0);
    assert!(warned.contains(": slows down worker "), "{warned}");
    let of_copies = |line: &&str| line.contains(" slow tasks were copied, and ");
    let copies = warned.lines().find(of_copies);
    let copies = copies.unwrap_or_else(|| panic!("{warned}"));
    let copied: Vec<u64> = copies.split(' ').flat_map(str::parse).collect();
    assert!(copied[0] > 0, "{warned}");
    let total = said.lines().last().unwrap();
    let lines: Vec<u64> = total.split(' ').flat_map(str::parse).collect();
    assert!(
        lines[0] > 0 && lines[1] == lines[0] && lines[2] == lines[0],
        "{total}"
    );
}

#[test]
fn wrong_usage_of_cluster_commands_is_explained() {
    for (arguments, wanted) in [
        (
            &["wordcount"][..],
            "--listen <HOST:PORT>|--workers <N>|--master <HOST:PORT>",
        ),
        (
            &["wordcount", "--workers", "2", "--master", LOOPBACK],
            "cannot be used",
        ),
        (
            &["wordcount", "--workers", "2", "--clients", LOOPBACK],
            "cannot be used",
        ),
        (&["wordcount", "--workers", "0"], "--workers"),
        (&["worker", "--master", "nowhere"], "HOST:PORT"),
        (
            &["worker", "--master", LOOPBACK, "--memory", "much"],
            "512MiB",
        ),
        (
            &["master", "--listen", LOOPBACK, "--copies", "3"],
            "--copies",
        ),
        (
            &["master", "--listen", LOOPBACK, "--partitions", "129"],
            "--partitions",
        ),
        (&["demo", "--kill-every", "5s"], "--workers"),
        (&["demo", "--slow-one"], "--workers"),
        (&["demo", "--workers", "3", "--kill-master"], "--kill-every"),
        (
            &["demo", "--workers", "3", "--kill-every", "10ms"],
            "shorter than two seconds",
        ),
        (
            &["demo", "--workers", "3", "--kill-every", "40000000000y"],
            "longer than a day",
        ),
        (&["status"], "--master"),
    ] {
        let error = message(run(arguments, b""), 2);
        assert!(error.contains(wanted), "{error} does not say {wanted}");
    }
    let error = message(
        run(
            &["master", "--listen", LOOPBACK, "--token-file", "/no/such"],
            b"",
        ),
        1,
    );
    assert!(
        error.contains("/no/such") && error.contains("No such file"),
        "{error}"
    );
}
