//! The rest of [`every_operator`](crate::every_operator): times of batches, and operators made of others.

use std::time::Duration;

use dstreams::{DStream, KeyState, MapWithState, Out, StreamContext};

use crate::every_operator::{Row, Watch};

pub fn further_operators(_ctx: &StreamContext, rows: &DStream<Row>, watch: &Watch) {
    times(rows, watch);
}

fn times(rows: &DStream<Row>, watch: &Watch) {
    watch.on("with_time", &rows.with_time());
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    watch.on("with_time of values", &keyed.with_time().pairs());
    let times = keyed.update_state_by_key("times", |_: &str, values, first: Option<u64>| {
        Some(first.unwrap_or(values.time().millis()))
    });
    watch.on("times of values", &times.unwrap().changes().pairs());
    let calls = MapWithState::new(
        |key, value: Option<(&str, i64, f64)>, state: &mut KeyState<u64>, out: &mut Out<'_, _>| {
            out.push((key, state.time().millis(), value.is_none()));
            state.set(0);
        },
    );
    let calls = calls.timeout(Duration::from_millis(200));
    let calls = keyed.map_with_state::<u64, (String, u64, bool)>("calls", calls);
    watch.on("times of calls", &calls.unwrap().0);
}
