//! All states of a context: windows and keyed ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use dstreams_control::{BatchTime, Due};

use super::capture::{Captured, Content};
use super::encoding::{STATE, wrong};
use super::history::{HistoryPartition, HistorySnapshot};
use super::keyed;
use super::keyed::KeyedState;
use super::memory_budget::StateMemoryBudget;
use super::window::{self, WindowPartition};
use crate::debug::debug_as;
use crate::encoding::{ByteInput, ByteOutput};
use crate::error::{Error, Result};
use crate::execute::{PreviousBatch, StateInstaller};
use crate::plan::{Probe, StateSpec};

/// The states of a context, by number and partition.
pub struct States {
    // Lock order L5 in ARCHITECTURE.md: one partition at a time.
    all: Vec<Vec<Mutex<Partition>>>,
    /// If memory is limited.
    room: Option<Arc<StateMemoryBudget>>,
}

debug_as!(States);

/// One partition of a state.
enum Partition {
    Window(WindowPartition),
    Keyed(KeyedState),
    History(HistoryPartition),
}

impl Partition {
    /// An empty partition `number` of a state.
    fn new(spec: StateSpec, number: usize, room: Option<&Arc<StateMemoryBudget>>) -> Result<Self> {
        Ok(match spec {
            StateSpec::Window(spec) => Partition::Window(WindowPartition::new(spec)?),
            StateSpec::Keyed(spec) => Partition::Keyed(KeyedState::new(spec, number, room)?),
            StateSpec::History(spec) => Partition::History(HistoryPartition::new(spec)),
        })
    }

    /// The state to which it belongs.
    fn spec(&self) -> StateSpec {
        match self {
            Partition::Window(window) => StateSpec::Window(window.spec()),
            Partition::Keyed(keyed) => StateSpec::Keyed(keyed.spec()),
            Partition::History(history) => StateSpec::History(history.spec()),
        }
    }

    fn version(&self) -> Option<BatchTime> {
        match self {
            Partition::Window(window) => window.version(),
            Partition::Keyed(keyed) => keyed.version(),
            Partition::History(history) => history.version(),
        }
    }

    /// Refuses a batch after a gap: this state must have the last RDD of its input up to the batch before.
    fn check_next(&self, batch: BatchTime, before: Option<PreviousBatch>) -> Result<()> {
        let every = self.spec().every_ms();
        let on = match before {
            Some(before) => before.in_steps(every, batch),
            None => batch.minus(every),
        };
        match self.version() {
            // I7 (ARCHITECTURE.md): a gap is refused.
            Some(version) if on > Some(version) => Err(Error::Gap {
                batch,
                on,
                version: Some(version),
            }),
            _ => Ok(()),
        }
    }

    /// The first batches after `after` that change it, or give rows, if its input has none; none if none ever does.
    fn due(&self, after: BatchTime) -> Option<Due> {
        let every = self.spec().every_ms();
        let Some(version) = self.version() else {
            // Its initial rows come with its first batch, which may be any of these.
            let (from, to) = (after.plus(1), after.plus(every));
            return Some(Due { from, to });
        };
        // Its input has an RDD at the version, and then every so often.
        let passed = after.millis().saturating_sub(version.millis());
        let next = version.plus((passed / every + 1).saturating_mul(every));
        match self {
            Partition::Window(window) => window.due(next),
            Partition::Keyed(keyed) => keyed.due(next),
            Partition::History(history) => history.due(after, next),
        }
    }

    fn install(
        &mut self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        rows: &[RecordBatch],
    ) -> Result<()> {
        self.check_next(batch, before)?;
        match self {
            Partition::Window(window) => window.install(batch, rows),
            Partition::Keyed(keyed) => keyed.install(batch, rows),
            Partition::History(history) => history.install(batch, rows),
        }
    }

    fn read(&self) -> Result<Vec<RecordBatch>> {
        match self {
            Partition::Window(window) => window.read(),
            Partition::Keyed(keyed) => keyed.read(),
            Partition::History(history) => history.read(),
        }
    }

    fn snapshot(&self) -> Result<PartitionSnapshot> {
        Ok(match self {
            Partition::Window(window) => PartitionSnapshot::Window(window.snapshot()),
            Partition::Keyed(keyed) => PartitionSnapshot::Keyed(keyed.snapshot()?),
            Partition::History(history) => PartitionSnapshot::History(history.snapshot()),
        })
    }

    fn capture(&mut self, since: Option<BatchTime>) -> Option<(Option<BatchTime>, Content)> {
        match self {
            Partition::Window(window) => window.capture(since),
            Partition::Keyed(keyed) => keyed.capture(since),
            Partition::History(history) => history.capture(since),
        }
    }

    fn checkpointed(&mut self, batch: BatchTime) {
        match self {
            Partition::Window(window) => window.checkpointed(batch),
            Partition::Keyed(keyed) => keyed.checkpointed(batch),
            Partition::History(history) => history.checkpointed(batch),
        }
    }

    fn restore(&mut self, whole: bool, from: &mut ByteInput<'_>) -> Result<()> {
        match self {
            Partition::Window(window) => window.restore(whole, from),
            Partition::Keyed(keyed) => keyed.restore(from),
            Partition::History(history) => history.restore(whole, from),
        }
    }

    fn import(
        spec: StateSpec,
        number: usize,
        room: Option<&Arc<StateMemoryBudget>>,
        from: &mut ByteInput<'_>,
    ) -> Result<Self> {
        Ok(match spec {
            StateSpec::Window(spec) => Partition::Window(WindowPartition::import(spec, from)?),
            StateSpec::Keyed(spec) => {
                Partition::Keyed(KeyedState::new(spec, number, room)?.filled(from)?)
            }
            StateSpec::History(spec) => Partition::History(HistoryPartition::import(spec, from)?),
        })
    }
}

impl States {
    pub fn new(
        specs: Vec<StateSpec>,
        partitions: usize,
        room: Option<Arc<StateMemoryBudget>>,
    ) -> Result<Self> {
        let states = specs.into_iter().map(|spec| {
            let partition = |number| Partition::new(spec.clone(), number, room.as_ref());
            (0..partitions)
                .map(|number| Ok(Mutex::new(partition(number)?)))
                .collect()
        });
        let all = states.collect::<Result<_>>()?;
        Ok(States { all, room })
    }

    fn lock(&self, state: usize, partition: usize) -> MutexGuard<'_, Partition> {
        lock(&self.all[state][partition])
    }
}

impl States {
    /// A partition of a named state as of a committed batch. Fails with [`Error::Version`] once two more batches
    /// were installed.
    pub fn table(
        &self,
        state: usize,
        partition: usize,
        batch: BatchTime,
    ) -> Result<Vec<RecordBatch>> {
        let partitions = self.all.get(state).ok_or_else(|| absent(partition))?;
        match &*lock(partitions.get(partition).ok_or_else(|| absent(partition))?) {
            Partition::Keyed(keyed) => keyed.table(batch),
            Partition::History(history) => history.table(batch),
            Partition::Window(_) => Ok(Vec::new()),
        }
    }
}

impl States {
    /// The first batches after `after` that do something in a partition, if no records come. Everything up to `after`
    /// is installed.
    pub fn due(&self, partition: usize, after: BatchTime) -> Option<Due> {
        let states = self.all.iter().filter_map(|state| state.get(partition));
        let due = states.filter_map(|state| lock(state).due(after));
        due.reduce(Due::or_earlier)
    }

    /// The same of all partitions.
    pub fn all_due(&self, after: BatchTime) -> Option<Due> {
        let partitions = 0..self.all.first().map_or(0, Vec::len);
        let due = partitions.filter_map(|partition| self.due(partition, after));
        due.reduce(Due::or_earlier)
    }
}

/// Methods for checkpoints.
impl States {
    /// The state of some partitions for a checkpoint, state by state: the changes since the version of the last
    /// checkpoint, or the full state if there is none or they are not retained. Unchanged states are left out.
    ///
    /// Called between two batches. Fast, since rows are shared; for a full window, values that cannot be
    /// subtracted are copied.
    pub fn capture<'a>(
        &self,
        since: impl Iterator<Item = (usize, &'a Vec<Option<BatchTime>>)>,
    ) -> Result<Vec<(usize, Captured)>> {
        let mut all = Vec::new();
        for (partition, since) in since {
            for (number, state) in self.all.iter().enumerate() {
                let mut state = lock(state.get(partition).ok_or_else(|| absent(partition))?);
                let since = since.get(number).copied().flatten();
                if let (Some((on, content)), Some(version)) =
                    (state.capture(since), state.version())
                {
                    let captured = Captured {
                        state: number,
                        version,
                        on,
                        content,
                    };
                    all.push((partition, captured));
                }
            }
        }
        Ok(all)
    }

    /// A checkpoint of `batch` is complete: drops the changes that it covers.
    pub fn checkpointed(&self, batch: BatchTime) {
        let partitions = self.all.iter().flatten();
        partitions.for_each(|state| lock(state).checkpointed(batch));
    }

    /// Restores captured parts of a partition into an empty state: first the full one, then the incremental ones,
    /// in order.
    pub fn restore(
        &self,
        state: usize,
        partition: usize,
        whole: bool,
        from: &mut ByteInput<'_>,
    ) -> Result<()> {
        self.lock(state, partition).restore(whole, from)
    }
}

/// Methods for standbys.
impl States {
    /// A full copy of a partition of all states, to be written. Each state is captured at its own version, between
    /// two installs, and may change afterwards.
    pub fn snapshot(&self, partition: usize) -> Result<Snapshot> {
        let of = |state: &Vec<Mutex<Partition>>| {
            let of = state.get(partition).ok_or_else(|| absent(partition))?;
            Ok((state.len(), lock(of).snapshot()?))
        };
        let states = self.all.iter().map(of).collect::<Result<_>>()?;
        Ok(Snapshot { partition, states })
    }

    /// Replaces a partition with exported state: from then on it gives the same results as the original, bit by
    /// bit.
    ///
    /// Fails, without changes, if the bytes are damaged, of another partition or number of partitions, or of other
    /// states than this program's; the error says what differs.
    pub fn import(&self, partition: usize, from: &mut ByteInput<'_>) -> Result<()> {
        from.open(&STATE)?;
        let (theirs, states) = (from.number()?, from.number()?);
        if theirs != partition as u64 {
            return Err(wrong(format!(
                "they are partition {theirs}, not {partition}"
            )));
        }
        if states != self.all.len() as u64 {
            let ours = self.all.len();
            return Err(wrong(format!(
                "they have {states} states, this program {ours}"
            )));
        }
        let mut imported = Vec::with_capacity(self.all.len());
        for state in &self.all {
            let partitions = from.number()?;
            if partitions != state.len() as u64 {
                let ours = state.len();
                return Err(wrong(format!(
                    "they have {partitions} partitions, this program {ours}"
                )));
            }
            let state = state.get(partition).ok_or_else(|| absent(partition))?;
            let spec = lock(state).spec();
            imported.push((
                state,
                Partition::import(spec, partition, self.room.as_ref(), from)?,
            ));
        }
        from.close()?;
        for (state, imported) in imported {
            *lock(state) = imported;
        }
        Ok(())
    }

    /// The version of a partition in each state, by number of state; none if nothing was installed.
    pub fn versions(&self, partition: usize) -> Vec<Option<BatchTime>> {
        let states = self.all.iter().map(|state| state.get(partition));
        states.map(|partition| lock(partition?).version()).collect()
    }

    /// The version of a partition of one state.
    pub fn version_of(&self, state: usize, partition: usize) -> Option<BatchTime> {
        self.lock(state, partition).version()
    }

    /// The lowest version of a partition among states with one; none if no state has any.
    ///
    /// These states need the batches after it; installing a batch again changes nothing. A state whose input has
    /// RDDs less often is behind the others without missing anything. States without a version are not counted:
    /// see [`States::versions`].
    pub fn version(&self, partition: usize) -> Option<BatchTime> {
        self.versions(partition).into_iter().flatten().min()
    }

    /// Releases a partition of all states.
    pub fn clear(&self, partition: usize) -> Result<()> {
        for state in self.all.iter().filter_map(|state| state.get(partition)) {
            let mut state = lock(state);
            *state = Partition::new(state.spec(), partition, self.room.as_ref())?;
        }
        Ok(())
    }
}

/// A partition of all states at some time: see [`States::snapshot`].
#[derive(Debug)]
pub struct Snapshot {
    partition: usize,
    /// For each state, its number of partitions and the contents of this one.
    states: Vec<(usize, PartitionSnapshot)>,
}

/// The contents of a partition at some time.
#[derive(Debug)]
enum PartitionSnapshot {
    Window(window::WindowSnapshot),
    Keyed(keyed::Snapshot),
    History(HistorySnapshot),
}

impl Snapshot {
    /// Writes it for [`States::import`]. Only some of its rows are copied at a time.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.begin(&STATE)?;
        to.put_number(self.partition as u64)?;
        to.put_number(self.states.len() as u64)?;
        for (partitions, state) in &self.states {
            to.put_number(*partitions as u64)?;
            match state {
                PartitionSnapshot::Window(window) => window.write(to)?,
                PartitionSnapshot::Keyed(keyed) => keyed.write(to)?,
                PartitionSnapshot::History(history) => history.write(to)?,
            }
        }
        to.seal()
    }
}

fn lock(state: &Mutex<Partition>) -> MutexGuard<'_, Partition> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent(partition: usize) -> Error {
    wrong(format!("there is no partition {partition}"))
}

impl StateInstaller for States {
    fn partitions(&self, state: usize) -> usize {
        self.all[state].len()
    }

    fn install(
        &self,
        state: usize,
        partition: usize,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        delta: &[RecordBatch],
    ) -> Result<()> {
        self.lock(state, partition).install(batch, before, delta)
    }

    fn probe(
        &self,
        state: usize,
        partition: usize,
        batch: BatchTime,
        probe: &Probe,
        rows: &[RecordBatch],
    ) -> Result<Vec<RecordBatch>> {
        match &*self.lock(state, partition) {
            Partition::Keyed(keyed) => keyed.probe(batch, probe, rows),
            Partition::Window(_) | Partition::History(_) => {
                Err(wrong("a window has no values by key"))
            }
        }
    }

    fn read(&self, state: usize, partition: usize) -> Result<Vec<RecordBatch>> {
        self.lock(state, partition).read()
    }
}
