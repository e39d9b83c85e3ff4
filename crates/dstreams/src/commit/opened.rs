//! [`OpenSinks`]: the sinks of a running program, and the batches that they have from earlier runs.
//!
//! A graceful stop commits its last batch ahead of the clock. The next run must not use that batch time again: its
//! sinks would consider the batch committed. If there is no journal to remember batch times, the sinks do
//! ([`Sink::open`]).

use std::sync::Arc;
use std::time::Duration;

use dstreams_control::{BatchTime, Restored, Timestamp};

use super::prepare::guard;
use crate::error::{Error, Result};
use crate::stream::graph::{Graph, GraphRef};
use crate::stream::output::{FencingToken, Output, Sink};

/// How far a batch may be ahead of the clock when a program starts, beside an interval: a clock that was set meanwhile
/// is off by seconds; more is a wrong clock or a wrong place, and nobody should wait for it.
const AHEAD: Duration = Duration::from_secs(60);

/// The open sinks; closed when this is dropped.
#[derive(Default)]
pub struct OpenSinks {
    sinks: Vec<Arc<dyn Sink>>,
    /// The newest batch of any sink, and the sink's name.
    newest: Option<(BatchTime, String)>,
}

impl OpenSinks {
    /// Opens all sinks of a graph, for this process of a program that is kept in a directory.
    pub(crate) async fn all(graph: &GraphRef, token: Option<&FencingToken>) -> Result<Self> {
        let sinks = sinks(&graph.lock());
        let mut opened = OpenSinks::default();
        for (sink, operator) in sinks {
            if let Some(token) = token {
                sink.fence(token);
            }
            let newest = guard(&operator, sink.open()).await?;
            opened.sinks.push(sink);
            let named = newest.map(|batch| (batch, operator.to_string()));
            opened.newest = opened.newest.take().max(named);
        }
        Ok(opened)
    }

    /// The batch time after which a run's first batch comes. Fails if outputs have batches that this program
    /// cannot have written.
    pub(crate) fn begin_after(
        &self,
        restored: &Restored,
        now: Timestamp,
        interval_ms: u64,
    ) -> Result<Option<BatchTime>> {
        let newest = self.newest.as_ref();
        if let Some(cut) = restored.last_cut {
            // A batch is in the journal before it takes effect.
            return match newest {
                Some((batch, output)) if *batch > cut => Err(foreign(
                    output,
                    format!(
                        "it has batch {batch}, and the last batch of this program is {cut}: batches up to that one \
                         would be considered committed. Another program has written to it, or the directory of this \
                         one is an old copy: give the output another place"
                    ),
                )),
                _ => Ok(None),
            };
        }
        let ahead = AHEAD.max(Duration::from_millis(interval_ms));
        if let Some((batch, output)) = newest
            && batch.timestamp().since(now) > ahead
        {
            let seconds = batch.timestamp().since(now).as_secs();
            return Err(foreign(
                output,
                format!(
                    "its newest batch, {batch}, is {seconds} seconds ahead of the clock: batches until then would be \
                     considered committed. Set the clock right, or give the output another place"
                ),
            ));
        }
        Ok(newest.map(|(batch, _)| *batch))
    }
}

fn foreign(output: &str, message: String) -> Error {
    Error::Sink {
        output: output.to_owned(),
        cause: Arc::from(crate::error::BoxError::from(message)),
    }
}

fn sinks(graph: &Graph) -> Vec<(Arc<dyn Sink>, crate::error::Operator)> {
    let outputs = graph.outputs.iter();
    let sinks = outputs.filter_map(|output| match &output.output {
        Output::Sink(sink) => Some((Arc::clone(sink), output.operator.clone())),
        Output::Rdd(_) => None,
    });
    sinks.collect()
}

impl Drop for OpenSinks {
    fn drop(&mut self) {
        self.sinks.iter().for_each(|sink| sink.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_500);

    fn opened(newest: Option<u64>) -> OpenSinks {
        OpenSinks {
            sinks: Vec::new(),
            newest: newest.map(|batch| (BatchTime(batch), "files".to_owned())),
        }
    }

    fn after(opened: &OpenSinks, last_cut: Option<u64>) -> Result<Option<u64>> {
        let restored = Restored {
            last_cut: last_cut.map(BatchTime),
            ..Restored::default()
        };
        let after = opened.begin_after(&restored, NOW, 100)?;
        Ok(after.map(|batch| batch.0))
    }

    #[test]
    fn batch_times_begin_after_the_newest_batch() {
        for newest in [None, Some(900_000), Some(1_000_100), Some(1_060_000)] {
            assert_eq!(after(&opened(newest), None).unwrap(), newest);
        }
    }

    #[test]
    fn sinks_far_ahead_of_the_clock_or_the_journal_are_refused() {
        let error = after(&opened(Some(1_060_100)), None).unwrap_err();
        assert!(error.to_string().contains("60 seconds ahead"), "{error}");
        let error = after(&opened(Some(900_100)), Some(900_000)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("last batch of this program is 900000 ms"),
            "{text}"
        );
        let found = after(&opened(Some(900_000)), Some(900_000)).unwrap();
        assert_eq!(found, None, "the journal continues after its last cut");
    }
}
