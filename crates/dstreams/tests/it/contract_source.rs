//! The contract of sources that resume after a restart: satisfied by ours, and broken one way at a time.

use std::collections::VecDeque;
use std::time::Duration;

use dstreams::arrow::datatypes::SchemaRef;
use dstreams::contract::{
    self, EACH_RECORD_ONCE, FAILS_ON_REFUSAL, MONOTONIC_OFFSETS, RESUMES_AT_OFFSETS,
    RUNS_WITHOUT_ERROR, STOPS_ON_REQUEST, Violation, WAITS_FOR_PUSHES,
};
use dstreams::files::Files;
use dstreams::record::batch_of;
use dstreams::{BoxError, Ingest, Record, Source, StopSignal};

use crate::dir::Dir;
use crate::files_sink::FORMATS;
use crate::files_source::{Row, write};
use crate::program::{PATIENCE, block_on};

#[test]
fn files_of_all_formats_keep_the_contract() {
    for &format in FORMATS {
        let (dir, mut all) = (Dir::new(), Vec::new());
        for file in 0..4i64 {
            // Parquet is read in pieces of its own.
            let rows = if file == 2 { 4200 } else { 11 };
            let rows = (0..rows).map(|row| Row {
                text: format!("{file},\"\n{row}"),
                number: row,
                maybe: (row % 2 == 0).then_some(0.5),
                flag: row % 3 == 0,
            });
            let rows: Vec<_> = rows.collect();
            write(
                &dir.join(format!("{file}")),
                format,
                &[batch_of(rows.clone()).unwrap()],
            );
            all.extend(rows);
        }
        let url = format!("file://{}", dir.path().display());
        for files in [Files::dir(dir.path(), format), Files::url(&url, format)] {
            let files = files.every(Duration::from_millis(1)).piece_bytes(8 << 10);
            for files in [files.clone(), files.once()] {
                let make = async || files.clone().source::<Row>().unwrap();
                block_on(contract::source(make, all.clone(), PATIENCE)).unwrap();
            }
        }
    }
}

/// A fault of a source.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Resumes only one of its inputs.
    KnowsOneInput,
    StartsAnew,
    SaysNoPosition,
    /// Gives a record the offset of the one before it.
    SaysTooMuch,
    /// Gives a record the offset of the one after it.
    SaysTooLittle,
    /// Pushes the second half of an offset's records later.
    SplitsWhatBelongsTogether,
    StepsBack,
    DoesNotWait,
    /// Gives up a slow push.
    GivesUp,
    NeverEnds,
    /// Pushes all before it ends.
    EndsAtTheEnd,
    /// Drops records that it has taken in when asked to end, but reports them as done.
    DropsAtTheEnd,
    PassesErrorsOver,
    Panics,
    FailsToOpen,
    GivesTwice,
}

/// Numbers of two inputs in turn, from 0 on each.
struct Numbers {
    fault: Fault,
    /// Ends by itself.
    ends: bool,
}

const RECORDS_PER_INPUT: i64 = 40;

#[dstreams::async_trait]
impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        <(String, i64)>::schema()
    }

    async fn open(&mut self) -> Result<Option<std::net::SocketAddr>, BoxError> {
        match self.fault {
            Fault::FailsToOpen => Err("nobody is there".into()),
            _ => Ok(None),
        }
    }

    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let fault = self.fault;
        let position = |input: &str| {
            let known = ingest.offsets().get(input).copied().unwrap_or(0) as i64;
            match fault {
                Fault::StartsAnew => 0,
                Fault::KnowsOneInput if input == "b" => 0,
                Fault::StepsBack => 1000 - if known == 0 { 1000 } else { known },
                _ => known,
            }
        };
        let mut left: VecDeque<(&str, i64)> = VecDeque::new();
        for n in 0..RECORDS_PER_INPUT {
            let inputs = [("a", n), ("b", n)].into_iter();
            left.extend(inputs.filter(|(input, n)| *n >= position(input)));
        }
        let asked = || closing.is_requested() && fault != Fault::EndsAtTheEnd;
        let mut pushes = Vec::new();
        while let Some((input, n)) = left.pop_front() {
            if asked() && fault != Fault::DropsAtTheEnd {
                return Ok(());
            }
            if fault == Fault::Panics && n == 7 {
                panic!("on purpose");
            }
            let done = match fault {
                Fault::SaysTooMuch => n + 2,
                Fault::SaysTooLittle => n,
                Fault::StepsBack => 1000 - (n + 1),
                _ => n + 1,
            } as u64;
            let one = || batch_of([(input.to_owned(), n)]).unwrap();
            match fault {
                Fault::SaysNoPosition => ingest.push(one()).await?,
                Fault::SplitsWhatBelongsTogether if n % 2 == 0 => {
                    ingest.push_at(one(), input, done + 1).await?;
                }
                Fault::DoesNotWait => {
                    let (ingest, one) = (ingest.clone(), one());
                    pushes.push(async move { ingest.push_at(one, input, done).await });
                }
                Fault::GivesUp => {
                    let push = ingest.push_at(one(), input, done);
                    let _ = tokio::time::timeout(Duration::from_millis(10), push).await;
                }
                Fault::PassesErrorsOver => drop(ingest.push_at(one(), input, done).await),
                Fault::GivesTwice if n == RECORDS_PER_INPUT - 1 => {
                    ingest.push_at(one(), input, done).await?;
                    ingest.push_at(one(), input, done).await?;
                }
                Fault::DropsAtTheEnd if asked() && n + 1 < RECORDS_PER_INPUT => {
                    // The next one reports it as done, too.
                    let next = batch_of([(input.to_owned(), n + 1)])?;
                    ingest.push_at(next, input, done + 1).await?;
                    return Ok(());
                }
                _ => ingest.push_at(one(), input, done).await?,
            }
        }
        for pushed in futures::future::join_all(pushes).await {
            pushed?;
        }
        if !self.ends && fault == Fault::NeverEnds {
            std::future::pending::<()>().await;
        }
        if !self.ends {
            closing.requested().await;
        }
        Ok(())
    }
}

fn check(fault: Fault, ends: bool) -> Result<(), Violation> {
    let all = (0..RECORDS_PER_INPUT).flat_map(|n| ["a", "b"].map(|input| (input.to_owned(), n)));
    let patience = match fault {
        Fault::None => PATIENCE,
        _ => Duration::from_secs(2),
    };
    block_on(contract::source(
        async || Numbers { fault, ends },
        all,
        patience,
    ))
}

#[test]
fn the_contract_finds_the_faults_of_a_source() {
    for ends in [true, false] {
        check(Fault::None, ends).unwrap();
    }
    let faults = [
        (
            Fault::StartsAnew,
            true,
            RESUMES_AT_OFFSETS,
            "cut off again and again",
        ),
        (
            Fault::KnowsOneInput,
            true,
            RESUMES_AT_OFFSETS,
            "cut off again and again",
        ),
        (Fault::SaysNoPosition, true, RESUMES_AT_OFFSETS, "run once"),
        (
            Fault::SaysTooMuch,
            true,
            RESUMES_AT_OFFSETS,
            "cut off again and again",
        ),
        (
            Fault::SaysTooLittle,
            true,
            RESUMES_AT_OFFSETS,
            "cut off again and again",
        ),
        (
            Fault::SplitsWhatBelongsTogether,
            true,
            RESUMES_AT_OFFSETS,
            "cut off again and again",
        ),
        (Fault::StepsBack, true, MONOTONIC_OFFSETS, "run once"),
        (
            Fault::DoesNotWait,
            false,
            WAITS_FOR_PUSHES,
            "nothing is safe yet",
        ),
        (Fault::GivesUp, true, WAITS_FOR_PUSHES, "memory was full"),
        (Fault::NeverEnds, false, STOPS_ON_REQUEST, "run once"),
        (
            Fault::EndsAtTheEnd,
            true,
            STOPS_ON_REQUEST,
            "asked to end after 0 of 80 pushes",
        ),
        (
            Fault::DropsAtTheEnd,
            false,
            STOPS_ON_REQUEST,
            "asked to end after 0 of 80 pushes",
        ),
        (
            Fault::PassesErrorsOver,
            true,
            FAILS_ON_REFUSAL,
            "refused after 0 of 80 pushes",
        ),
        (Fault::Panics, true, RUNS_WITHOUT_ERROR, "run once"),
        (Fault::FailsToOpen, true, RUNS_WITHOUT_ERROR, "opened"),
        (Fault::GivesTwice, true, EACH_RECORD_ONCE, "run once"),
    ];
    for (fault, ends, promise, step) in faults {
        let broken = check(fault, ends).unwrap_err();
        println!("{fault:?}: {broken}");
        // Pushes without waiting also overtake each other, and that may be seen first.
        if fault == Fault::DoesNotWait && broken.promise == MONOTONIC_OFFSETS {
            continue;
        }
        assert_eq!(
            (broken.promise, broken.step.as_str()),
            (promise, step),
            "{fault:?}: {broken}"
        );
    }
}

#[test]
fn the_contract_finds_other_columns() {
    let make = async || Numbers {
        fault: Fault::None,
        ends: true,
    };
    let broken = block_on(contract::source(make, [1i64], PATIENCE)).unwrap_err();
    assert_eq!(broken.promise, RUNS_WITHOUT_ERROR);
    assert!(broken.found.contains("expected (value: Int64)"), "{broken}");
}
