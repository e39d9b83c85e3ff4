//! The rest of [`every_operator`](crate::every_operator): times of batches, and operators made of others.

use std::time::Duration;

use dstreams::agg::{avg_of, count, max_of, sum_of};
use dstreams::{DStream, KeyState, MapWithState, Out, Sessions, StreamContext};

use crate::every_operator::{Row, Watch};

pub fn further_operators(ctx: &StreamContext, rows: &DStream<Row>, watch: &Watch) {
    times(rows, watch);
    pairs(ctx, rows, watch);
    folds(rows, watch);
    partitions(rows, watch);
    windows(rows, watch);
    functions(ctx, rows, watch);
    sessions(rows, watch);
    timeouts(rows, watch);
}

fn timeouts(rows: &DStream<Row>, watch: &Watch) {
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    let agg = (avg_of::<f64>("_3"), count());
    let forgotten = keyed.running_agg_for("forgotten", Duration::from_millis(200), agg);
    let forgotten = forgotten.unwrap();
    watch.on("changes of what is forgotten", &forgotten.changes().pairs());
    watch.on("all that is not forgotten", &forgotten.all().pairs());
    watch.on("what is forgotten", &forgotten.timed_out().pairs());
}

/// Of records before, in and after the batches.
fn sessions(rows: &DStream<Row>, watch: &Watch) {
    let ms = Duration::from_millis;
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    let time = |(_, n, x): (&str, i64, f64)| (220.0 + 60.0 * n as f64 + x / 1e8) as i64;
    let agg = (sum_of::<f64>("_3"), max_of::<i64>("_2"), count());
    let lengths = Sessions::gap(ms(100)).slack(ms(100));
    let sessions = keyed.session_agg("sessions", time, lengths, agg);
    let sessions = sessions.unwrap();
    watch.on("sessions that end", &sessions.ended().pairs());
    watch.on("open sessions", &sessions.open().pairs());
    watch.on("late for sessions", &sessions.late().pairs());
    let cut = keyed.session_agg("cut", time, lengths.longest(ms(200)), sum_of::<f64>("_3"));
    let cut = cut.unwrap();
    watch.on("sessions that are cut", &cut.ended().pairs());
    watch.on("open sessions that are cut", &cut.open().pairs());
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

fn pairs(ctx: &StreamContext, rows: &DStream<Row>, watch: &Watch) {
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    let filtered = keyed.filter(|key, (_, n, _)| key.len() > 1 && n > -3);
    watch.on("filter of pairs", &filtered.pairs());
    let values = keyed.flat_map_values::<(String, i64)>(|(text, n, _), out| {
        text.split('a').for_each(|part| out.push((part, n)));
    });
    watch.on("flat_map_values", &values.pairs());
    watch.on("values", &values.values());
    let sums = "select key, sum(value_3) from this group by key";
    watch.on("sql of pairs", &keyed.sql::<(String, f64)>(sums).unwrap());
    watch.on("count_by_key", &keyed.count_by_key().pairs());
    watch.on("union of pairs", &keyed.union(&filtered).unwrap().pairs());
    let numbers = rows.map(|(text, n, _)| (text.to_owned(), n));
    watch.on("distinct", &numbers.distinct());
    watch.on("distinct pairs", &numbers.by_key().distinct().pairs());
    watch.on("count_by_value", &numbers.count_by_value().pairs());
    let parts = [0, 1, 2].map(|part| rows.filter(move |(_, n, _)| n.rem_euclid(3) == part));
    watch.on("union of many", &ctx.union(&parts).unwrap());
}

fn folds(rows: &DStream<Row>, watch: &Watch) {
    let longer = |a: Row, b: Row| match b.0.len() > a.0.len() {
        true => (b.0, a.1 + b.1, a.2 + b.2),
        false => (a.0, a.1 + b.1, a.2 + b.2),
    };
    watch.on("reduce of all", &rows.reduce(longer));
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    let combined = keyed.combine_by_key(
        |(_, n, x)| (1i64, n, x),
        |(count, sum, all), (_, n, x)| (count + 1, sum + n, all + x),
        |(k, m, a), (l, n, b)| (k + l, m + n, a + b),
    );
    watch.on("combine_by_key", &combined.pairs());
}

fn partitions(rows: &DStream<Row>, watch: &Watch) {
    let mapped = rows.map_partitions::<(String, i64)>(|rows, out| {
        for (text, n, _) in rows {
            (0..n.rem_euclid(4)).for_each(|copy| out.push((text, copy)));
        }
    });
    watch.on("map_partitions", &mapped);
    let dealt = rows.repartition(3).unwrap();
    watch.on("repartition", &dealt);
    // Behind it there are as many tasks; and a state, and a gathering.
    let behind = dealt.map(|(text, n, x)| (text.to_owned(), (n, x)));
    watch.on("behind a repartition", &behind);
    let totals = behind
        .by_key()
        .running_agg("dealt", (count(), sum_of::<f64>("value")));
    watch.on("a state behind it", &totals.unwrap().changes().pairs());
    watch.on(
        "many of few",
        &dealt.filter(|(_, n, _)| n == 0).repartition(7).unwrap(),
    );
}

fn windows(rows: &DStream<Row>, watch: &Watch) {
    let ms = Duration::from_millis;
    let (three, two, one) = (ms(300), ms(200), ms(100));
    let all = rows.window_agg(
        three,
        one,
        (count(), sum_of::<f64>("_3"), max_of::<i64>("_2")),
    );
    watch.on("window of all", &all.unwrap());
    let named = rows.named_window_agg("all", three, two, sum_of::<i64>("_2"));
    watch.on("named window of all", &named.unwrap());
    watch.on(
        "count_by_window",
        &rows.count_by_window(three, two).unwrap(),
    );
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    let floats = keyed.map_values(|(_, _, x)| x);
    let plain = floats.reduce_by_window("plain", three, one, |a, b| a + b);
    watch.on("reduce_by_window", &plain.unwrap().pairs());
    let inverse =
        floats.reduce_by_window_with_inverse("inverse", three, two, |a, b| a + b, |a, b| a - b);
    watch.on("with an inverse", &inverse.unwrap().pairs());
    let longest = |a: String, b: String| if (b.len(), &b) > (a.len(), &a) { b } else { a };
    let texts = rows.map(|(text, _, _)| text.to_owned());
    let longest = texts.reduce_by_window("longest", three, two, longest);
    watch.on("the longest in a window", &longest.unwrap());
}

fn functions(ctx: &StreamContext, rows: &DStream<Row>, watch: &Watch) {
    let again = |(text, n): (&str, i64)| text.repeat(n.max(0) as usize);
    ctx.register_fn::<(String, i64), String>("again", again)
        .unwrap();
    let query = "select again(_1, _2) as t, sum(_3) as x from this group by again(_1, _2)";
    watch.on("functions", &rows.sql::<(String, f64)>(query).unwrap());
}
