//! The rules one by one, as written-out schedules. The interval is 100 ms; a report has 50 ms, ending sources 500
//! ms, the last reports 1 s after that; a batch is tried twice.

mod batches;
mod downtime;
mod restarts;
mod set_aside;
mod stops;

use Command::WakeAt;
use dstreams_control::{
    BatchTime, BlockId, BlockMeta, Command, Config, Controller, Event, ReceiverId, Timestamp,
};

const B1: BatchTime = BatchTime(100);
const B2: BatchTime = BatchTime(200);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn block(receiver: u64, seq: u64) -> BlockMeta {
    BlockMeta {
        id: BlockId {
            receiver: ReceiverId(receiver),
            seq,
        },
        rows: 10,
        bytes: 100,
    }
}

fn reported(batch: BatchTime, receiver: u64, blocks: &[BlockMeta]) -> Event {
    Event::Reported {
        batch,
        receiver: ReceiverId(receiver),
        blocks: blocks.to_vec(),
    }
}

fn joined(receiver: u64) -> Event {
    let receiver = ReceiverId(receiver);
    Event::Joined { receiver }
}

fn left(receiver: u64, blocks: &[BlockMeta]) -> Event {
    Event::Left {
        receiver: ReceiverId(receiver),
        blocks: blocks.to_vec(),
    }
}

fn cut(batch: BatchTime, blocks: &[BlockMeta]) -> Command {
    Command::Cut {
        batch,
        blocks: blocks.to_vec(),
    }
}

/// Started at 30 ms.
fn started(receivers: u32) -> Controller {
    let config = Config {
        max_attempts: 2,
        source_timeout_ms: 500,
        final_report_timeout_ms: 1_000,
        ..Config::new(100).unwrap()
    };
    let mut controller = Controller::new(config);
    let receivers = (0..u64::from(receivers)).map(ReceiverId).collect();
    assert_eq!(
        controller.step(Event::Start { receivers }, at(30)),
        [WakeAt(at(100))]
    );
    controller
}

/// With one receiver, and the first batch running since 101 ms.
fn running() -> Controller {
    let mut controller = started(1);
    controller.step(Event::Tick, at(100));
    controller.step(reported(B1, 0, &[block(0, 0)]), at(101));
    assert!(controller.running().eq([(B1, 1)]));
    controller
}

/// The commands without `WakeAt`.
fn step(controller: &mut Controller, event: Event, ms: u64) -> Vec<Command> {
    let mut commands = controller.step(event, at(ms));
    commands.retain(|command| !matches!(command, WakeAt(_)));
    commands
}
