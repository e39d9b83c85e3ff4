//! The model of disks: [`Journal`], whose unsynced end is lost at a power loss, and [`Checkpoint`].

use std::rc::Rc;

use dstreams_control::BlockMeta;
use dstreams_control::durable::{CheckpointMeta, Entry, Replay, ReplayError, Restart};

use crate::plan::PARTITIONS;
use crate::rng::Rng;

/// A block with its content: producers and their numbers.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Block {
    pub meta: BlockMeta,
    pub input: u32,
    pub records: Vec<(usize, u64)>,
}

#[derive(Clone)]
pub struct Line {
    pub entry: Entry,
    pub block: Option<Rc<Block>>,
}

/// A journal. Released entries stay here for comparison.
#[derive(Default)]
pub struct Journal {
    lines: Vec<Line>,
    /// The number of released lines.
    first: usize,
    /// The same, as far as a power loss cannot bring them back.
    first_synced: usize,
    synced: usize,
    /// A sync is in progress, of the lines before this.
    syncing: Option<usize>,
    /// The number of processes that wrote to it.
    writers: u64,
}

impl Journal {
    /// Returns the place of the line; places count from 1.
    pub fn append(&mut self, line: Line) -> u64 {
        self.lines.push(line);
        self.end()
    }

    /// Begins a sync of the present lines, unless one is in progress or nothing is to be synced; returns its
    /// writer.
    pub fn begin_sync(&mut self) -> Option<u64> {
        if self.syncing.is_some() || self.synced == self.lines.len() {
            return None;
        }
        self.syncing = Some(self.lines.len());
        Some(self.writers)
    }

    /// Ends a sync, unless its writer has ended; returns the newly synced lines.
    pub fn end_sync(&mut self, writer: u64) -> Option<&[Line]> {
        let upto = self.syncing.take_if(|_| self.writers == writer)?;
        Some(self.sync_to(upto))
    }

    /// The writer ends.
    pub fn ends(&mut self) {
        self.writers += 1;
        self.syncing = None;
    }

    /// The place of the last line.
    pub fn end(&self) -> u64 {
        self.lines.len() as u64
    }

    pub fn is_synced(&self, place: u64) -> bool {
        place <= self.synced as u64
    }

    /// Syncs everything; returns the newly synced lines.
    pub fn sync(&mut self) -> &[Line] {
        self.sync_to(self.lines.len())
    }

    fn sync_to(&mut self, upto: usize) -> &[Line] {
        let from = self.synced.min(upto);
        self.synced = self.synced.max(upto);
        self.first_synced = self.first;
        &self.lines[from..upto]
    }

    /// Entries before `place` may go, and some do: files go as a whole. Returns whether any did.
    pub fn release_before(&mut self, place: u64, rng: &mut Rng) -> bool {
        let before = usize::try_from(place.saturating_sub(1)).unwrap_or(usize::MAX);
        let most = before.min(self.synced);
        let there = most.saturating_sub(self.first) as u64;
        let stays = if rng.chance(500) { 0 } else { rng.below(there) };
        let goes = there - stays;
        self.first += usize::try_from(goes).unwrap();
        goes > 0
    }

    /// Loses an unsynced end; returns it.
    pub fn lose_power(&mut self, rng: &mut Rng) -> Vec<Line> {
        let unsynced = (self.lines.len() - self.synced) as u64;
        let keep = self.synced + usize::try_from(rng.below(unsynced + 1)).unwrap();
        let back = rng.below((self.first - self.first_synced) as u64 + 1);
        self.first -= usize::try_from(back).unwrap();
        self.lines.split_off(keep)
    }

    /// The lines that are present.
    pub fn kept(&self) -> &[Line] {
        &self.lines[self.first..]
    }

    /// The lines that would be present without any release.
    pub fn all(&self) -> &[Line] {
        &self.lines
    }
}

/// A visible checkpoint, which survives the loss of power or not.
#[derive(Clone)]
pub struct Checkpoint {
    pub point: CheckpointMeta,
    pub states: [u64; PARTITIONS],
    pub durable: bool,
}

/// The decision of a restart.
pub fn decide<'a>(
    checkpoint: Option<&Checkpoint>,
    lines: impl Iterator<Item = &'a Line>,
) -> Result<Restart, ReplayError> {
    let mut replay = Replay::new(checkpoint.map(|checkpoint| checkpoint.point.clone()));
    for line in lines {
        replay.take(line.entry.clone());
    }
    replay.decide()
}
