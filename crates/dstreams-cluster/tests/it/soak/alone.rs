//! Soak on one machine: the program and its producers are killed, stopped, and restarted with other numbers of threads.

use std::time::{Duration, Instant};

use super::roles::{FAILED, Role, address};
use super::{PATIENCE, Soak};
use crate::program::{block_on, soon};

const INTERVAL: Duration = Duration::from_millis(500);

struct Alone {
    soak: Soak,
    listen: String,
    program: Role,
}

impl Alone {
    fn start() -> Self {
        let listen = address();
        let soak = Soak::new("one machine", INTERVAL, &listen, 1);
        let alone = Alone {
            program: Role::program(&soak.shape, &listen, 2),
            soak,
            listen,
        };
        alone.watch();
        alone
    }

    fn watch(&self) {
        let live = vec![("program".to_owned(), self.program.pid())];
        self.soak.watch.live(live);
    }

    /// Starts the program with another number of threads.
    fn restart(&mut self) {
        let threads = 1 + self.soak.random.below(4) as usize;
        self.soak.say(format_args!("starts with {threads} threads"));
        self.program = Role::program(&self.soak.shape, &self.listen, threads);
        self.watch();
    }

    fn tick(&mut self) {
        self.soak.tick();
        let ended = self.program.ended();
        assert!(ended.is_none(), "the program has ended: {ended:?}");
    }

    fn wait(&mut self, what: &str, is_so: impl Fn(&Soak) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.soak) {
            assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
            self.tick();
        }
    }

    fn batches_more(&mut self, more: u64) {
        let wanted = self.soak.check.batches + more;
        self.wait("batches", |soak| soak.check.batches >= wanted);
    }

    fn pass(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.tick();
        }
    }

    fn one_fault(&mut self) {
        let quiet = self.soak.is_quiet();
        match self.soak.random.below(13) {
            0..=3 if !quiet => {
                self.soak.fault("the program is killed", "");
                self.program.kill();
                self.restart();
            }
            4 | 5 if !quiet => {
                let after = self.soak.up_to(1_500);
                self.soak.fault(
                    "the program is killed twice",
                    format_args!("the second time after {after:?}"),
                );
                self.program.kill();
                self.restart();
                std::thread::sleep(after);
                self.program.kill();
                self.restart();
            }
            6 | 7 if !quiet => {
                let patience = self.soak.random_patience();
                self.soak.ask_to_end(&mut self.program, patience);
                self.restart();
            }
            8 | 9 => {
                let time = self.soak.up_to(8_000);
                let fault = "the program is stopped";
                self.soak.fault(fault, format_args!("for {time:?}"));
                self.program.signal("STOP");
                std::thread::sleep(time);
                self.program.signal("CONT");
            }
            10 => {
                self.soak.fault("a second process starts", "");
                let mut second = Role::program(&self.soak.shape, "127.0.0.1:0", 2);
                let begun = Instant::now();
                let status = loop {
                    if let Some(status) = second.ended() {
                        break status;
                    }
                    assert!(
                        begun.elapsed() < PATIENCE,
                        "a second process runs in the same directory"
                    );
                    self.tick();
                };
                assert_eq!(status.code(), Some(FAILED), "a second process: {status}");
            }
            _ => self.soak.trouble_a_producer(),
        }
    }

    fn run(&mut self) {
        while !self.soak.is_over() {
            let pause = self.soak.up_to(4_000);
            self.pass(pause);
            self.one_fault();
            let more = self.soak.random.below(6);
            self.batches_more(more);
        }
        self.batches_more(2);
        self.soak.feed.finish();
        self.wait("the producers", |soak| soak.feed.live.is_empty());
        self.program.signal("TERM");
        let status = self.program.end();
        assert!(status.success(), "it ended badly: {status}");
    }
}

#[test]
fn counts_are_exact_under_faults_on_one_machine() {
    let mut alone = Alone::start();
    alone.run();
    alone.soak.check.finish();
    alone.soak.check_producers();
    let soak = alone.soak;
    block_on(async {
        let ctx = soak.shape.open(&alone.listen, 3).unwrap();
        let running = soon("the start", ctx.start()).await.unwrap();
        soak.check_state(&running).await;
        let stopped = running.stop();
        soon("the stop", stopped).await.unwrap();
    });
    soak.close();
}
