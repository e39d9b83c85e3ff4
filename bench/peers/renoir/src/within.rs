//! The interval join of `bench nexmark`: `--work within --input DIR [--threads N]`.

use bench_input::columns::Columns;
use bench_input::nexmark::mix;
use renoir::Stream;
use renoir::operator::Operator;
use renoir::prelude::*;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

/// Times of joined records differ by this at most.
const NEAR_MS: i64 = 4_000;
/// Records come in any order within an interval of this; its end is a watermark.
const INTERVAL_MS: i64 = 2_000;

/// A record with its key and time, and whether its interval ends with it.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    key: i64,
    time: i64,
    number: i64,
    last: bool,
}

/// Rows and the sum of their hashes.
type Answer = (u64, u64);

/// Runs the join once and prints its line. The clock has the start of the job's threads in it; the input is in memory.
pub fn run(flags: &[String]) -> Result<(), Box<dyn Error>> {
    let flag = |name: &str| {
        let at = flags.iter().position(|flag| flag == name)?;
        flags.get(at + 1).cloned()
    };
    let threads: u64 = flag("--threads").map_or(Ok(2), |threads| threads.parse())?;
    let folder = flag("--input").ok_or("--input is needed")?;
    let table = |name: &str| Columns::read(&Path::new(&folder).join(name));
    let tables = [table("first")?, table("second")?];
    let events = tables[0].len() + tables[1].len();
    let [first, second] = tables.map(|table| &*Box::leak(Box::new(table)));

    let env = StreamContext::new(RuntimeConfig::local(threads)?);
    let second = rows(&env, second).group_by(|row| row.key);
    let answer = rows(&env, first)
        .group_by(|row| row.key)
        .interval_join(second, NEAR_MS, NEAR_MS)
        .drop_key()
        .fold_assoc(
            (0u64, 0u64),
            |answer: &mut Answer, (first, second)| add(answer, (1, hash(&first, &second))),
            add,
        )
        .collect_vec();
    let start = Instant::now();
    env.execute_blocking();
    let seconds = start.elapsed().as_secs_f64();
    let answer = answer.get().unwrap_or_default();
    let (rows, checksum) = answer.first().copied().unwrap_or_default();
    println!(
        "{{\"program\":\"renoir\",\"version\":\"renoir 0.6.0\",\"work\":\"within\",\"threads\":{threads},\
         \"events\":{events},\"seconds\":{seconds:.6},\"events_per_s\":{:.0},\"rows\":{rows},\"checksum\":{}}}",
        events as f64 / seconds,
        checksum.cast_signed(),
    );
    Ok(())
}

/// The rows of a table: each replica has every n-th one, in order of intervals.
fn rows(
    env: &StreamContext,
    table: &'static Columns,
) -> Stream<impl Operator<Out = Row> + 'static> {
    env.stream_par_iter(move |replica, replicas| {
        let [keys, times, numbers] = [0, 1, 2].map(|column| &table.0[column][..]);
        let step = replicas as usize;
        (replica as usize..keys.len()).step_by(step).map(move |at| {
            let interval = |at: usize| times[at].div_euclid(INTERVAL_MS);
            let next = at + step;
            Row {
                key: keys[at],
                time: times[at],
                number: numbers[at],
                last: next >= keys.len() || interval(next) != interval(at),
            }
        })
    })
    .batch_mode(BatchMode::fixed(1024))
    .add_timestamps(
        |row| row.time,
        |row, time| {
            let end = (time.div_euclid(INTERVAL_MS) + 1) * INTERVAL_MS - 1;
            row.last.then_some(end)
        },
    )
}

fn add(answer: &mut Answer, more: Answer) {
    answer.0 += more.0;
    answer.1 = answer.1.wrapping_add(more.1);
}

fn hash(first: &Row, second: &Row) -> u64 {
    let numbers = [
        first.key,
        first.time,
        first.number,
        second.time,
        second.number,
    ];
    let mixed = |hash, number: i64| mix(hash, number.cast_unsigned());
    numbers.into_iter().fold(0, mixed)
}
