//! Values that combine but cannot be subtracted, over a sliding window: for each key, in amortised O(1)
//! combinations for each entry that is added or expires.
//!
//! For each key this is the two-stacks algorithm for a sliding window: each entry of the front has the combination
//! of itself and all later front entries; entries of the back are combined in one running value. The window's
//! value is the oldest front entry combined with the running value. When the front runs out, the back becomes the
//! front, in one walk from the newest entry to the oldest. Doing that for all frequent keys in one batch would
//! make that batch slow, so each batch turns a share of the keys, needed or not; each key is turned about once per
//! window.

use std::collections::VecDeque;

use crate::encoding::{ByteInput, ByteOutput};
use crate::error::Result;
use crate::state::accumulators::Combine;
use crate::state::encoding::wrong;

/// The number of an entry, counted from the first ever.
type EntryNumber = u64;
const NONE: EntryNumber = EntryNumber::MAX;
/// More entries and panes than any program reaches.
const MAX_COUNT: u64 = u64::MAX / 4;

/// The entries of a window, oldest first: a key has at most one for each pane.
#[derive(Default)]
struct Entries {
    /// The number of the first entry here.
    first: EntryNumber,
    slots: VecDeque<u32>,
    earlier: VecDeque<EntryNumber>,
    later: VecDeque<EntryNumber>,
    /// By column: the entry's own value in the back; in the front, combined with later ones.
    values: Vec<VecDeque<u64>>,
}

impl Entries {
    fn at(&self, entry: EntryNumber) -> usize {
        (entry - self.first) as usize
    }

    fn end(&self) -> EntryNumber {
        self.first + self.slots.len() as u64
    }

    /// Adds an entry of the key in `slot`, without its values.
    fn link(&mut self, key: &mut KeyStacks, slot: usize) -> EntryNumber {
        let entry = self.end();
        self.slots.push_back(slot as u32);
        self.earlier.push_back(key.newest);
        self.later.push_back(NONE);
        if key.is_empty() {
            key.oldest = entry;
        } else {
            let before = self.at(key.newest);
            self.later[before] = entry;
        }
        key.newest = entry;
        entry
    }
}

#[derive(Clone, Copy)]
struct KeyStacks {
    oldest: EntryNumber,
    newest: EntryNumber,
    /// Entries before this one are the front.
    front_end: EntryNumber,
}

const NO_ENTRIES: KeyStacks = KeyStacks {
    oldest: NONE,
    newest: NONE,
    front_end: 0,
};

impl KeyStacks {
    fn is_empty(&self) -> bool {
        self.newest == NONE
    }
    fn has_front(&self) -> bool {
        !self.is_empty() && self.oldest < self.front_end
    }
    fn has_back(&self) -> bool {
        !self.is_empty() && self.newest >= self.front_end
    }
}

/// The data that does not follow from the rows of the panes.
#[derive(Debug)]
pub(super) struct StacksSnapshot {
    first: EntryNumber,
    count: u64,
    values: Vec<VecDeque<u64>>,
    ends: Vec<EntryNumber>,
    back: Vec<Vec<u64>>,
}

impl StacksSnapshot {
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.put_number(self.first)?;
        to.put_number(self.count)?;
        for values in &self.values {
            to.put_numbers(values.iter())?;
        }
        to.put_numbers(self.ends.iter())?;
        self.back
            .iter()
            .try_for_each(|back| to.put_numbers(back.iter()))
    }
}

/// The window's values for the columns that cannot be subtracted.
pub(super) struct Stacks {
    combine: Vec<Combine>,
    entries: Entries,
    /// The number of each pane's first entry.
    panes: VecDeque<EntryNumber>,
    keys: Vec<KeyStacks>,
    /// By column and slot: the combined back; valid if there is a back.
    back: Vec<Vec<u64>>,
    /// Panes of a full window, and panes so far.
    window: usize,
    count: usize,
}

impl Stacks {
    pub fn new(combine: Vec<Combine>, window: usize) -> Self {
        Stacks {
            entries: Entries {
                values: vec![VecDeque::new(); combine.len()],
                ..Entries::default()
            },
            back: vec![Vec::new(); combine.len()],
            combine,
            panes: VecDeque::new(),
            keys: Vec::new(),
            window,
            count: 0,
        }
    }

    /// Starts the pane of a new batch, and turns its share of the keys.
    pub fn start_pane(&mut self) {
        self.panes.push_back(self.entries.end());
        for slot in (self.count % self.window..self.keys.len()).step_by(self.window) {
            if self.keys[slot].has_back() {
                self.turn(slot);
            }
        }
        self.count += 1;
    }

    /// Adds rows to the newest pane: row i, of the key in `slots[i]`, has `columns[..][i]`.
    pub fn add(&mut self, slots: &[usize], columns: &[&[u64]]) {
        let Some(pane) = self.panes.back().copied() else {
            return;
        };
        for (row, slot) in slots.iter().enumerate() {
            if *slot >= self.keys.len() {
                self.keys.resize(slot + 1, NO_ENTRIES);
                self.back
                    .iter_mut()
                    .for_each(|back| back.resize(slot + 1, 0));
            }
            let key = &mut self.keys[*slot];
            let again = !key.is_empty() && key.newest >= pane;
            for (column, combine) in self.combine.iter().enumerate().rev() {
                let value = |before: usize| columns[column - before][row];
                self.back[column][*slot] = if key.has_back() {
                    combine.apply(|before| self.back[column - before][*slot], value)
                } else {
                    value(0)
                };
                let values = &mut self.entries.values;
                match again {
                    true => {
                        let at = (key.newest - self.entries.first) as usize;
                        let own = |before: usize| values[column - before][at];
                        values[column][at] = combine.apply(own, value);
                    }
                    false => values[column].push_back(value(0)),
                }
            }
            if !again {
                let first = key.is_empty();
                let entry = self.entries.link(key, *slot);
                if first {
                    key.front_end = entry;
                }
            }
        }
    }

    /// Expires the oldest pane.
    pub fn expire_pane(&mut self) {
        self.panes.pop_front();
        let end = self.panes.front().copied().unwrap_or(self.entries.end());
        while self.entries.first < end {
            let slot = self.entries.slots.pop_front();
            let later = self.entries.later.pop_front();
            self.entries.earlier.pop_front();
            for values in &mut self.entries.values {
                values.pop_front();
            }
            self.entries.first += 1;
            let (Some(slot), Some(later)) = (slot, later) else {
                return;
            };
            let slot = slot as usize;
            if later == NONE {
                self.keys[slot] = NO_ENTRIES;
                continue;
            }
            self.keys[slot].oldest = later;
            if !self.keys[slot].has_front() {
                self.turn(slot);
            }
        }
    }

    /// Moves the back of a key to its front.
    fn turn(&mut self, slot: usize) {
        let key = self.keys[slot];
        let mut entry = key.newest;
        let mut after = key.newest;
        while entry != key.oldest {
            entry = self.entries.earlier[self.entries.at(entry)];
            for (column, combine) in self.combine.iter().enumerate().rev() {
                let values = &self.entries.values;
                // A front entry includes the rest of the front already: only the back follows.
                let follows = |before: usize| match entry >= key.front_end {
                    true => values[column - before][self.entries.at(after)],
                    false => self.back[column - before][slot],
                };
                let at = self.entries.at(entry);
                let value = combine.apply(|before| values[column - before][at], follows);
                self.entries.values[column][at] = value;
            }
            after = entry;
        }
        self.keys[slot].front_end = key.newest + 1;
    }

    /// The window's value of a key with entries.
    pub fn value(&self, slot: usize, column: usize) -> u64 {
        let key = self.keys[slot];
        let values = &self.entries.values;
        let front = |before: usize| values[column - before][self.entries.at(key.oldest)];
        let back = |before: usize| self.back[column - before][slot];
        match (key.has_front(), key.has_back()) {
            (true, true) => self.combine[column].apply(front, back),
            (true, false) => front(0),
            (false, true) => back(0),
            (false, false) => 0,
        }
    }

    /// Renumbers slots with entries: `renumbered[slot]`.
    pub fn renumber(&mut self, renumbered: &[u32], slots: usize) {
        let mut keys = vec![NO_ENTRIES; slots];
        let mut back = vec![vec![0; slots]; self.back.len()];
        for (old, key) in self
            .keys
            .iter()
            .enumerate()
            .filter(|(_, key)| !key.is_empty())
        {
            let new = renumbered[old] as usize;
            keys[new] = *key;
            for (to, from) in back.iter_mut().zip(&self.back) {
                to[new] = from[old];
            }
        }
        for slot in &mut self.entries.slots {
            *slot = renumbered[*slot as usize];
        }
        self.keys = keys;
        self.back = back;
    }

    /// The data that does not follow from the rows of the panes, copied: eight bytes for each entry and column,
    /// and some for each key.
    pub fn snapshot(&self) -> StacksSnapshot {
        StacksSnapshot {
            first: self.entries.first,
            count: self.count as u64,
            values: self.entries.values.clone(),
            ends: self.keys.iter().map(|key| key.front_end).collect(),
            back: self.back.clone(),
        }
    }

    /// Loads an export into new stacks; `panes` are the slots of the rows of each pane, and `slots` the number of
    /// slots.
    pub fn import<'a>(
        &mut self,
        panes: impl Iterator<Item = &'a [u32]>,
        slots: usize,
        from: &mut ByteInput<'_>,
    ) -> Result<()> {
        (self.entries.first, self.count) = (from.number()?, from.number()? as usize);
        if self.entries.first > MAX_COUNT || self.count as u64 > MAX_COUNT {
            return Err(wrong("there are more entries or panes than possible"));
        }
        self.keys = vec![NO_ENTRIES; slots];
        for pane in panes {
            let start = self.entries.end();
            self.panes.push_back(start);
            for slot in pane {
                let slot = *slot as usize;
                let key = &mut self.keys[slot];
                if key.is_empty() || key.newest < start {
                    self.entries.link(key, slot);
                }
            }
        }
        for values in &mut self.entries.values {
            *values = from.numbers(self.entries.slots.len())?;
        }
        let ends: Vec<u64> = from.numbers(slots)?;
        for (key, end) in self.keys.iter_mut().zip(ends) {
            key.front_end = end;
        }
        for back in &mut self.back {
            *back = from.numbers(slots)?;
        }
        Ok(())
    }
}
