//! Word count since the beginning, kept over crashes.

use std::collections::BTreeMap;

use dstreams::agg::count;
use dstreams::testing::{TestProgram, batches, sorted};
use dstreams::{Config, DStream, ManualClock, Result, State, text::words};

use super::SECOND;
use crate::program::block_on;

fn describe(lines: &DStream<String>) -> Result<State<String, i64>> {
    lines
        .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
        .keyed()
        .running_agg("counts", count())
}

/// The process is killed after each line.
#[test]
fn words_are_counted_over_crashes() {
    block_on(async {
        let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
        let mut wanted = BTreeMap::<String, i64>::new();
        for line in ["to be or not to be", "that is", "", "the question to be"] {
            let test = TestProgram::in_dir(dir.path(), Config::new(SECOND)).unwrap();
            let mut test = test.on_clock(&clock);
            let (queue, lines) = test.context().queue::<String>("lines");
            let counts = describe(&lines).unwrap();
            let mut changes = counts.changes().pairs().collect();
            let mut top = counts.all().top(3).collect();

            let mut run = test.start().await.unwrap();
            queue.push([line.to_owned()]).await.unwrap();
            run.end_interval().await.unwrap();
            run.abort().await.unwrap();

            words(line).for_each(|word| *wanted.entry(word.to_owned()).or_default() += 1);
            let mut all: Vec<_> = wanted.clone().into_iter().collect();
            let changed = all.iter().filter(|(word, _)| line.contains(word.as_str()));
            let changed: Vec<_> = changed.cloned().collect();
            all.sort_by_key(|(_, count)| -count);
            all.truncate(3);
            let (_, found) = batches(&mut top).unwrap().pop().unwrap();
            assert_eq!(found, all, "after `{line}`");
            let (_, found) = batches(&mut changes).unwrap().pop().unwrap();
            assert_eq!(sorted(found), changed, "after `{line}`");
        }
    });
}
