//! A kit for your own tests: runs a program batch by batch, on a clock that the test moves.
//!
//! [`TestProgram`] describes a program, [`TestRun`] runs it. A test pushes records, ends the interval, which waits until
//! its batch has taken effect, and looks at what came out. No test waits for time to pass, and none waits forever: a
//! wait is bounded ([`TestProgram::patience`]), and its error says what was waited for.
//!
//! ```
//! use std::time::Duration;
//! use dstreams::testing::{TestProgram, records, sorted};
//! use dstreams::{DStream, agg::count, text::words};
//!
//! fn count_words(lines: &DStream<String>) -> dstreams::Result<DStream<(String, i64)>> {
//!     let words = lines.flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)));
//!     Ok(words.keyed().agg(count())?.pairs())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
//! // In a test: #[tokio::test] async fn words_are_counted() -> dstreams::Result<()> {
//! let mut test = TestProgram::new(Duration::from_secs(1))?;
//! let (input, lines) = test.context().queue::<String>("lines");
//! let mut counts = count_words(&lines)?.collect();
//!
//! let mut run = test.start().await?;
//! input.push(["a b a".to_owned()]).await?;
//! let report = run.end_interval().await?;
//! assert_eq!(report.records, 1);
//! assert_eq!(sorted(records(&mut counts)?), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
//! run.stop().await?;
//! # Ok(()) }
//! ```
//!
//! # Functions of streams
//!
//! What makes one stream of another is tested in one call: [`run()`] takes the records of each interval, and returns
//! what each batch gave.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
//! use std::time::Duration;
//! use dstreams::{BatchTime, Config, testing};
//!
//! let config = Config::new(Duration::from_secs(1));
//! let found = testing::run(&config, [vec![1i64, 5], vec![], vec![2]], |numbers| {
//!     Ok(numbers.filter(|n| n > 1))
//! });
//! let wanted = [(1_000, vec![5]), (2_000, vec![]), (3_000, vec![2])];
//! assert_eq!(found.await?, wanted.map(|(at, records)| (BatchTime(at), records)));
//! # Ok(()) }
//! ```
//!
//! The order of the rows of a batch is always the same, and no part of what operators promise, hence [`sorted`]. With few
//! records a batch is one task; `config.rows_per_task = 1` makes as many as there are threads.
//!
//! # Restarts
//!
//! [`TestProgram::in_dir`] keeps the program in a directory. [`TestRun::abort`] ends it as a process that is killed
//! does: what was pushed is safe, what had not taken effect is to be done again. The next one is described in the same
//! way and goes on with the same clock, which may have been moved while no program was there.
//!
//! ```
//! use std::{path::Path, time::Duration};
//! use dstreams::testing::{TestProgram, records};
//! use dstreams::{Config, ManualClock, Queue, RddReceiver, agg::sum};
//!
//! fn totals(
//!     dir: &Path,
//!     clock: &ManualClock,
//! ) -> dstreams::Result<(TestProgram, Queue<(String, i64)>, RddReceiver<(String, i64)>)> {
//!     let test = TestProgram::in_dir(dir, Config::new(Duration::from_secs(1)))?;
//!     let mut test = test.on_clock(clock);
//!     let (input, sales) = test.context().queue::<(String, i64)>("sales");
//!     let totals = sales.by_key().running_agg("totals", sum::<i64>())?;
//!     Ok((test, input, totals.all().pairs().collect()))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (dir, clock) = (tempfile::tempdir()?, ManualClock::new());
//! let (test, input, _) = totals(dir.path(), &clock)?;
//! let mut run = test.start().await?;
//! input.push([("tea".to_owned(), 3)]).await?;
//! run.end_interval().await?;
//! input.push([("tea".to_owned(), 4)]).await?; // is in no batch yet
//! run.abort().await?;
//!
//! let (test, _, mut output) = totals(dir.path(), &clock)?;
//! let mut run = test.start().await?;
//! run.end_interval().await?;
//! assert_eq!(records(&mut output)?, [("tea".to_owned(), 7)]);
//! run.stop().await?;
//! # Ok(()) }
//! ```
//!
//! A program that is described elsewhere, with [`StreamContext::persist_in`](crate::StreamContext::persist_in)
//! or without, is run by [`TestProgram::from_context`].

mod intervals;
mod program;
mod progress;
mod run;
mod wait;

pub use intervals::{batches, intervals, records, run, sorted};
pub use program::TestProgram;
pub use run::TestRun;
