//! [`Lifetime`]: how long a state by closures holds a key.

use dstreams_control::BatchTime;

/// How long a state holds a key: whichever ends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lifetime {
    /// From the batch of its last event.
    pub timeout_ms: Option<u64>,
    /// From the batch of its first event.
    pub live_ms: Option<u64>,
}

impl Lifetime {
    /// When a key leaves whose first and last events were in these batches; [`BatchTime::MAX`] if it stays.
    #[inline]
    pub fn end(self, first: BatchTime, last: BatchTime) -> BatchTime {
        let after = |from: BatchTime, length: Option<u64>| {
            length.map_or(BatchTime::MAX, |length| from.plus(length))
        };
        after(last, self.timeout_ms).min(after(first, self.live_ms))
    }

    /// As text, the same in each program with these lengths.
    pub fn describe(self) -> String {
        let of = |what: &str, length: Option<u64>| length.map(|ms| format!("{what} {ms} ms"));
        let timeout = of("timeout", self.timeout_ms).unwrap_or_else(|| "no timeout".to_owned());
        match of("live", self.live_ms) {
            Some(live) => format!("{timeout}, {live}"),
            None => timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_end_counts() {
        let end = |timeout_ms, live_ms| {
            let lifetime = Lifetime {
                timeout_ms,
                live_ms,
            };
            lifetime.end(BatchTime(100), BatchTime(300))
        };
        assert_eq!(end(None, None), BatchTime::MAX);
        assert_eq!(end(Some(200), None), BatchTime(500));
        assert_eq!(end(None, Some(200)), BatchTime(300));
        assert_eq!(end(Some(100), Some(500)), BatchTime(400));
        assert_eq!(end(Some(u64::MAX), Some(u64::MAX)), BatchTime::MAX);
    }

    #[test]
    fn lengths_are_texts() {
        let text = |timeout_ms, live_ms| {
            Lifetime {
                timeout_ms,
                live_ms,
            }
            .describe()
        };
        assert_eq!(text(None, None), "no timeout");
        assert_eq!(text(Some(200), None), "timeout 200 ms");
        assert_eq!(text(None, Some(300)), "no timeout, live 300 ms");
    }
}
