//! The lane of a receiver, with blocks that become safe when the test says so.

use std::sync::Mutex;

use dstreams_control::ReceiverId;
use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::blocks::Budget;
use crate::config::Config;
use crate::error::Error;
use crate::receive::{DeadLetters, Ingest};
use crate::stream::record::{Record, batch_of};

const INPUT: u32 = 3;
/// Longer than anything takes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than records linger, and shorter than the grace period.
const PAUSE: Duration = Duration::from_millis(15);

/// Numbers of blocks that are being made safe, and the sender of the outcome.
type Kept = (Vec<u64>, oneshot::Sender<Result<()>>);
type Reported = (u64, Vec<u64>);

struct Fake {
    when: ReportedWhen,
    kept: mpsc::UnboundedSender<Kept>,
    reports: mpsc::UnboundedSender<Reported>,
    removed_parts: Mutex<Vec<String>>,
}

impl Durability for Fake {
    fn reported_when(&self) -> ReportedWhen {
        self.when
    }

    fn store(
        self: Arc<Self>,
        input: u32,
        _intake: &Intake,
        blocks: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>> {
        assert_eq!(input, INPUT);
        let (end, ended) = oneshot::channel();
        let blocks = blocks.iter().map(|block| block.meta.id.seq).collect();
        self.kept.send((blocks, end)).unwrap();
        async move { ended.await.unwrap_or(Err(Error::NotRunning)) }.boxed()
    }

    fn report(&self, batch: BatchTime, receiver: ReceiverId, blocks: Vec<BlockMeta>) {
        assert_eq!(receiver, ReceiverId(7));
        let blocks = blocks.iter().map(|block| block.id.seq).collect();
        self.reports.send((batch.0, blocks)).unwrap();
    }

    fn forget(&self, input: u32, parts: &[Arc<str>]) {
        assert_eq!(input, INPUT);
        let parts = parts.iter().map(|part| part.to_string());
        self.removed_parts.lock().unwrap().extend(parts);
    }
}

/// A running lane.
struct Live {
    intake: Arc<Intake>,
    fake: Arc<Fake>,
    seals: mpsc::UnboundedSender<Seal>,
    kept: mpsc::UnboundedReceiver<Kept>,
    reports: mpsc::UnboundedReceiver<Reported>,
    lane: JoinHandle<()>,
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, what).await.expect("it does not happen")
}

fn live(when: ReportedWhen) -> Live {
    let (config, budget) = (Config::new(TIMEOUT), Budget::new(1 << 20));
    let (schema, dead) = (u64::schema(), DeadLetters::default());
    let intake = Intake::new(ReceiverId(7), "numbers", schema, &config, budget, dead);
    let intake = Arc::new(intake.with_copies());
    let (keeping, kept) = mpsc::unbounded_channel();
    let (reporting, reports) = mpsc::unbounded_channel();
    let fake = Arc::new(Fake {
        when,
        kept: keeping,
        reports: reporting,
        removed_parts: Mutex::default(),
    });
    let (seals, asked) = mpsc::unbounded_channel();
    let lane = Lane::new(INPUT, Arc::clone(&intake), Arc::clone(&fake) as _);
    Live {
        intake,
        fake,
        seals,
        kept,
        reports,
        lane: tokio::spawn(lane.run(asked)),
    }
}

impl Live {
    /// Receives a record; returns the number of its block.
    async fn take_in(&self) -> u64 {
        let taken = self.intake.take_in(batch_of([1_u64]).unwrap(), None).await;
        taken.unwrap().unwrap()
    }

    fn seal(&self, batch: u64, last: bool) {
        let batch = BatchTime(batch);
        self.seals.send(Seal { batch, last }).unwrap();
    }

    /// Expects these blocks to be passed on next.
    async fn kept(&mut self, blocks: &[u64]) -> oneshot::Sender<Result<()>> {
        let (found, end) = soon(self.kept.recv()).await.unwrap();
        assert_eq!(found, blocks);
        end
    }

    async fn reported(&mut self, batch: u64, blocks: &[u64]) {
        let found = soon(self.reports.recv()).await.unwrap();
        assert_eq!(found, (batch, blocks.to_vec()));
    }

    /// Checks that nothing is reported or passed on for a while.
    async fn nothing(&mut self, long: Duration) {
        tokio::time::sleep(long).await;
        assert!(self.reports.try_recv().is_err());
        assert!(self.kept.try_recv().is_err());
    }

    fn is_safe(&self, block: u64) -> bool {
        self.intake.safe(block).now_or_never().is_some()
    }

    async fn safe(&self, block: u64) -> Result<()> {
        soon(self.intake.safe(block)).await
    }
}

#[tokio::test]
async fn blocks_that_are_written_are_reported_when_sealed_and_safe_later() {
    let mut live = live(ReportedWhen::Sealed);
    assert_eq!(live.take_in().await, 0);
    let first = live.kept(&[0]).await;
    live.seal(1, false);
    live.reported(1, &[0]).await;
    assert_eq!(live.take_in().await, 1);
    live.nothing(PAUSE).await;
    live.seal(2, false);
    let second = live.kept(&[1]).await;
    live.reported(2, &[1]).await;
    assert!(!live.is_safe(0));
    // Once a later entry is on disk, so are they.
    drop(first.send(Ok(())));
    second.send(Ok(())).unwrap();
    live.safe(1).await.unwrap();
    live.safe(0).await.unwrap();
    live.seal(3, false);
    live.reported(3, &[]).await;
    assert_eq!(live.take_in().await, 2);
    live.seal(4, true);
    let third = live.kept(&[2]).await;
    live.reported(4, &[2]).await;
    assert!(!live.is_safe(2));
    assert!(!live.lane.is_finished(), "what was sealed last is not safe");
    third.send(Ok(())).unwrap();
    soon(&mut live.lane).await.unwrap();
    live.safe(2).await.unwrap();
}

#[tokio::test]
async fn blocks_that_are_copied_are_reported_once_safe_or_go_into_the_next_batch() {
    let mut live = live(ReportedWhen::Safe);
    live.take_in().await;
    let first = live.kept(&[0]).await;
    live.seal(1, false);
    live.nothing(PAUSE).await;
    first.send(Ok(())).unwrap();
    live.reported(1, &[0]).await;
    live.safe(0).await.unwrap();

    live.take_in().await;
    let second = live.kept(&[1]).await;
    live.take_in().await;
    let asked = Instant::now();
    live.seal(2, false);
    live.reported(2, &[]).await;
    assert!(asked.elapsed() >= GRACE);
    // One after the other.
    live.nothing(PAUSE).await;
    live.seal(3, false);
    second.send(Ok(())).unwrap();
    let third = live.kept(&[2]).await;
    live.safe(1).await.unwrap();
    assert!(!live.is_safe(2));
    third.send(Ok(())).unwrap();
    live.reported(3, &[1, 2]).await;
}

/// It contains everything.
#[tokio::test]
async fn the_last_answer_waits_until_all_blocks_are_safe() {
    let mut live = live(ReportedWhen::Safe);
    live.take_in().await;
    let first = live.kept(&[0]).await;
    live.take_in().await;
    live.seal(1, true);
    live.nothing(2 * GRACE).await;
    first.send(Ok(())).unwrap();
    let second = live.kept(&[1]).await;
    live.nothing(2 * GRACE).await;
    second.send(Ok(())).unwrap();
    live.reported(1, &[0, 1]).await;
    soon(&mut live.lane).await.unwrap();
    live.safe(1).await.unwrap();
    let late = live.intake.push(batch_of([1_u64]).unwrap()).await;
    assert!(matches!(late, Err(Error::NotRunning)));
}

/// Whether the blocks were reported or not; seals are answered until the last.
#[tokio::test]
async fn nothing_is_acknowledged_after_a_failure() {
    for (when, reported) in [
        (ReportedWhen::Sealed, vec![0]),
        (ReportedWhen::Safe, vec![]),
    ] {
        let mut live = live(when);
        live.take_in().await;
        let first = live.kept(&[0]).await;
        first.send(Err(Error::NotRunning)).unwrap();
        live.safe(0).await.unwrap_err();
        live.intake
            .push(batch_of([1_u64]).unwrap())
            .await
            .unwrap_err();
        live.seal(1, false);
        live.reported(1, &reported).await;
        live.seal(2, true);
        live.reported(2, &[]).await;
        soon(&mut live.lane).await.unwrap();
    }
    // The waiting seal is answered too.
    let mut live = live(ReportedWhen::Safe);
    live.take_in().await;
    let first = live.kept(&[0]).await;
    live.seal(1, true);
    live.nothing(PAUSE).await;
    first.send(Err(Error::NotRunning)).unwrap();
    live.reported(1, &[]).await;
    soon(&mut live.lane).await.unwrap();
}

#[tokio::test]
async fn forgotten_parts_are_reported_with_the_next_seal() {
    for when in [ReportedWhen::Sealed, ReportedWhen::Safe] {
        let mut live = live(when);
        Ingest(Arc::clone(&live.intake)).forget("part");
        live.seal(1, false);
        live.reported(1, &[]).await;
        assert_eq!(*live.fake.removed_parts.lock().unwrap(), ["part"]);
        assert!(live.intake.take_removed_parts().is_empty());
    }
}

#[tokio::test]
async fn a_lane_without_callers_releases_its_receiver() {
    let mut live = live(ReportedWhen::Safe);
    live.take_in().await;
    let _never = live.kept(&[0]).await;
    let intake = Arc::downgrade(&live.intake);
    drop((live.seals, live.intake));
    soon(live.lane).await.unwrap();
    assert!(intake.upgrade().is_none());
}
