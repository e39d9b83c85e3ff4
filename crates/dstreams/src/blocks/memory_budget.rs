//! The limit on memory for received records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::debug::debug_as;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that received records may use together. Waiting for some is backpressure on a fast producer.
#[derive(Clone)]
pub struct Budget {
    /// Free memory in units.
    free: Arc<Semaphore>,
    total: usize,
    /// Bytes of a unit: the semaphore counts one request in 32 bits.
    unit: usize,
    lifted: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    /// Bytes of incomplete long lines: see [`Budget::unfinished`].
    unfinished: Arc<AtomicUsize>,
}

debug_as!(Budget { total });

/// Bytes more than any program takes.
const UNLIMITED_PERMITS: usize = Semaphore::MAX_PERMITS / 2;

/// Bytes taken from the budget; returned when dropped.
pub struct BudgetShare {
    units: OwnedSemaphorePermit,
    /// Bytes of each unit.
    unit: usize,
}

debug_as!(BudgetShare { unit });

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let total = bytes.max(1);
        let unit = total.div_ceil(u32::MAX as usize);
        Budget {
            free: Arc::new(Semaphore::new(total / unit)),
            total,
            unit,
            lifted: Arc::default(),
            waiting: Arc::default(),
            unfinished: Arc::default(),
        }
    }

    /// Memory for the beginning of a long line, beside the budget, while its producer sends nothing: such lines
    /// could otherwise hold the budget forever. Up to half the budget in total; `None` if that is used up.
    pub fn unfinished(&self, bytes: usize) -> Option<Unfinished> {
        let most = self.total / 2;
        let held = self.unfinished.fetch_add(bytes, Ordering::Relaxed);
        let it = Unfinished(Arc::clone(&self.unfinished), bytes);
        (held + bytes <= most || self.lifted.load(Ordering::Relaxed)).then_some(it)
    }

    /// Lifts the limit at the end of a program: received records must get through, and those that hold the memory
    /// may not be in a batch before the end.
    pub fn lift(&self) {
        if !self.lifted.swap(true, Ordering::Relaxed) {
            self.free.add_permits(UNLIMITED_PERMITS);
        }
    }

    /// Waits for `bytes`, in order of arrival. A request beyond the whole budget counts as the whole: such a
    /// record goes through alone.
    pub async fn take(&self, bytes: usize) -> BudgetShare {
        let _waiting = Waiting::new(&self.waiting);
        let most = self.total / self.unit;
        let units = bytes.div_ceil(self.unit).clamp(1, most);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.free).acquire_many_owned(units).await;
        match permit {
            Ok(units) => BudgetShare {
                units,
                unit: self.unit,
            },
            // Nothing closes the semaphore.
            Err(closed) => unreachable!("budget closed: {closed}"),
        }
    }

    /// Whether a producer waits: then release memory that is only reserved for later.
    pub fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// All bytes of the budget.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        let free = self.free.available_permits();
        let lifted = self.lifted.load(Ordering::Relaxed);
        let total = self.total / self.unit + if lifted { UNLIMITED_PERMITS } else { 0 };
        self.unit * total.saturating_sub(free)
    }
}

/// Bytes of a line that is not whole; given back when dropped.
#[derive(Debug)]
pub struct Unfinished(Arc<AtomicUsize>, usize);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Counts waiting producers, also if the wait is cancelled.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BudgetShare {
    /// Splits off `bytes`, or as many as there are.
    pub fn split(&mut self, bytes: usize) -> Option<BudgetShare> {
        let units = bytes.div_ceil(self.unit).min(self.units.num_permits());
        Some(BudgetShare {
            units: self.units.split(units)?,
            unit: self.unit,
        })
    }

    /// Merges `other`, which must be of the same budget.
    pub fn merge(&mut self, other: BudgetShare) {
        self.units.merge(other.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also a size beyond 32 bits.
    #[tokio::test]
    async fn budgets_beyond_32_bits_count_exactly() {
        let gib = 1 << 30;
        let budget = Budget::new(20 * gib);
        let near = |used: usize, bytes: usize| used.abs_diff(bytes) < 1 << 10;
        let mut nineteen = Vec::new();
        for _ in 0..19 {
            nineteen.push(budget.take(gib).await);
        }
        assert!(near(budget.used(), 19 * gib), "{}", budget.used());
        let half = nineteen[0].split(gib / 2).unwrap();
        drop(half);
        assert!(near(budget.used(), 18 * gib + gib / 2), "{}", budget.used());
        drop(nineteen);
        // A request beyond the budget counts as the whole, and goes through alone.
        let all = budget.take(usize::MAX).await;
        assert!(near(budget.used(), 20 * gib), "{}", budget.used());
        drop(all);
        assert_eq!(budget.used(), 0);
    }
}
