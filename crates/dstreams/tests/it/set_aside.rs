//! A permanently failing batch is set aside with its records, and the program continues as if they had not come.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dstreams::{BatchTime, Config, Error, Listener, OnFailure, Queue, StreamContext};

use crate::bad_words::{Bad, INPUT, Pairs, build, drain, push, without_them};
use crate::dir::Dir;
use crate::program::{Live, Program, block_on, small};

/// The directory of a batch that is set aside.
fn set_aside(dir: &Dir, batch: u64) -> PathBuf {
    dir.join(format!("failed/batch={batch}"))
}

fn described(ctx: &mut StreamContext, bad: Bad) -> (Queue<String>, Pairs, Pairs) {
    let (queue, words) = ctx.queue::<String>("words");
    let (totals, counts) = build(&words, bad);
    (queue, totals, counts)
}

fn config(threads: usize, every: u32) -> Config {
    let mut config = small(threads, 2, 4);
    config.checkpoint_every = every;
    config.on_failure = OnFailure::SetAside;
    config
}

async fn start(
    dir: &Path,
    after: u32,
    config: Config,
    bad: Bad,
) -> (Live, Queue<String>, Pairs, Pairs) {
    let mut program = Program::after(after, config);
    let (queue, totals, counts) = described(&mut program.ctx, bad);
    program.ctx.persist_in(dir);
    (program.start().await, queue, totals, counts)
}

#[test]
fn everything_is_as_if_its_records_had_not_come() {
    for (threads, every, bad) in [
        (1, 100, Bad::Late),
        (4, 100, Bad::Late),
        (2, 1, Bad::Late),
        (2, 2, Bad::Late),
        (2, 100, Bad::Early),
    ] {
        block_on(async {
            let dir = Dir::missing();
            let (mut live, queue, mut totals, mut counts) =
                start(dir.path(), 0, config(threads, every), bad).await;
            let mut reports = Vec::new();
            for words in INPUT {
                push(&queue, words).await;
                reports.push(live.batch().await);
            }
            let expected = without_them(threads).await;
            let found = [drain(&mut totals), drain(&mut counts)];
            assert_eq!(
                found, expected,
                "{threads} threads, a checkpoint every {every}"
            );
            let (records, aside): (Vec<_>, Vec<_>) =
                reports.iter().map(|it| (it.records, it.set_aside)).unzip();
            assert_eq!(records, [2, 1, 0, 1, 0, 2]);
            assert_eq!(aside, [0, 0, 3, 0, 0, 0]);
            let summary = live.running.stop().await.unwrap();
            assert_eq!((summary.records, summary.set_aside), (6, 3));
            assert_eq!(dstreams::inspect(dir.path()).unwrap().set_aside, [300]);
            let reason = std::fs::read_to_string(set_aside(&dir, 300).join("error.txt")).unwrap();
            assert!(
                reason.contains("a bad word") && reason.contains("bad_words.rs"),
                "{reason}"
            );
        });
    }
}

/// Without a later checkpoint the batch is replayed, again without its records.
#[test]
fn it_stays_so_after_a_restart() {
    block_on(async {
        let dir = Dir::missing();
        let expected = without_them(2).await;
        let mut found = [Vec::new(), Vec::new()];
        for (at, words) in INPUT.iter().enumerate() {
            let (mut live, queue, mut totals, mut counts) =
                start(dir.path(), at as u32, config(2, 100), Bad::Late).await;
            push(&queue, words).await;
            live.batch().await;
            // Dropped without a checkpoint; a graceful stop would add a batch.
            live.running.abort().await.unwrap();
            found[0].extend(drain(&mut totals));
            found[1].extend(drain(&mut counts));
        }
        assert_eq!(found, expected);
    });
}

#[test]
fn a_set_aside_batch_can_be_replayed_alone() {
    block_on(async {
        let dir = Dir::missing();
        let (mut live, queue, ..) = start(dir.path(), 0, config(2, 100), Bad::Late).await;
        push(&queue, "a bad a").await;
        live.batch().await;
        live.running.stop().await.unwrap();
        let mut program = Program::new(small(2, 2, 4));
        let (_, mut totals, _) = described(&mut program.ctx, Bad::Late);
        let error = program
            .ctx
            .replay(dir.path(), BatchTime(100))
            .await
            .unwrap_err();
        let Error::Batch { batch, cause, .. } = &error else {
            panic!("{error}");
        };
        let cause = cause.downcast_ref::<Error>();
        assert!(matches!(cause, Some(Error::Panic { .. })), "{error}");
        assert_eq!(*batch, BatchTime(100));
        assert!(totals.try_recv().is_none());
        let mut fixed = Program::new(small(2, 2, 4));
        let (_, _, mut counts) = described(&mut fixed.ctx, Bad::Never);
        assert_eq!(
            fixed.ctx.replay(dir.path(), BatchTime(100)).await.unwrap(),
            3
        );
        let expected = [("a".to_owned(), 2), ("bad".to_owned(), 1)];
        assert_eq!(drain(&mut counts), [(100, expected.to_vec())]);
        let mut other = Program::new(small(2, 2, 4));
        let (_, _, _unread) = described(&mut other.ctx, Bad::Never);
        let error = other
            .ctx
            .replay(dir.path(), BatchTime(200))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("batch=200"), "{error}");
    });
}

struct Seen(Arc<Mutex<Vec<(u64, String)>>>);

impl Listener for Seen {
    fn batch_set_aside(&self, batch: BatchTime, error: &Error) {
        self.0.lock().unwrap().push((batch.0, error.to_string()));
    }
}

/// The next one beyond the bound stops the program; after one is moved away, it is set aside at the next start.
/// Leftovers of a killed process do not matter.
#[test]
fn the_number_of_set_aside_batches_is_bounded() {
    block_on(async {
        let dir = Dir::missing();
        let mut config = config(2, 100);
        config.set_aside_batches = 1;
        let (mut live, queue, ..) = start(dir.path(), 0, config.clone(), Bad::Late).await;
        push(&queue, "bad").await;
        live.batch().await;
        push(&queue, "bad too").await;
        let error = live.try_batch().await.unwrap_err();
        assert!(error.to_string().contains("a bad word"), "{error}");
        live.running.await_termination(None).await.unwrap_err();
        std::fs::rename(set_aside(&dir, 100), dir.join("looked-at")).unwrap();
        std::fs::create_dir_all(set_aside(&dir, 200)).unwrap();
        std::fs::remove_dir(set_aside(&dir, 200)).unwrap();
        std::fs::create_dir_all(dir.join("failed/.batch=200/half")).unwrap();
        let seen = Seen(Arc::default());
        let log = Arc::clone(&seen.0);
        let mut program = Program::after(2, config);
        let (queue, _, mut counts) = described(&mut program.ctx, Bad::Late);
        program.ctx.add_listener(seen);
        program.ctx.persist_in(dir.path());
        let mut live = program.start().await;
        assert_eq!(live.report().await.unwrap().set_aside, 2);
        push(&queue, "good").await;
        live.batch().await;
        assert_eq!(
            drain(&mut counts).last().unwrap().1,
            [("good".to_owned(), 1)]
        );
        let log = log.lock().unwrap().clone();
        assert!(
            log.len() == 1 && log[0].0 == 200 && log[0].1.contains("a bad word"),
            "{log:?}"
        );
        live.running.stop().await.unwrap();
    });
}

/// Its effect may be visible: the program stops, whatever its setting for failed batches.
#[test]
fn an_output_that_always_fails_stops_the_program() {
    block_on(async {
        let dir = Dir::missing();
        let mut config = config(2, 100);
        config.attempts = 2;
        let mut program = Program::new(config);
        let (queue, words) = program.ctx.queue::<String>("words");
        words.try_for_each_rdd(|rdd| match rdd.num_rows() {
            0 => Ok(()),
            _ => Err("nobody answers"),
        });
        program.ctx.persist_in(dir.path());
        let mut live = program.start().await;
        push(&queue, "a").await;
        let error = live.try_batch().await.unwrap_err().to_string();
        assert_eq!(error.matches("nobody answers").count(), 1, "{error}");
        live.running.await_termination(None).await.unwrap_err();
        assert_eq!(
            dstreams::inspect(dir.path()).unwrap().set_aside,
            Vec::<u64>::new()
        );
    });
}

#[test]
fn without_a_directory_it_is_refused() {
    block_on(async {
        let mut program = Program::new(config(2, 100));
        let (_queue, _totals, _counts) = described(&mut program.ctx, Bad::Late);
        let error = program.ctx.start().await.err().unwrap();
        assert!(error.to_string().contains("persist_in"), "{error}");
    });
}
