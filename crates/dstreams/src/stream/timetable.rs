//! [`Timetable`]: the batch times at which a D-Stream has RDDs.

use dstreams_control::BatchTime;

/// The batch times at which a D-Stream has RDDs: a multiple of `slide_ms`, and `shift_ms` after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timetable {
    /// The time between two RDDs, in milliseconds.
    pub slide_ms: u64,
    /// How much later than its interval an RDD is there, in milliseconds.
    pub shift_ms: u64,
}

impl Timetable {
    /// Whether there is an RDD at a batch time.
    pub fn has(&self, batch: BatchTime) -> bool {
        let late = self.shift_ms.checked_rem(self.slide_ms).unwrap_or_default();
        // Before the first interval too: the difference is not negative.
        batch
            .plus(self.slide_ms - late)
            .is_multiple_of(self.slide_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rdd_is_there_a_shift_after_its_interval() {
        let times = |slide_ms, shift_ms| {
            let timetable = Timetable { slide_ms, shift_ms };
            let times = (1..=10).map(|n| 100 * n);
            let times = times.filter(|time| timetable.has(BatchTime(*time)));
            times.collect::<Vec<u64>>()
        };
        assert_eq!(times(300, 0), [300, 600, 900]);
        assert_eq!(times(300, 100), [100, 400, 700, 1000]);
        assert_eq!(times(300, 500), [200, 500, 800]);
        assert_eq!(times(500, 1000), [500, 1000]);
    }
}
