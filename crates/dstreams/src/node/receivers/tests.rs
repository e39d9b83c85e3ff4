//! Nothing of the receivers is left when their program has ended.

use std::sync::Weak;

use async_trait::async_trait;
use futures::future::{BoxFuture, pending};

use super::*;
use crate::blocks::{Block, BlockStore};
use crate::error::{BoxError, Result};
use crate::node::{Inbox, of_master};
use crate::program::StreamContext;
use crate::receive::DeadLetter;
use crate::stream::record::Record;

const INTERVAL: Duration = Duration::from_millis(20);

type Intakes = Arc<Mutex<Vec<Weak<Intake>>>>;

/// Waits until the intakes have no owner any more.
async fn freed(intakes: &Intakes, how_many: usize) {
    let there = || {
        let intakes = intakes.lock().unwrap();
        assert_eq!(intakes.len(), how_many);
        intakes.iter().filter(|it| it.strong_count() > 0).count()
    };
    let gone = async {
        while there() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(30), gone).await;
    assert!(freed.is_ok(), "{} intakes are kept", there());
}

/// Blocks never become safe.
struct Never;

impl Durability for Never {
    fn reported_when(&self) -> ReportedWhen {
        ReportedWhen::Safe
    }
    fn store(
        self: Arc<Self>,
        _: u32,
        _: &Intake,
        _: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>> {
        pending().boxed()
    }
    fn report(&self, _: BatchTime, _: ReceiverId, _: Vec<BlockMeta>) {}
    fn forget(&self, _: u32, _: &[Arc<str>]) {}
}

/// Two receivers, one of them for dead letters; `end` is not called.
#[tokio::test]
async fn receivers_that_are_dropped_free_their_intakes() {
    let (store, inbox) = (Arc::<BlockStore>::default(), Inbox::new());
    let in_memory = of_master(&store, &inbox.mailbox(), None);
    let durabilities: [Arc<dyn Durability>; 2] = [in_memory, Arc::new(Never)];
    for durability in durabilities {
        let receivers = Receivers::new(&Config::new(INTERVAL), Budget::new(1 << 20));
        let streams = [("a", u64::schema()), ("dead", DeadLetter::schema())];
        let added = (0..).zip(streams).map(|(input, stream)| {
            let receiver = NewReceiver::of_master(input, None);
            receivers.add(receiver, stream, &durability)
        });
        let added: Vec<_> = added.collect();
        receivers.take_dead_letters(&added[1]);
        let intakes = added.iter().map(Arc::downgrade).collect::<Vec<_>>();
        let passed_on = added[0].dead_letters.receiver();
        assert_eq!(passed_on, Some(ReceiverId(1)));
        drop((added, receivers));
        freed(&Arc::new(Mutex::new(intakes)), 2).await;
    }
}

/// A source that remembers its intake, and that of dead letters.
struct Watching {
    intakes: Intakes,
    opens: bool,
}

#[async_trait]
impl Source for Watching {
    fn schema(&self) -> SchemaRef {
        u64::schema()
    }

    fn connect(&mut self, ingest: &Ingest) {
        let dead = ingest.0.dead_letters.intake().unwrap();
        let both = [&ingest.0, &dead].map(Arc::downgrade);
        self.intakes.lock().unwrap().extend(both);
    }

    async fn open(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        match self.opens {
            true => Ok(None),
            false => Err("it is in use".into()),
        }
    }

    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        ingest.dead_letter("someone", b"what", "no number").await;
        closing.requested().await;
        Ok(())
    }
}

fn program(intakes: &Intakes, opens: bool) -> Result<StreamContext> {
    let mut ctx = StreamContext::new(INTERVAL)?;
    ctx.dead_letters().for_each_rdd(|_| {});
    for (name, opens) in [("a", true), ("b", opens)] {
        let intakes = Arc::clone(intakes);
        let stream = ctx.source::<u64>(name, Watching { intakes, opens })?;
        stream.for_each_rdd(|_| {});
    }
    Ok(ctx)
}

/// In memory and in a directory; after a stop, and when the second source cannot be opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_has_ended_frees_its_intakes() {
    let dir = tempfile::tempdir().unwrap();
    for (kept, opens) in [(false, true), (false, false), (true, true), (true, false)] {
        let intakes = Intakes::default();
        let mut ctx = program(&intakes, opens).unwrap();
        if kept {
            ctx.persist_in(dir.path().join("kept"));
        }
        match ctx.start().await {
            Ok(running) => {
                assert!(opens);
                running.stop().await.unwrap();
            }
            Err(error) => assert!(!opens, "{error}"),
        }
        freed(&intakes, 4).await;
    }
}
