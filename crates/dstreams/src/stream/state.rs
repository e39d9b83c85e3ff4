//! Keyed state: what a program remembers of each key for as long as it runs.

use std::marker::PhantomData;
use std::panic::Location;

use super::agg::Agg;
use super::graph::{GraphRef, NodeId, Op};
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::track::Track;
use super::window;
use crate::error::{Error, Operator, Result};

/// The state of a keyed operator: a value of type `S` for each key of type `K`, with a version for each
/// batch.
pub struct State<K, S> {
    graph: GraphRef,
    node: NodeId,
    pair: PhantomData<fn() -> (K, S)>,
}

impl<K, S> Clone for State<K, S> {
    fn clone(&self) -> Self {
        State {
            graph: self.graph.clone(),
            node: self.node,
            pair: PhantomData,
        }
    }
}

impl<K: Key, S: Record> State<K, S> {
    /// What each batch changed: the keys it gave a new value, with that. O(changes).
    ///
    /// A key that was dropped is not among them.
    #[track_caller]
    pub fn changes(&self) -> Keyed<K, S> {
        self.read(false, Operator::new("changes", Location::caller()))
    }

    /// The whole state as of each batch, in an order that depends on the batches alone. O(keys held).
    #[track_caller]
    pub fn all(&self) -> Keyed<K, S> {
        self.read(true, Operator::new("all", Location::caller()))
    }

    fn read(&self, whole: bool, operator: Operator) -> Keyed<K, S> {
        let op = Op::Held { whole };
        let node = self
            .graph
            .add_to(self.node, op, <(K, S)>::schema(), operator);
        Keyed::at(&self.graph, node)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Aggregates the values of each key over all batches so far: the paper's `runningReduce`.
    ///
    /// `name` names the state: in checkpoints, in messages. A batch costs O(its keys), however many are
    /// held. State is never dropped: see [`Keyed::track`] for one with a timeout.
    ///
    /// ```
    /// use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let (_, words) = ctx.queue::<String>("words");
    /// let counts = words.keyed().running_agg("counts", count())?;
    /// counts.changes().print(10); // words that came in this batch, with their counts so far
    /// counts.all().top(10).print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused as [`Keyed::window_agg`] is, or if another state has the name.
    #[track_caller]
    pub fn running_agg<A: Agg<V>>(&self, name: &str, agg: A) -> Result<State<K, A::Out>> {
        let operator = Operator::new("running_agg", Location::caller());
        let plan = Self::resolve(&agg, &operator)?;
        window::check_columns(&plan, &<(K, V)>::schema(), &operator)?;
        let (name, keys) = (name.to_owned(), Self::key_columns());
        let schema = <(K, A::Out)>::schema();
        self.state(Op::Running { name, keys, plan }, schema, operator)
    }

    /// Keeps a state for each key by closures: the paper's `track`.
    ///
    /// The first event of a key goes to `initialize` only; each later one, in order of arrival, to
    /// `update`, which gives the new state, or none to drop the key. With a timeout, a key is dropped at the
    /// first batch that comes so long after the batch of its last event. A batch costs O(its events + keys
    /// that expire), however many are held. Paper: section 3.2.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, Track};
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// let sessions = clicks.by_key().track(
    ///     "sessions",
    ///     Track::new(|_user, price| price, |_user, spent: i64, price| Some(spent + price))
    ///         .timeout(Duration::from_secs(600)),
    /// )?;
    /// sessions.changes().print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused if another state has the name, or the timeout is no multiple of the interval at which this
    /// stream has RDDs.
    #[track_caller]
    pub fn track<S: Record>(&self, name: &str, track: Track<K, V, S>) -> Result<State<K, S>> {
        let operator = Operator::new("track", Location::caller());
        let every = self.graph.lock().node(self.node).slide_ms;
        let timeout = track
            .timeout
            .map(|timeout| window::multiple_of(every, timeout, "timeout", &operator));
        let op = Op::Tracked {
            name: name.to_owned(),
            keys: Self::key_columns(),
            timeout_ms: timeout.transpose()?,
            tracker: track.into_tracker(),
        };
        self.state(op, <(K, S)>::schema(), operator)
    }

    fn state<S>(
        &self,
        op: Op,
        schema: datafusion::arrow::datatypes::SchemaRef,
        operator: Operator,
    ) -> Result<State<K, S>> {
        let mut graph = self.graph.lock();
        let taken = op.state_name().is_some_and(|name| {
            let mut names = graph.nodes.iter().filter_map(|node| node.op.state_name());
            names.any(|known| known == name)
        });
        if taken {
            let name = op.state_name().unwrap_or_default();
            return Err(Error::Graph {
                message: format!("another state is called `{name}`; give each a name of its own"),
                operator,
            });
        }
        let every = graph.node(self.node).slide_ms;
        let node = graph.push(op, vec![self.node], schema, operator, every);
        drop(graph);
        Ok(State {
            graph: self.graph.clone(),
            node,
            pair: PhantomData,
        })
    }
}
