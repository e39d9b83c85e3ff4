//! [`EachEvent`]: a closure for each event, for each timer that is due, and for each key that leaves.

use std::marker::PhantomData;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::key_state::KeyState;
use super::record::{
    Builder, ColumnReader, Columns, Key, Out, Record, batch_of, columns_of, finish_batch,
    records_of,
};
use super::rows::Closure;
use super::tracker::{Applied, DueCall, Events, LeftKeys, Tracker, Types};
use crate::error::Result;

/// A closure for keys that leave, with their last states.
pub(crate) type LastCall<K, S, M> =
    Box<dyn for<'k, 'o> Fn(<K as Record>::Ref<'k>, S, &mut Out<'o, M>) + Send + Sync>;

/// A closure for each event, for timers, and for keys that leave unless there is another one for these.
pub(crate) struct EachEvent<K: Key, V, S, M: Record, F> {
    call: F,
    last: Option<LastCall<K, S, M>>,
    /// Whether it makes records, and is called without an event.
    maps: bool,
    types: Types<K, V, S, M>,
}

impl<K, V, S, M, F> EachEvent<K, V, S, M, F>
where
    K: Key,
    V: Record,
    S: Record,
    M: Record,
    F: for<'a> Fn(K::Ref<'a>, Option<V::Ref<'a>>, &mut KeyState<S>, &mut Out<'_, M>) + Closure,
{
    /// A closure for events alone, which makes no records.
    pub fn of_events(call: F) -> Self {
        EachEvent {
            call,
            last: None,
            maps: false,
            types: PhantomData,
        }
    }

    /// A closure that makes records, and perhaps another one for keys that leave.
    pub fn that_maps(call: F, last: Option<LastCall<K, S, M>>) -> Self {
        EachEvent {
            maps: true,
            last,
            ..EachEvent::of_events(call)
        }
    }

    /// The calls for keys whose time has come.
    fn due_calls(
        &self,
        events: &Events<'_>,
        states: &mut [KeyState<S>],
        made: &mut M::Builder,
    ) -> Result<LeftKeys> {
        let (mut left, mut left_states) = (Vec::new(), Vec::new());
        let mut in_vain = 0;
        let mut leaving = Leaving::<K, S>::new(events)?;
        let woken = columns_of::<K>(events.woken)?;
        let later = |due: &DueCall| matches!(due, DueCall::LeavesLater(_));
        // The keys that leave later in a row are one run; any other call is one.
        let runs = (events.due).chunk_by(|one, next| later(one) && later(next));
        for run in runs {
            match *run {
                [DueCall::Leaves] => {
                    let call = |key: K::Ref<'_>, state| self.last_call(key, state, events, made);
                    in_vain += leaving.next(call)?.map_or(0, usize::from);
                }
                [DueCall::Wakes(key)] => {
                    let state = &mut states[key as usize];
                    state.wake();
                    let of = woken.get(key as usize);
                    (self.call)(of, None, state, &mut Out::new(made));
                    state.settle();
                }
                _ => {
                    let (keys, gone) = leave_later(run, states);
                    if keys.is_empty() {
                        continue;
                    }
                    let gone = batch_of(gone)?;
                    for (key, state) in keys.iter().zip(records_of::<S>(&gone)?) {
                        let of = woken.get(*key as usize);
                        in_vain += usize::from(self.last_call(of, state, events, made));
                    }
                    left.extend(keys);
                    left_states.push(gone);
                }
            }
        }
        if in_vain > 0 {
            tracing::error!(
                keys = in_vain,
                "expired keys were given new states or timers, which had no effect; check `is_timing_out` before \
                 `set` and `wake_at`, or use `on_timeout`"
            );
        }
        Ok(LeftKeys {
            keys: left,
            states: concat_batches(&S::schema(), &left_states)?,
        })
    }

    /// The call for a key that leaves; returns whether it set what cannot be set.
    fn last_call(
        &self,
        key: K::Ref<'_>,
        state: S,
        events: &Events<'_>,
        made: &mut M::Builder,
    ) -> bool {
        let out = &mut Out::new(made);
        if let Some(last) = &self.last {
            last(key, state, out);
            return false;
        }
        let mut state = KeyState::timing_out(state, events.time);
        (self.call)(key, None, &mut state, out);
        state.was_set_in_vain()
    }
}

impl<K, V, S, M, F> Tracker for EachEvent<K, V, S, M, F>
where
    K: Key,
    V: Record,
    S: Record,
    M: Record,
    F: for<'a> Fn(K::Ref<'a>, Option<V::Ref<'a>>, &mut KeyState<S>, &mut Out<'_, M>) + Closure,
{
    fn apply(&self, events: &Events<'_>) -> Result<Applied> {
        let mut made = M::Builder::default();
        let timer = |key: usize| events.timers.get(key).copied().unwrap_or(BatchTime::MAX);
        let states = events.states_by_key()?.enumerate();
        let states = states.map(|(key, state)| KeyState::of(state, timer(key), events.time));
        let mut states: Vec<KeyState<S>> = states.collect();
        let left = match self.maps && !events.due.is_empty() {
            true => Some(self.due_calls(events, &mut states, &mut made)?),
            false => None,
        };
        for (rows, key_of) in events.rows.iter().zip(events.key_of) {
            let keys = columns_of::<K>(rows)?;
            let values = V::Cols::try_new(&mut ColumnReader::new(&rows.columns()[events.skip..]))?;
            for (row, key) in key_of.iter().enumerate() {
                let (of, value) = (keys.get(row), values.get(row));
                let state = &mut states[*key];
                (self.call)(of, Some(value), state, &mut Out::new(&mut made));
                state.settle();
            }
        }
        let timers: Vec<BatchTime> = match states.iter().all(|it| it.timer() == BatchTime::MAX) {
            true => Vec::new(),
            false => states.iter().map(KeyState::timer).collect(),
        };
        let states = states.into_iter();
        let mut applied = Applied::of(states.map(|state| (state.is_fresh(), state.into_state())))?;
        if !timers.is_empty() {
            let kept = applied.live.iter();
            applied.timers = kept.map(|key| timers[*key as usize]).collect();
        }
        applied.left = left;
        if self.maps {
            applied.mapped = Some(finish_batch(&M::schema(), &mut made)?);
        }
        debug_assert!(made.is_empty());
        Ok(applied)
    }

    fn mapped(&self) -> Option<SchemaRef> {
        self.maps.then(M::schema)
    }
}

/// Takes out the states of keys that leave after they were woken; without keys that were removed then.
fn leave_later<S>(calls: &[DueCall], states: &mut [KeyState<S>]) -> (Vec<u32>, Vec<S>) {
    let leaves = calls.iter().filter_map(|call| match *call {
        DueCall::LeavesLater(key) => Some((key, states[key as usize].leave()?)),
        DueCall::Leaves | DueCall::Wakes(_) => None,
    });
    leaves.unzip()
}

/// The keys that leave without being woken before, in the order of their calls.
struct Leaving<'a, K: Record, S: Record> {
    rest: std::slice::Iter<'a, RecordBatch>,
    skip: usize,
    /// Keys and states of some of them, their number, and the place of the next one.
    some: Option<(K::Cols, S::Cols)>,
    rows: usize,
    next: usize,
}

impl<'a, K: Record, S: Record> Leaving<'a, K, S> {
    fn new(events: &Events<'a>) -> Result<Self> {
        let mut leaving = Leaving {
            rest: events.timed_out.iter(),
            skip: events.skip,
            some: None,
            rows: 0,
            next: 0,
        };
        leaving.read()?;
        Ok(leaving)
    }

    /// Reads the next rows.
    fn read(&mut self) -> Result<()> {
        let Some(rows) = self.rest.find(|rows| rows.num_rows() > 0) else {
            self.some = None;
            return Ok(());
        };
        let keys = columns_of::<K>(rows)?;
        let states = S::Cols::try_new(&mut ColumnReader::new(&rows.columns()[self.skip..]))?;
        (self.some, self.rows, self.next) = (Some((keys, states)), rows.num_rows(), 0);
        Ok(())
    }

    /// Calls with the next one.
    fn next<R>(&mut self, call: impl FnOnce(K::Ref<'_>, S) -> R) -> Result<Option<R>> {
        let called = self.some.as_ref().map(|(keys, states)| {
            let row = self.next;
            call(keys.get(row), S::own(states.get(row)))
        });
        self.next += 1;
        if self.next == self.rows {
            self.read()?;
        }
        Ok(called)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use datafusion::arrow::array::{ArrayRef, BooleanArray};
    use datafusion::arrow::datatypes::Field;

    use super::super::record::RecordShape;
    use super::*;

    thread_local! {
        /// How many builders of states there were.
        static BUILDERS: Cell<usize> = const { Cell::new(0) };
    }

    /// A number that counts its builders.
    struct Counted(i64);

    struct CountedBuilder(<i64 as Record>::Builder);

    impl Default for CountedBuilder {
        fn default() -> Self {
            BUILDERS.set(BUILDERS.get() + 1);
            CountedBuilder(Default::default())
        }
    }

    impl Builder for CountedBuilder {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
            self.0.finish(out)
        }
    }

    struct CountedCols(<i64 as Record>::Cols);

    impl Columns<Counted> for CountedCols {
        fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
            Ok(CountedCols(<i64 as Record>::Cols::try_new(reader)?))
        }
        fn get(&self, row: usize) -> i64 {
            self.0.get(row)
        }
    }

    impl Record for Counted {
        type Ref<'a> = i64;
        type Cols = CountedCols;
        type Builder = CountedBuilder;
        const SHAPE: RecordShape = RecordShape::Leaf;
        fn fields(name: &str, out: &mut Vec<Field>) {
            i64::fields(name, out);
        }
        fn own(row: i64) -> Self {
            Counted(row)
        }
        fn append(self, to: &mut CountedBuilder) {
            self.0.append(&mut to.0);
        }
        fn append_ref(row: i64, to: &mut CountedBuilder) {
            i64::append_ref(row, &mut to.0);
        }
        fn append_null(to: &mut CountedBuilder) {
            i64::append_null(&mut to.0);
        }
    }

    #[test]
    fn keys_that_leave_in_a_row_have_one_batch() {
        const KEYS: u32 = 1_000;
        let call = |_: i64, _: Option<i64>, _: &mut KeyState<Counted>, _: &mut Out<'_, i64>| {};
        let each = EachEvent::<i64, i64, Counted, i64, _>::that_maps(call, None);
        let woken = batch_of(0..i64::from(KEYS)).unwrap();
        let states = batch_of((0..i64::from(KEYS)).map(Counted)).unwrap();
        let wakes = (0..KEYS).map(DueCall::Wakes);
        let due: Vec<DueCall> = wakes.chain((0..KEYS).map(DueCall::LeavesLater)).collect();
        let has_state = BooleanArray::from(vec![true; KEYS as usize]);
        BUILDERS.set(0);
        let applied = each.apply(&Events {
            time: BatchTime(100),
            has_state: &has_state,
            states,
            rows: &[],
            key_of: &[],
            skip: 1,
            timers: &[],
            timed_out: &[],
            woken: &woken,
            due: &due,
        });
        // Another one is of the states that stay.
        assert_eq!(BUILDERS.get(), 2);
        let left = applied.unwrap().left.unwrap();
        assert_eq!(left.keys, Vec::from_iter(0..KEYS));
        let states = records_of::<i64>(&left.states).unwrap();
        assert_eq!(states, Vec::from_iter(0..i64::from(KEYS)));
    }
}
