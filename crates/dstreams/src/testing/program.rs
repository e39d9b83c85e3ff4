//! [`TestProgram`]: a program that is being described, on a clock moved by hand.

use std::path::PathBuf;
use std::time::Duration;

use super::TestRun;
use super::progress::Progress;
use super::wait::within;
use crate::config::Config;
use crate::error::Result;
use crate::program::{ManualClock, StreamContext};

/// How long a test waits for something that does not come: so long only when it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that a test describes and then runs batch by batch. [The module](crate::testing) has examples.
///
/// Its clock stands at zero, so that the first batch is that at the end of the first interval, unless it is on another
/// one ([`TestProgram::on_clock`]).
#[derive(Debug)]
pub struct TestProgram {
    context: StreamContext,
    clock: ManualClock,
    patience: Duration,
}

impl TestProgram {
    /// One with this batch interval, and settings as in [`Config::new`].
    pub fn new(interval: Duration) -> Result<Self> {
        Self::with_config(Config::new(interval))
    }

    /// One with these settings.
    pub fn with_config(config: Config) -> Result<Self> {
        Ok(Self::from_context(StreamContext::with_config(config)?))
    }

    /// One that is kept in `dir`: it goes on where the last one there ended. See [`StreamContext::persist_in`].
    pub fn in_dir(dir: impl Into<PathBuf>, config: Config) -> Result<Self> {
        let mut context = StreamContext::with_config(config)?;
        context.persist_in(dir);
        Ok(Self::from_context(context))
    }

    /// One that was described elsewhere, or in part. It loses the clock it has.
    pub fn from_context(context: StreamContext) -> Self {
        TestProgram {
            context,
            clock: ManualClock::new(),
            patience: PATIENCE,
        }
    }

    /// Takes the time from `clock`, such as that of an earlier run: [`TestRun::clock`].
    pub fn on_clock(mut self, clock: &ManualClock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// How long each wait of the test may take, real time, before it is an error. Default: 60 seconds.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The context, to describe the program.
    pub fn context(&mut self) -> &mut StreamContext {
        &mut self.context
    }

    /// Starts the program, as [`StreamContext::start`] does.
    pub async fn start(self) -> Result<TestRun> {
        let patience = self.patience;
        let (context, mut progress) = self.prepare();
        let running = within(patience, "the program to start", context.start()).await??;
        progress.ends_with(&running);
        Ok(TestRun { running, progress })
    }

    /// Starts the program in another way, such as on a cluster, whose handle is then that of the run. How long that
    /// takes is not bounded.
    pub async fn start_by<R, E>(
        self,
        start: impl AsyncFnOnce(StreamContext) -> Result<R, E>,
    ) -> Result<TestRun<R>, E> {
        let (context, progress) = self.prepare();
        let running = start(context).await?;
        Ok(TestRun { running, progress })
    }

    fn prepare(self) -> (StreamContext, Progress) {
        let TestProgram {
            mut context,
            clock,
            patience,
        } = self;
        context.set_clock(clock.clock());
        let (progress, listener) = Progress::new(clock, context.config.interval, patience);
        context.add_listener(listener);
        (context, progress)
    }
}
