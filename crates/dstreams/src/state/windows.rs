//! All windows of a context.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::bytes::{Reader, STATE, put_number, wrong};
use super::window::WindowPartition;
use crate::error::{Error, Result};
use crate::execute::Installs;
use crate::plan::WindowSpec;

/// The windows of a context, by number and partition.
pub struct Windows(Vec<Vec<Mutex<WindowPartition>>>);

impl Windows {
    pub fn new(specs: Vec<WindowSpec>, partitions: usize) -> Result<Self> {
        let windows = specs.into_iter().map(|spec| {
            let spec = Arc::new(spec);
            let partition = |_| Ok(Mutex::new(WindowPartition::new(Arc::clone(&spec))?));
            (0..partitions).map(partition).collect()
        });
        Ok(Windows(windows.collect::<Result<_>>()?))
    }

    fn lock(&self, window: usize, partition: usize) -> MutexGuard<'_, WindowPartition> {
        lock(&self.0[window][partition])
    }
}

/// What a standby needs.
impl Windows {
    /// The whole state of a partition in all windows, as bytes.
    ///
    /// Each window is taken at its own version, between two installs. Bytes are in memory as a
    /// whole, about as many as the state has there.
    pub fn export(&self, partition: usize) -> Result<Vec<u8>> {
        let mut bytes = STATE.begin(0);
        put_number(&mut bytes, partition as u64);
        put_number(&mut bytes, self.0.len() as u64);
        for window in &self.0 {
            put_number(&mut bytes, window.len() as u64);
            let state = window.get(partition).ok_or_else(|| absent(partition))?;
            lock(state).export(&mut bytes)?;
        }
        Ok(STATE.seal(bytes))
    }

    /// Puts the state that was exported elsewhere in place of a partition's: from then on it gives
    /// the same as there, bit by bit.
    ///
    /// Fails, and changes nothing, where the bytes are damaged, of another partition or number of
    /// partitions, or of other windows than this program's; that error says what differs.
    pub fn import(&self, partition: usize, bytes: &[u8]) -> Result<()> {
        let mut from = Reader(STATE.open(bytes)?);
        let (theirs, windows) = (from.number()?, from.number()?);
        if theirs != partition as u64 {
            return Err(wrong(format!(
                "they are partition {theirs}, not {partition}"
            )));
        }
        if windows != self.0.len() as u64 {
            let ours = self.0.len();
            return Err(wrong(format!(
                "they have {windows} window(s), this program {ours}"
            )));
        }
        let mut imported = Vec::with_capacity(self.0.len());
        for window in &self.0 {
            let partitions = from.number()?;
            if partitions != window.len() as u64 {
                let ours = window.len();
                return Err(wrong(format!(
                    "they have {partitions} partitions, this program {ours}"
                )));
            }
            let state = window.get(partition).ok_or_else(|| absent(partition))?;
            let spec = lock(state).spec();
            imported.push((state, WindowPartition::import(spec, &mut from)?));
        }
        from.end()?;
        for (state, imported) in imported {
            *lock(state) = imported;
        }
        Ok(())
    }

    /// The batch that each window has of a partition, by number of window; none where nothing was
    /// installed.
    pub fn versions(&self, partition: usize) -> Vec<Option<BatchTime>> {
        let states = self.0.iter().map(|window| window.get(partition));
        states.map(|state| lock(state?).version()).collect()
    }

    /// The least batch among windows that something was installed in; none where there is no such.
    ///
    /// These windows need the batches after it, and installing those that some of them have already
    /// changes nothing. A window whose input has RDDs more rarely than others is behind them without
    /// lacking anything. A window that nothing was installed in does not count here: see
    /// [`Windows::versions`] for each.
    pub fn version(&self, partition: usize) -> Option<BatchTime> {
        self.versions(partition).into_iter().flatten().min()
    }

    /// Lets a partition's state go in all windows.
    pub fn clear(&self, partition: usize) -> Result<()> {
        for state in self.0.iter().filter_map(|window| window.get(partition)) {
            let mut state = lock(state);
            *state = WindowPartition::new(state.spec())?;
        }
        Ok(())
    }
}

fn lock(state: &Mutex<WindowPartition>) -> MutexGuard<'_, WindowPartition> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent(partition: usize) -> Error {
    wrong(format!("there is no partition {partition}"))
}

impl Installs for Windows {
    fn partitions(&self, window: usize) -> usize {
        self.0[window].len()
    }

    fn install(
        &self,
        window: usize,
        partition: usize,
        batch: BatchTime,
        delta: &[RecordBatch],
    ) -> Result<()> {
        let mut partition = self.lock(window, partition);
        partition.check_next(batch)?;
        partition.install(batch, delta)
    }

    fn read(&self, window: usize, partition: usize) -> Result<Vec<RecordBatch>> {
        self.lock(window, partition).read()
    }
}
