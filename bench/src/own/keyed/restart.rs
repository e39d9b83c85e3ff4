//! A program with a large state in a directory: what its checkpoints write, and how soon another process resumes.

use std::process::Command;
use std::time::Instant;

use dstreams::arrow::array::AsArray;
use dstreams::arrow::datatypes::Int64Type;
use serde_json::{Value, json};

use super::engine::{Feed, Program};
use super::{Draw, Options, Outcome};
use crate::child;
use crate::own::watch::{Files, Place};
use crate::own::{flag, percentiles};

/// Bytes of a key and its count.
const ROW_BYTES: u64 = 16;
/// Batches before the measured ones.
const SETTLE_BATCHES: u64 = 40;

pub fn measure(options: &Options) -> Outcome<Value> {
    let place = Place::new(&options.dir, "keyed")?;
    let dir = place.0.join("program");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (pushed, mut result) = runtime.block_on(async {
        let program = Program::new(Some(&dir))?;
        let mut feed = Feed::of(&program);
        let running = program.ctx.start().await?;
        feed.fill(options.many).await?;
        let mut draw = Draw::new();
        // After these the checkpoints contain the initial state.
        for _ in 0..SETTLE_BATCHES {
            feed.batch(draw.some(options.changed, options.many)).await?;
        }
        let files = Files::watch(&dir, true);
        let from = feed.reports.all().len();
        for _ in 0..options.batches {
            feed.batch(draw.some(options.changed, options.many)).await?;
        }
        let reports = feed.reports.all().split_off(from);
        running.abort().await?;
        let [state, manifest, journal] = files.end(["state-", "manifest-", "journal-"])?;
        let changed = options.changed * options.batches * ROW_BYTES;
        let ours = || reports.iter().filter(|report| report.records > 0);
        let result = json!({
            "work": "keyed", "part": "restart", "keys": options.many, "changed": options.changed,
            "batches": options.batches, "changed_bytes": changed,
            "checkpoint_bytes": state + manifest, "journal_bytes": journal,
            "checkpoint_bytes_per_changed_byte": (state + manifest) as f64 / changed as f64,
            "batch_ms": percentiles(ours().map(|r| r.processing_time()).collect()),
            "total_delay_ms": percentiles(ours().map(|r| r.total_delay()).collect()),
        });
        Ok::<_, Box<dyn std::error::Error>>((feed.pushed, result))
    })?;
    drop(runtime);
    let mut again = Command::new(std::env::current_exe()?);
    again.args(["keyed", "restarted", "--program"]).arg(&dir);
    again.args(["--many", &options.many.to_string()]);
    again.args(["--pushed", &pushed.to_string()]);
    result["restart"] = child::measure(&mut again)?;
    Ok(result)
}

/// The process that resumes: measures from its start to its first batch.
pub fn restarted(flags: &[String]) -> Outcome<()> {
    let start = Instant::now();
    let dir: String = flag(flags, "--program", String::new())?;
    let many: u64 = flag(flags, "--many", 0)?;
    let pushed: u64 = flag(flags, "--pushed", 0)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let program = Program::new(Some(dir.as_ref()))?;
        let feed = Feed::of(&program);
        let running = program.ctx.start().await?;
        let started = start.elapsed();
        feed.reports.first().await;
        let first = start.elapsed();
        let session = running.session().await?;
        let answer = session.sql("select count(*), sum(value) from counts");
        let answer = answer.await?.collect().await?;
        let number = |column: usize| answer[0].column(column).as_primitive::<Int64Type>();
        let (keys, sum) = (number(0).value(0) as u64, number(1).value(0) as u64);
        running.abort().await?;
        if (keys, sum) != (many, pushed) {
            return Err(format!("{keys} keys that came {sum} times, not {many} and {pushed}").into());
        }
        println!(
            "{}",
            json!({
                "checked": true, "started_s": started.as_secs_f64(), "first_batch_s": first.as_secs_f64(),
            })
        );
        Ok(())
    })
}
