//! A program in which a word makes its batch fail, for tests of batches that are set aside.

use dstreams::agg::{count, sum};
use dstreams::record::records_of;
use dstreams::{DStream, Queue, RddReceiver};

use crate::checked_sink::CheckedSink;
use crate::program::{INTERVAL, Program, small};

pub type Pair = (String, i64);
pub type Pairs = RddReceiver<Pair>;
/// The records of each batch.
pub type Rows = Vec<(u64, Vec<Pair>)>;

/// Where the word `bad` makes a batch fail: before any state contains it, when some states do, or when all states and
/// their standbys do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bad {
    Early,
    Late,
    #[allow(dead_code)] // only on a cluster
    Sink,
    Never,
}

/// A window, a running total of it, and another total: states over states.
pub fn build(words: &DStream<String>, bad: Bad) -> (Pairs, Pairs) {
    let check = |stream: &DStream<Pair>, is: bool| {
        stream.map::<Pair>(move |(word, n)| {
            assert!(!is || word != "bad", "a bad word");
            (word.to_owned(), n)
        })
    };
    let pairs = words.map::<Pair>(|word| (word.to_owned(), 1));
    let pairs = check(&pairs, bad == Bad::Early);
    let window = pairs
        .by_key()
        .window_agg(INTERVAL * 2, INTERVAL, sum::<i64>());
    let window = window.unwrap();
    let totals = window.running_agg("totals", sum::<i64>()).unwrap();
    let counts = pairs.by_key().running_agg("counts", count()).unwrap();
    let totals = totals.all().pairs();
    let counts = check(&counts.all().pairs(), bad == Bad::Late);
    if bad == Bad::Sink {
        let no_bad_words = CheckedSink(|rows| {
            for rows in rows {
                let records = records_of::<Pair>(rows)?;
                if records.iter().any(|(word, _)| word == "bad") {
                    return Err("a bad word".into());
                }
            }
            Ok(())
        });
        counts.sink("no bad words", no_bad_words);
    }
    (totals.collect(), counts.collect())
}

pub const INPUT: [&str; 6] = ["a b", "a", "a bad c", "b", "", "c a"];

pub async fn push(queue: &Queue<String>, words: &str) {
    for word in words.split_whitespace() {
        queue.push([word.to_owned()]).await.unwrap();
    }
}

pub fn drain(output: &mut Pairs) -> Rows {
    let mut batches = Vec::new();
    while let Some(rdd) = output.try_recv() {
        let mut rows = rdd.collect().unwrap();
        rows.sort();
        batches.push((rdd.batch_time().0, rows));
    }
    batches
}

/// The outputs of a program in one process that never gets the words of the third batch.
pub async fn without_them(threads: usize) -> [Rows; 2] {
    let mut program = Program::new(small(threads, 2, 4));
    let (queue, words) = program.ctx.queue::<String>("words");
    let (mut totals, mut counts) = build(&words, Bad::Never);
    let mut live = program.start().await;
    for words in INPUT {
        let words = if words.contains("bad") { "" } else { words };
        push(&queue, words).await;
        live.batch().await;
    }
    live.running.stop().await.unwrap();
    let mut both = [drain(&mut totals), drain(&mut counts)];
    both.iter_mut()
        .for_each(|batches| batches.truncate(INPUT.len()));
    both
}
