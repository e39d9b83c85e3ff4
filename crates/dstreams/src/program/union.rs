//! The union of many D-Streams.

use std::panic::Location;

use super::context::StreamContext;
use crate::error::{Error, Operator, Result};
use crate::stream::dstream::DStream;
use crate::stream::graph::Op;
use crate::stream::record::Record;
use crate::stream::same_context;

impl StreamContext {
    /// The records of all these streams, in their order: [`DStream::union`] of many. Nothing is copied.
    ///
    /// All must belong to this context and have RDDs at the same times. Refused without any.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let sites = ["berlin", "hamburg", "munich"];
    /// let sites = sites.map(|site| ctx.queue::<String>(site).1);
    /// let lines = ctx.union(&sites)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn union<'a, T: Record>(
        &self,
        streams: impl IntoIterator<Item = &'a DStream<T>>,
    ) -> Result<DStream<T>> {
        let operator = Operator::new("union", Location::caller());
        let mut inputs = Vec::new();
        for stream in streams {
            same_context(&self.graph, &stream.graph, &operator)?;
            inputs.push(stream.node);
        }
        match inputs[..] {
            [] => Err(Error::Graph {
                operator,
                message: "a union of no streams; give it one at least".into(),
            }),
            [only] => Ok(DStream::at(&self.graph, only)),
            _ => {
                let node = self.graph.add(Op::Union, inputs, T::schema(), operator)?;
                Ok(DStream::at(&self.graph, node))
            }
        }
    }
}
