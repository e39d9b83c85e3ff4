//! The model of disks: [`Journal`], whose end is lost with the power as far as it was not synced, and [`Checkpoint`].

use std::rc::Rc;

use dstreams_control::BlockMeta;
use dstreams_control::durable::{Entry, Point, Replay, ReplayError, Restart};

use crate::plan::PARTITIONS;
use crate::rng::Rng;

/// A block and what is in it: producers and their numbers.
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

/// A journal. What it let go is still here, to be compared with.
#[derive(Default)]
pub struct Journal {
    lines: Vec<Line>,
    /// Lines before it were let go.
    first: usize,
    /// The same, as far as a power loss does not bring them back.
    first_synced: usize,
    synced: usize,
    /// A sync is under way, of the lines before this.
    syncing: Option<usize>,
    /// Counts the processes that wrote to it.
    writers: u64,
}

impl Journal {
    /// Returns the place of the line: they count from 1.
    pub fn append(&mut self, line: Line) -> u64 {
        self.lines.push(line);
        self.end()
    }

    /// Begins a sync of what is there, unless one is under way or nothing is to be synced; returns whose it is.
    pub fn begin_sync(&mut self) -> Option<u64> {
        if self.syncing.is_some() || self.synced == self.lines.len() {
            return None;
        }
        self.syncing = Some(self.lines.len());
        Some(self.writers)
    }

    /// Ends a sync, unless who began it is no more; returns the lines that were not synced before.
    pub fn end_sync(&mut self, writer: u64) -> Option<&[Line]> {
        let upto = self.syncing.take_if(|_| self.writers == writer)?;
        Some(self.sync_to(upto))
    }

    /// Who writes to it ends.
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

    /// Syncs all; returns the lines that were not synced before.
    pub fn sync(&mut self) -> &[Line] {
        self.sync_to(self.lines.len())
    }

    fn sync_to(&mut self, upto: usize) -> &[Line] {
        let from = self.synced.min(upto);
        self.synced = self.synced.max(upto);
        self.first_synced = self.first;
        &self.lines[from..upto]
    }

    /// What is before `place` may go, and some of it does: files go as a whole. Says whether any did.
    pub fn let_go_before(&mut self, place: u64, rng: &mut Rng) -> bool {
        let before = usize::try_from(place.saturating_sub(1)).unwrap_or(usize::MAX);
        let most = before.min(self.synced);
        let there = most.saturating_sub(self.first) as u64;
        let stays = if rng.chance(500) { 0 } else { rng.below(there) };
        let goes = there - stays;
        self.first += usize::try_from(goes).unwrap();
        goes > 0
    }

    /// Of what was not synced, the end is lost; returns it.
    pub fn lose_power(&mut self, rng: &mut Rng) -> Vec<Line> {
        let unsynced = (self.lines.len() - self.synced) as u64;
        let keep = self.synced + usize::try_from(rng.below(unsynced + 1)).unwrap();
        let back = rng.below((self.first - self.first_synced) as u64 + 1);
        self.first -= usize::try_from(back).unwrap();
        self.lines.split_off(keep)
    }

    /// What is there.
    pub fn kept(&self) -> &[Line] {
        &self.lines[self.first..]
    }

    /// What would be there if nothing had been let go.
    pub fn all(&self) -> &[Line] {
        &self.lines
    }
}

/// A checkpoint that can be seen, and survives the loss of power or not.
#[derive(Clone)]
pub struct Checkpoint {
    pub point: Point,
    pub states: [u64; PARTITIONS],
    pub durable: bool,
}

/// What a restart would decide.
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
