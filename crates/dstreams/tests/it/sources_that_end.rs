//! A program whose sources end, and its outputs: in one process and on a cluster.

use dstreams::arrow::datatypes::SchemaRef;
use dstreams::record::batch_of;
use dstreams::{BoxError, Generator, Ingest, Record, Source, StopSignal, StreamContext};
use dstreams::{Error, RddReceiver, Running, Summary};

/// Brings some records, then fails.
struct Fails;

#[dstreams::async_trait]
impl Source for Fails {
    fn schema(&self) -> SchemaRef {
        i64::schema()
    }
    async fn run(self: Box<Self>, ingest: Ingest, _: StopSignal) -> Result<(), BoxError> {
        ingest.push(batch_of(0..3i64)?).await?;
        Err("the line is dead".into())
    }
}

/// Builds the program: one source brings 500 numbers; a failing one brings three more before.
pub fn sources_that_end(ctx: &mut StreamContext, fails: bool) -> RddReceiver<i64> {
    let many = Generator::new(1_000_000, |n| n as i64).limit(500);
    let all = ctx.generator("many", many).collect();
    if fails {
        let few = ctx.source::<i64>("few", Fails).unwrap();
        few.for_each_rdd(|_| {});
    }
    ctx.dead_letters().for_each_rdd(|_| {});
    ctx.stop_when_sources_end();
    all
}

/// Checks how it ended, and that all records of the sources have taken effect.
pub fn they_have_ended(
    ended: Result<Option<Summary>, Error>,
    running: &Running,
    mut all: RddReceiver<i64>,
    fails: bool,
) {
    match ended {
        Ok(summary) => {
            let summary = summary.unwrap();
            let found = (fails, summary.records, summary.unfinished);
            assert_eq!(found, (false, 500, 0));
        }
        Err(error) => {
            assert!(fails, "{error}");
            let text = "source of stream `few` failed: the line is dead";
            assert_eq!(error.to_string(), text);
            assert_eq!(running.status().records, 503);
        }
    }
    let mut got = Vec::new();
    while let Some(rdd) = all.try_recv() {
        got.extend(rdd.collect().unwrap());
    }
    assert_eq!(got, (0..500).collect::<Vec<_>>());
}
