//! [`RowTimes`]: when the keys of rows had events, and when rows are due.
//!
//! A key leaves so long after its last event, or after its first, and may have a timer. When it is due follows from
//! these three and the program's [`Lifetime`]; it is stored nowhere, so that a changed program finds its rows at its own
//! times. What is the same for all rows takes no memory: a state without timers has the last events alone.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::buffer::ScalarBuffer;
use dstreams_control::BatchTime;

use super::shape::Shape;
use crate::stream::lifetime::Lifetime;

/// A time for each row.
#[derive(Debug, Clone)]
pub(super) enum TimeColumn {
    /// The same for all rows: most deltas, which then need no column for it.
    Same(BatchTime),
    Each(ScalarBuffer<u64>),
}

impl TimeColumn {
    pub fn of(times: ScalarBuffer<u64>) -> Self {
        match times.first() {
            Some(first) if times.iter().all(|time| time == first) => {
                TimeColumn::Same(BatchTime(*first))
            }
            _ => TimeColumn::Each(times),
        }
    }

    #[inline]
    pub fn at(&self, row: usize) -> BatchTime {
        match self {
            TimeColumn::Same(time) => *time,
            TimeColumn::Each(times) => BatchTime(times[row]),
        }
    }

    pub fn is(&self, time: BatchTime) -> bool {
        matches!(self, TimeColumn::Same(same) if *same == time)
    }

    pub fn bytes(&self) -> usize {
        match self {
            TimeColumn::Same(_) => 0,
            TimeColumn::Each(times) => times.inner().capacity(),
        }
    }

    /// As a column of so many rows.
    pub fn column(&self, rows: usize) -> UInt64Array {
        match self {
            TimeColumn::Same(time) => UInt64Array::from(vec![time.0; rows]),
            TimeColumn::Each(times) => UInt64Array::new(times.clone(), None),
        }
    }

    fn slice(&self, from: usize, rows: usize) -> Self {
        match self {
            TimeColumn::Same(time) => TimeColumn::Same(*time),
            TimeColumn::Each(times) => TimeColumn::of(times[from..from + rows].to_vec().into()),
        }
    }

    fn shown(&self, shown: &BooleanArray) -> Self {
        let TimeColumn::Each(times) = self else {
            return self.clone();
        };
        let rows = times.iter().zip(shown.values());
        let rows = rows.filter(|(_, shown)| *shown);
        TimeColumn::of(rows.map(|(time, _)| *time).collect())
    }

    fn gather(columns: &[&TimeColumn], at: &[(usize, usize)]) -> Self {
        if let Some(TimeColumn::Same(first)) = columns.first()
            && columns.iter().all(|column| column.is(*first))
        {
            return TimeColumn::Same(*first);
        }
        let rows = at.iter();
        TimeColumn::of(rows.map(|(of, row)| columns[*of].at(*row).0).collect())
    }
}

/// The times of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTimes {
    /// The batch of its first event, in a state that has a use for it.
    pub first: BatchTime,
    /// The batch of its last event.
    pub last: BatchTime,
    /// When its timer is due; [`BatchTime::MAX`] without one.
    pub timer: BatchTime,
}

/// The times of the rows of a delta, if they are not those of keys that had their first event in its batch.
#[derive(Debug, Default)]
pub struct EventTimes {
    pub first: Option<Vec<u64>>,
    pub last: Option<Vec<u64>>,
    pub timer: Option<Vec<u64>>,
}

/// The times of some rows.
#[derive(Debug, Clone)]
pub(super) struct RowTimes {
    /// The batch of the last event of each row's key; or when the row is due, if that follows from its columns.
    pub last: TimeColumn,
    /// The batch of the first event; the same for all in a state without [`Lifetime::live_ms`].
    pub first: TimeColumn,
    /// [`BatchTime::MAX`] for keys without a timer.
    pub timer: TimeColumn,
    /// Without it, rows are due by `last`.
    lifetime: Option<Lifetime>,
}

impl RowTimes {
    /// Rows of a state whose keys had their last events in these batches, and their first ones too.
    pub fn new(shape: &Shape, last: TimeColumn) -> Self {
        let first = match shape.has_first() {
            true => last.clone(),
            false => TimeColumn::Same(BatchTime(0)),
        };
        RowTimes {
            last,
            first,
            timer: TimeColumn::Same(BatchTime::MAX),
            lifetime: shape.lifetime(),
        }
    }

    /// Rows of a delta.
    pub fn of_events(shape: &Shape, batch: BatchTime, times: EventTimes) -> Self {
        let or = |times: Option<Vec<u64>>, other| {
            times.map_or(TimeColumn::Same(other), |times| {
                TimeColumn::of(times.into())
            })
        };
        let mut of = RowTimes::new(shape, or(times.last, batch));
        if shape.has_first() {
            of.first = or(times.first, batch);
        }
        if shape.has_timers() {
            of.timer = or(times.timer, BatchTime::MAX);
        }
        of
    }

    #[inline]
    pub fn at(&self, row: usize) -> KeyTimes {
        KeyTimes {
            first: self.first.at(row),
            last: self.last.at(row),
            timer: self.timer.at(row),
        }
    }

    /// When a row is due.
    #[inline]
    pub fn due(&self, row: usize) -> BatchTime {
        match self.lifetime {
            None => self.last.at(row),
            Some(lifetime) => {
                let end = lifetime.end(self.first.at(row), self.last.at(row));
                end.min(self.timer.at(row))
            }
        }
    }

    /// The places of the rows in the order in which they are due, unless that is their order.
    pub fn order(&self, rows: usize) -> Option<Box<[u16]>> {
        let columns = [&self.first, &self.last, &self.timer];
        if columns
            .iter()
            .all(|column| matches!(column, TimeColumn::Same(_)))
        {
            return None;
        }
        let due: Vec<BatchTime> = (0..rows).map(|row| self.due(row)).collect();
        if due.is_sorted() {
            return None;
        }
        let mut order: Box<[u16]> = (0..rows as u16).collect();
        order.sort_by_key(|row| due[usize::from(*row)]);
        Some(order)
    }

    pub fn slice(&self, from: usize, rows: usize) -> Self {
        self.each(|column| column.slice(from, rows))
    }

    /// Those of the rows in a mask.
    pub fn shown(&self, shown: &BooleanArray) -> Self {
        self.each(|column| column.shown(shown))
    }

    fn each(&self, of: impl Fn(&TimeColumn) -> TimeColumn) -> Self {
        RowTimes {
            last: of(&self.last),
            first: of(&self.first),
            timer: of(&self.timer),
            lifetime: self.lifetime,
        }
    }

    /// Those of rows of several sources, each given by its source and its place there.
    pub fn gather(shape: &Shape, sources: &[&RowTimes], at: &[(usize, usize)]) -> Self {
        let column = |of: fn(&RowTimes) -> &TimeColumn| {
            let columns: Vec<&TimeColumn> = sources.iter().map(|times| of(times)).collect();
            TimeColumn::gather(&columns, at)
        };
        RowTimes {
            last: column(|times| &times.last),
            first: column(|times| &times.first),
            timer: column(|times| &times.timer),
            lifetime: shape.lifetime(),
        }
    }

    /// The columns that differ from row to row, of so many rows.
    pub fn columns(&self, rows: usize) -> Vec<ArrayRef> {
        let columns = [&self.last, &self.first, &self.timer].into_iter();
        let columns = columns.filter(|column| matches!(column, TimeColumn::Each(_)));
        columns
            .map(|column| Arc::new(column.column(rows)) as ArrayRef)
            .collect()
    }

    /// The same with other buffers for these columns.
    pub fn in_buffers(&self, mut buffers: impl Iterator<Item = ScalarBuffer<u64>>) -> Self {
        let mut column = |of: &TimeColumn| match of {
            TimeColumn::Same(time) => TimeColumn::Same(*time),
            TimeColumn::Each(_) => buffers.next().map_or_else(|| of.clone(), TimeColumn::Each),
        };
        RowTimes {
            last: column(&self.last),
            first: column(&self.first),
            timer: column(&self.timer),
            lifetime: self.lifetime,
        }
    }

    /// Whether a key has a timer.
    pub fn has_timers(&self) -> bool {
        !self.timer.is(BatchTime::MAX)
    }

    pub fn bytes(&self) -> usize {
        self.last.bytes() + self.first.bytes() + self.timer.bytes()
    }
}
