//! The kit for tests of users, used as they use it: on the runtime that `tokio::test` makes, with `?`.

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use dstreams::agg::{count, sum};
use dstreams::testing::{self, TestProgram, TestRun, batches, records, sorted};
use dstreams::{
    BatchTime, Clock, Config, Error, Generator, ManualClock, Queue, RddReceiver, Result,
    StreamContext,
};

const SECOND: Duration = Duration::from_secs(1);
/// For waits that fail.
const SOON: Duration = Duration::from_millis(50);

fn config(threads: usize) -> Config {
    let mut config = Config::new(SECOND);
    config.threads = threads;
    config.rows_per_task = 1;
    config
}

fn pair(word: &str, n: i64) -> (String, i64) {
    (word.to_owned(), n)
}

#[tokio::test]
async fn a_batch_has_taken_effect_when_its_interval_has_ended() -> Result<()> {
    let mut test = TestProgram::with_config(config(2))?;
    let (input, words) = test.context().queue::<String>("words");
    let mut counts = words.keyed().agg(count())?.pairs().collect();
    let mut run = test.start().await?;

    input.push(["a", "b", "a"].map(str::to_owned)).await?;
    let report = run.end_interval().await?;
    assert_eq!((report.batch, report.records), (BatchTime(1_000), 3));
    assert_eq!(sorted(records(&mut counts)?), [pair("a", 2), pair("b", 1)]);

    run.end_interval().await?;
    input.push(["c".to_owned()]).await?;
    // In the middle of an interval, its end is nearer.
    run.clock().advance(SECOND / 4);
    assert_eq!(run.end_interval().await?.batch, BatchTime(3_000));
    let found = batches(&mut counts)?;
    let wanted = [(2_000, vec![]), (3_000, vec![pair("c", 1)])];
    assert_eq!(found, wanted.map(|(at, records)| (BatchTime(at), records)));
    assert_eq!(records(&mut counts)?, []);

    input.push(["d".to_owned()]).await?;
    let summary = run.stop().await?;
    assert_eq!((summary.batches, summary.records), (4, 5));
    assert_eq!(records(&mut counts)?, [pair("d", 1)]);
    Ok(())
}

#[tokio::test]
async fn a_function_of_a_stream_is_tested_in_one_call() -> Result<()> {
    for threads in [1, 3] {
        let input = [vec![1i64, 2, 3], vec![], vec![4]];
        let config = config(threads);
        let sums = testing::run(&config, input, |numbers| {
            let by_rest = numbers.map(|n| (n % 2, n)).by_key();
            Ok(by_rest
                .window_agg(2 * SECOND, SECOND, sum::<i64>())?
                .pairs())
        });
        let sums = sums.await?.into_iter();
        let sums: Vec<_> = sums.map(|(batch, sums)| (batch.0, sorted(sums))).collect();
        let wanted = [vec![(0, 2), (1, 4)], vec![(0, 2), (1, 4)], vec![(0, 4)]];
        assert_eq!(
            sums,
            [1_000, 2_000, 3_000]
                .into_iter()
                .zip(wanted)
                .collect::<Vec<_>>()
        );
    }
    let config = config(1);
    let refused = testing::run(&config, [[1i64]], |numbers| {
        let keyed = numbers.keyed();
        Ok(keyed.window_agg(SECOND / 3, SECOND, count())?.pairs())
    });
    let refused = refused.await.unwrap_err();
    assert!(matches!(refused, Error::Graph { .. }), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_batch_that_fails_gives_its_error() -> Result<()> {
    let mut test = TestProgram::with_config(config(1))?;
    let (input, numbers) = test.context().queue::<i64>("numbers");
    let mut inverses = numbers.map(|n| 12 / n).collect();
    let mut run = test.start().await?;
    input.push([3]).await?;
    run.end_interval().await?;
    input.push([0]).await?;
    let failed = run.end_interval().await.unwrap_err();
    assert!(
        matches!(
            failed,
            Error::Batch {
                batch: BatchTime(2_000),
                ..
            }
        ),
        "{failed:?}"
    );
    assert!(failed.to_string().contains("divide by zero"), "{failed}");
    assert_eq!(records(&mut inverses)?, [4]);
    // Whatever is asked for afterwards, the program has ended so.
    for error in [
        run.end_interval().await.unwrap_err(),
        run.next_batch().await.unwrap_err(),
        run.stop().await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), failed.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_for_what_does_not_come_says_what_it_was() -> Result<()> {
    let mut test = TestProgram::with_config(config(1))?.patience(SOON);
    let (input, numbers) = test.context().queue::<i64>("numbers");
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    numbers.for_each_rdd(move |_| {
        let _ = held.lock().unwrap().recv();
    });
    let mut run = test.start().await?;
    let said = |what: &str| format!("waited 50ms for {what}");

    let error = run.next_batch().await.unwrap_err();
    assert_eq!(error.to_string(), said("a batch to take effect"));
    let error = run.until("the moon", || false).await.unwrap_err();
    assert_eq!(error.to_string(), said("the moon"));
    let never = std::future::pending::<()>();
    let error = run.within("Godot", never).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert_eq!(error.to_string(), said("Godot"));

    input.push([1]).await?;
    let error = run.end_interval().await.unwrap_err();
    assert_eq!(error.to_string(), said("batch 1000 ms to take effect"));
    let error = run.stop().await.unwrap_err();
    assert_eq!(error.to_string(), said("the program to end"));
    // The program goes on: it is the test that has ended.
    drop(release);
    let end = run.running().await_termination(Some(60 * SECOND)).await?;
    assert_eq!(end.unwrap().records, 1);
    Ok(())
}

#[tokio::test]
async fn what_does_come_is_waited_for() -> Result<()> {
    use std::io::Write;

    let mut test = TestProgram::with_config(config(1))?;
    let mut lines = test.context().tcp_text("lines", "127.0.0.1:0").collect();
    let mut run = test.start().await?;
    let address = run.running().address("lines").unwrap();
    let mut producer = std::net::TcpStream::connect(address).unwrap();
    producer.write_all(b"a line\n").unwrap();
    let received = || run.running().status().block_memory > 0;
    run.until("the line to arrive", received).await?;
    run.end_interval().await?;
    assert_eq!(records(&mut lines)?, ["a line"]);

    run.clock().advance(3 * SECOND);
    for batch in [2_000, 3_000, 4_000] {
        assert_eq!(run.next_batch().await?.batch, BatchTime(batch));
    }
    run.clock().advance(3 * SECOND);
    assert_eq!(run.end_interval().await?.batch, BatchTime(8_000));
    run.abort().await?;
    let ended = run.end_interval().await.unwrap_err();
    assert!(matches!(ended, Error::NotRunning), "{ended:?}");
    Ok(())
}

/// Totals of words, kept in `dir`.
struct Totals {
    run: TestRun,
    input: Queue<(String, i64)>,
    totals: RddReceiver<(String, i64)>,
}

impl Totals {
    async fn start(dir: &Path, clock: &ManualClock) -> Result<Self> {
        let mut config = config(2);
        config.checkpoint_every = 2;
        let test = TestProgram::in_dir(dir, config)?;
        let mut test = test.on_clock(clock);
        let (input, words) = test.context().queue("words");
        let totals = words.by_key().running_agg("totals", sum::<i64>())?;
        let totals = totals.all().pairs().collect();
        let run = test.start().await?;
        Ok(Totals { run, input, totals })
    }

    /// Ends an interval: its batch, its records, and all totals.
    async fn next(&mut self) -> Result<(u64, u64, Vec<(String, i64)>)> {
        let report = self.run.end_interval().await?;
        let totals = batches(&mut self.totals)?.pop().unwrap();
        assert_eq!(totals.0, report.batch);
        Ok((report.batch.0, report.records, sorted(totals.1)))
    }
}

#[tokio::test]
async fn a_program_that_was_ended_goes_on_where_it_was() -> Result<()> {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let mut first = Totals::start(dir.path(), &clock).await?;
    first.input.push([pair("a", 1)]).await?;
    assert_eq!(first.next().await?, (1_000, 1, vec![pair("a", 1)]));
    first.input.push([pair("a", 2), pair("b", 5)]).await?;
    first.run.abort().await?;

    // What was pushed is in the next batch, wherever it begins.
    let mut second = Totals::start(dir.path(), &clock).await?;
    second.input.push([pair("b", 1)]).await?;
    let totals = vec![pair("a", 3), pair("b", 6)];
    assert_eq!(second.next().await?, (2_000, 3, totals.clone()));
    second.run.abort().await?;

    // Intervals in which there is no program have batches too.
    clock.advance(3 * SECOND);
    let mut third = Totals::start(dir.path(), second.run.clock()).await?;
    for batch in [3_000, 4_000, 5_000] {
        let report = third.run.next_batch().await?;
        assert_eq!((report.batch.0, report.records), (batch, 0));
    }
    assert_eq!(third.next().await?, (6_000, 0, totals));

    // A stop ends the interval: the clock shows it, and the next program has another one.
    third.input.push([pair("c", 1)]).await?;
    third.run.stop().await?;
    assert_eq!(clock.clock().now(), BatchTime(7_000).timestamp());
    let mut fourth = Totals::start(dir.path(), &clock).await?;
    fourth.input.push([pair("c", 1)]).await?;
    let totals = vec![pair("a", 3), pair("b", 6), pair("c", 2)];
    assert_eq!(fourth.next().await?, (8_000, 1, totals));
    fourth.run.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_program_whose_directory_is_gone_ends_with_an_error_that_says_so() -> Result<()> {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let place = dir.path().join("program");
    let mut totals = Totals::start(&place, &clock).await?;
    totals.input.push([pair("a", 1)]).await?;
    totals.next().await?;
    std::fs::rename(&place, dir.path().join("moved")).unwrap();
    let ended = totals.run.end_interval().await.unwrap_err();
    assert!(
        ended.to_string().contains(place.to_str().unwrap()),
        "{ended}"
    );
    Ok(())
}

#[tokio::test]
async fn a_program_that_was_described_elsewhere_is_run() -> Result<()> {
    let describe = || {
        let mut context = StreamContext::new(SECOND)?;
        let numbers = Generator::new(1_000_000, |n| n as i64).limit(10);
        let numbers = context.generator("numbers", numbers).collect();
        context.stop_when_sources_end();
        Ok::<_, Error>((context, numbers))
    };
    let (context, mut numbers) = describe()?;
    // At any time, here the first second of 2024.
    let (clock, _) = Clock::manual(Duration::from_secs(1_704_067_200));
    let run = TestProgram::from_context(context).on_clock(&clock);
    let run = run.start().await?;
    assert_eq!(run.ended().await?.records, 10);
    let [(batch, records)] = <[_; 1]>::try_from(batches(&mut numbers)?).unwrap();
    assert_eq!(batch, BatchTime(1_704_067_201_000));
    assert_eq!(records, (0..10).collect::<Vec<_>>());
    assert_eq!(clock.clock().now(), batch.timestamp());

    // In a way of its own, which may fail with an error of its own.
    let start = async |_| Err::<(), _>("no cluster");
    let refused = TestProgram::from_context(describe()?.0).start_by(start);
    assert_eq!(refused.await.unwrap_err(), "no cluster");
    Ok(())
}

/// A test that fails in the middle stops nothing: it ends nevertheless.
#[test]
fn a_test_that_fails_ends() {
    for flavor in ["one thread", "several"] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_owned();
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = match flavor {
                "several" => tokio::runtime::Builder::new_multi_thread(),
                _ => tokio::runtime::Builder::new_current_thread(),
            };
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let clock = ManualClock::new();
                let mut totals = Totals::start(&place, &clock).await.unwrap();
                totals.input.push([pair("a", 1)]).await.unwrap();
                totals.next().await.unwrap();
                totals.input.push([pair("a", 1)]).await.unwrap();
            });
            drop(runtime);
            sender.send(()).unwrap();
        });
        let ended = ended.recv_timeout(60 * SECOND);
        ended.unwrap_or_else(|_| panic!("{flavor}: the runtime did not end"));
    }
}
