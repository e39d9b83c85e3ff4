//! Describes a program's graph before it runs.

use super::context::StreamContext;

impl StreamContext {
    /// The graph so far, as text: each D-Stream by its operator and the source location that built it, with its
    /// inputs, state, columns and readers, and the plan of each query; then the outputs.
    ///
    /// `by key` and `to one partition` mean that records are moved before the operator runs, unless the batch is a
    /// single task; records for a state always are. What a query moves follows from its plan, and is not said. The
    /// text is for readers, and may change.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, agg::count};
    ///
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, words) = ctx.queue::<String>("words");
    /// words.keyed().running_agg("counts", count())?.changes().print(10);
    /// let text = ctx.explain();
    /// assert!(text.starts_with("every 1000 ms\n0: `queue` at "));
    /// assert!(text.contains(" of 1, by key; state `counts`: count\n"));
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn explain(&self) -> String {
        self.graph.lock().explain()
    }

    /// The same as a flowchart in the language of [Mermaid](https://mermaid.js.org), which renders in Markdown on
    /// GitHub and elsewhere: inputs are rounded, states are cylinders, outputs slanted.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.queue::<i64>("numbers").1.filter(|n| n > 0).print(10);
    /// let picture = ctx.explain_mermaid();
    /// assert!(picture.starts_with("flowchart TD\n"));
    /// assert!(picture.contains("n0 --> n1\n"));
    /// std::fs::write(std::env::temp_dir().join("graph.mmd"), picture).unwrap();
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn explain_mermaid(&self) -> String {
        self.graph.lock().explain_mermaid()
    }
}
