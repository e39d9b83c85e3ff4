//! Every operator, in one program: engines must agree on all of them.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::agg::{
    avg, avg_of, count, max, max_of, max_some, min_of, stddev_pop_of, sum, sum_of, sum_some,
    var_pop, var_samp, var_samp_of,
};
use dstreams::arrow::util::pretty::pretty_format_batches;
use dstreams::datafusion::datasource::MemTable;
use dstreams::record::batch_of;
use dstreams::{
    AsOf, DStream, Intervals, KeyState, Keyed, MapWithState, Out, Record, Slack, StreamContext,
    Track, Within,
};
use proptest::prelude::*;

use crate::program::text;

/// The input of every operator below.
pub type Row = (String, i64, f64);

pub fn row() -> impl Strategy<Value = Row> {
    (text(), -5..6i64, -1e9..1e9f64)
}

/// Output name, batch time, partitions as text: partitions and rows in their order.
pub type Outcome = (&'static str, u64, Vec<String>);
pub type Log = Arc<Mutex<Vec<Outcome>>>;

/// The log since the last call.
pub fn take(log: &Log) -> Vec<Outcome> {
    std::mem::take(&mut *log.lock().unwrap())
}

/// Logs the data of outputs.
pub struct Watch(pub Log);

impl Watch {
    pub fn on<T: Record>(&self, name: &'static str, stream: &DStream<T>) {
        let log = Arc::clone(&self.0);
        stream.for_each_rdd(move |rdd| {
            let partitions = rdd.partitions().iter().map(|batches| {
                // One table, regardless of the sizes of its Arrow batches.
                pretty_format_batches(batches).unwrap().to_string()
            });
            log.lock()
                .unwrap()
                .push((name, rdd.batch_time().0, partitions.collect()));
        });
    }
}

/// Every operator.
pub fn every_operator(ctx: &StreamContext, rows: &DStream<Row>, watch: &Watch) {
    let dim: Vec<(i64, String)> = (-2..9).map(|n| (n, format!("dimension {n}"))).collect();
    let dim = batch_of(dim).unwrap();
    let table = MemTable::try_new(dim.schema(), vec![vec![dim]]).unwrap();
    ctx.register_table("dim", Arc::new(table));
    let ms = Duration::from_millis;
    watch.on(
        "map",
        &rows.map(|(text, n, x)| (text.len() as i64 + n, x.sqrt())),
    );
    watch.on("filter", &rows.filter(|(_, n, _)| n > 0));
    let words =
        rows.flat_map::<String>(|(text, _, _), out| text.split(' ').for_each(|w| out.push(w)));
    watch.on("flat_map", &words);
    watch.on("count", &words.count().unwrap());
    let keyed = rows.key_by(|(text, _, _)| text.to_owned());
    watch.on("key_by", &keyed.pairs());
    let keyed = rows.key_by_into::<String>(|(text, _, _), key| key.push(text));
    watch.on("key_by_into", &keyed.pairs());
    let floats = keyed.map_values(|(_, _, x)| x);
    watch.on("map_values", &floats.pairs());
    watch.on(
        "agg",
        &keyed
            .agg((count(), sum_of::<f64>("_3"), avg_of::<f64>("_3")))
            .unwrap()
            .pairs(),
    );
    watch.on(
        "agg of texts",
        &keyed
            .agg((max_of::<String>("_1"), min_of::<i64>("_2")))
            .unwrap()
            .pairs(),
    );
    let spread = (
        var_samp_of::<f64>("_3"),
        stddev_pop_of::<i64>("_2"),
        count(),
    );
    watch.on("agg of variances", &keyed.agg(spread).unwrap().pairs());
    watch.on("reduce", &floats.reduce(|a, b| a + b).pairs());
    watch.on("top", &floats.top(3));
    watch.on(
        "union",
        &rows.union(&rows.filter(|(_, n, _)| n < 0)).unwrap(),
    );
    let numbers = rows
        .filter(|(_, n, _)| n > 0)
        .key_by(|(text, _, _)| text.to_owned());
    let joined = keyed.join(&numbers.map_values(|(_, n, _)| n)).unwrap();
    watch.on("join of streams", &joined.pairs());
    watch.on(
        "self join of streams",
        &numbers.join(&numbers).unwrap().pairs(),
    );
    let (ours, theirs) = (&floats, &numbers);
    watch.on("left_join", &ours.left_join(theirs).unwrap().pairs());
    watch.on("right_join", &theirs.right_join(ours).unwrap().pairs());
    watch.on("full_join", &ours.full_join(theirs).unwrap().pairs());
    watch.on("cogroup", &theirs.cogroup(ours).unwrap().pairs());
    watch.on("group_by_key", &floats.group_by_key().pairs());
    let near = Within::new(ms(100), ms(200)).max_records(4);
    let near = ours.join_within("near", theirs, near).unwrap();
    watch.on("join_within", &near.pairs().pairs());
    watch.on("first_unmatched", &near.first_unmatched().pairs());
    watch.on("second_unmatched", &near.second_unmatched().pairs());
    watch.on("refused", &near.refused().pairs());
    let (three, one) = (ms(300), ms(100));
    let window = keyed
        .window_agg(three, one, (count(), sum_of::<i64>("_2")))
        .unwrap();
    watch.on("window", &window.pairs());
    watch.on("top of a window", &window.top(2));
    let recent = rows.window(three, one).unwrap();
    watch.on("window of records", &recent);
    let query = "select _1, sum(_3) as x from this group by _1";
    watch.on(
        "sql of a window",
        &recent.sql::<(String, f64)>(query).unwrap(),
    );
    let pairs = floats.window(ms(400), ms(200)).unwrap();
    watch.on("window of pairs", &pairs.pairs());
    watch.on("reduce of a window", &pairs.reduce(|a, b| a + b).pairs());
    watch.on("past", &rows.past(ms(200)).unwrap());
    watch.on("delayed", &floats.delayed(ms(200)).unwrap().pairs());
    let late = rows.delayed(ms(100)).unwrap().window(three, ms(200));
    watch.on("window of a delayed stream", &late.unwrap());
    watch.on("latest", &pairs.latest().pairs());
    rows.remember("remembered", three).unwrap();
    // In batches of 100 ms, the first of which are those of the test: times around them.
    let slack = Slack::of(ms(200)).ahead(ms(100));
    let timed = rows.by_time(
        "timed",
        |(_, n, x)| ((100.0 * n as f64 + x / 1e7) as i64).saturating_add(200),
        slack,
    );
    let timed = timed.unwrap();
    watch.on("records by time", &timed.records());
    watch.on("late records", &timed.late().pairs());
    watch.on("records ahead", &timed.ahead().pairs());
    let by_time = timed
        .records()
        .key_by_into::<String>(|(text, _, _), key| key.push(text));
    let by_time = by_time.window_agg(three, ms(200), count()).unwrap();
    watch.on("window by time", &by_time.pairs());
    let floats_window = floats
        .window_agg(three, ms(200), (sum::<f64>(), max::<f64>()))
        .unwrap();
    watch.on("window of floats", &floats_window.pairs());
    let joined = window.join(&keyed.window_agg(three, one, count()).unwrap());
    watch.on("join of windows", &joined.unwrap().pairs());
    let joined = keyed.join(&window.map_values(|(count, _)| count));
    watch.on("join with a window", &joined.unwrap().pairs());
    let variances = floats.window_agg(three, one, (max::<f64>(), var_samp::<f64>()));
    watch.on("window of variances", &variances.unwrap().pairs());
    let variances = floats.running_agg("variances", (var_samp::<f64>(), var_pop::<f64>()));
    watch.on("variances", &variances.unwrap().changes().pairs());
    let totals = floats
        .running_agg("totals", (count(), sum::<f64>()))
        .unwrap();
    watch.on("running_agg", &totals.changes().pairs());
    let first = Track::new(
        |_: &str, x: f64| (1i64, x),
        |_: &str, (events, first): (i64, f64), x: f64| (x > -5e8).then_some((events + 1, first)),
    );
    let first = floats.track("first", first.timeout(ms(200))).unwrap();
    watch.on("changes of a track", &first.changes().pairs());
    watch.on("top of a track", &first.all().top(4));
    watch.on("what a track leaves", &first.timed_out().pairs());
    let means = floats.running_agg("means", avg::<f64>()).unwrap();
    let before = numbers.with_state(&means, AsOf::Before).unwrap();
    watch.on("with_state before", &before.pairs());
    let of_totals = numbers.with_state(&totals, AsOf::Before).unwrap();
    watch.on("with_state of two columns", &of_totals.pairs());
    let after = floats.with_state(&means, AsOf::After).unwrap();
    watch.on("with_state after", &after.pairs());
    let of_means = after.map_values(|(x, mean)| mean.unwrap_or(x));
    let of_means = of_means.running_agg("greatest means", (count(), max::<f64>()));
    let of_means = of_means.unwrap();
    watch.on("a state fed by a state", &of_means.all().pairs());
    let known = Track::new(
        |_: &str, _| (),
        |_: &str, (), x: f64| (x > -5e8).then_some(()),
    );
    let known = floats.track("known", known.timeout(ms(200))).unwrap();
    watch.on("a state without columns", &known.changes().pairs());
    let highest = floats.update_state_by_key("highest", |_: &str, values, state: Option<f64>| {
        Some(values.fold(state.unwrap_or(f64::MIN), f64::max))
    });
    watch.on("update_state_by_key", &highest.unwrap().changes().pairs());
    let ends = MapWithState::new(
        |key, x: Option<f64>, sum: &mut KeyState<f64>, out: &mut Out<'_, Row>| match x {
            None => out.push((key, -1, sum.get().copied().unwrap_or_default())),
            Some(x) if x > 8e8 => drop(sum.remove()),
            Some(x) => {
                let next = sum.get().copied().unwrap_or_default() / 3.0 + x;
                out.push((key, 1, next));
                sum.set(next);
            }
        },
    );
    let begin = ["a", "ab", "nobody"].map(|key| (key.to_owned(), 0.1));
    let ends = ends.timeout(ms(200)).initial(begin);
    let (mapped, state) = floats.map_with_state::<f64, Row>("ends", ends).unwrap();
    watch.on("map_with_state", &mapped);
    watch.on("its state", &state.all().pairs());
    timers(&floats, watch);
    by_event_time(&keyed, watch);
    let sql = |query: &str| rows.sql::<(String, f64)>(query).unwrap();
    watch.on("sql", &sql("select _1, sum(_3) as x from this group by _1"));
    watch.on("sql order", &sql("select _1, _3 from this order by _2"));
    watch.on(
        "sql top",
        &sql("select _1, _3 from this order by _2 limit 3"),
    );
    watch.on("sql limit", &sql("select _1, _3 from this limit 5"));
    watch.on(
        "sql distinct",
        &sql("select distinct _1, cast(_2 as double) as x from this"),
    );
    watch.on(
        "sql window",
        &sql("select _1, sum(_3) over (partition by _1 order by _2, _3) as x from this"),
    );
    watch.on(
        "sql scalar",
        &sql("select _1, _3 from this where _3 > (select avg(_3) from this)"),
    );
    for (name, join) in [
        ("join", "this a join dim b on a._2 = b.key"),
        ("left join", "this a left join dim b on a._2 = b.key"),
        ("right join", "this a right join dim b on a._2 = b.key"),
        ("full join", "this a full join dim b on a._2 = b.key"),
        ("dim first", "dim b left join this a on a._2 = b.key"),
        ("dim first, inner", "dim b join this a on a._2 = b.key"),
        (
            "self join",
            "this a join (select _1 as t, _2 as key, 'x' as value from this) b on a._1 = b.t",
        ),
        ("by less", "dim b left join this a on a._2 < b.key"),
        ("cross", "dim b cross join this a"),
        (
            "in",
            "(select *, 'in' as value from this where _2 in (select key from dim)) a",
        ),
        (
            "not in",
            "(select key, value, 1.5 as _3 from dim where key not in (select _2 from this)) a",
        ),
        (
            "exists",
            "(select key, value, 1.5 as _3 from dim d where exists \
                     (select 1 from this where _2 = d.key)) a",
        ),
    ] {
        let query = format!("select coalesce(value, '-') as t, coalesce(_3, 0.5) as x from {join}");
        watch.on(name, &sql(&query));
    }
    let tried = rows.try_flat_map::<(String, i64), String>(|(text, n, x), out| {
        text.split(' ').for_each(|word| out.push((word, n)));
        assert!(x < 9e8, "too much");
        match n {
            3 => Err(format!("{text} has three")),
            _ => Ok(()),
        }
    });
    watch.on("tried", &tried.ok());
    watch.on("rejected", &tried.rejected());
    let tried = "select _1, nullif(_2, 1), case when _3 > 0 then 1.5 end from this";
    let tried = rows.try_sql::<Row>(tried).unwrap();
    watch.on("tried sql", &tried.ok());
    watch.on("rejected by sql", &tried.rejected());
    let two = [("a", rows), ("b", &rows.filter(|(_, n, _)| n % 2 == 0))];
    let two = [
        (two[0].0, two[0].1 as &dyn dstreams::SqlInput),
        (two[1].0, two[1].1 as _),
    ];
    let query = "select a._1, a._3 + b._3 as x from a join b on a._1 = b._1";
    watch.on(
        "sql of two",
        &ctx.sql::<(String, f64)>(&two, query).unwrap(),
    );
    watch.on(
        "transform",
        &rows
            .transform::<Row>(|frame| frame.limit(1, Some(7)))
            .unwrap(),
    );
    crate::further_operators::further_operators(ctx, rows, watch);
    nested_records(rows, watch);
}

/// A state whose keys are woken, at times between batches too, time out, and live for so long.
fn timers(floats: &Keyed<String, f64>, watch: &Watch) {
    let ms = Duration::from_millis;
    let timers = MapWithState::new(
        |key: &str, x: Option<f64>, sum: &mut KeyState<f64>, out: &mut Out<'_, Row>| {
            let (before, now) = (sum.get().copied(), sum.time());
            match (x, before.unwrap_or_default()) {
                (Some(x), _) if x > 8e8 => drop(sum.remove()),
                (Some(x), before) => {
                    sum.set(before / 3.0 + x);
                    if x < 3e8 {
                        sum.wake_at(now.plus(if x < 0.0 { 130 } else { 200 }));
                    }
                }
                (None, before) => {
                    out.push((key, i64::from(sum.is_woken()), before));
                    if sum.is_woken() && before < 0.0 {
                        sum.set(-before);
                        sum.wake_at(now.plus(100));
                    }
                }
            }
        },
    );
    let timers = timers.timeout(ms(300)).live(ms(500));
    let (woken, state) = floats.map_with_state::<f64, Row>("timers", timers).unwrap();
    watch.on("woken keys", &woken);
    watch.on("a state with timers", &state.all().pairs());
    watch.on("what it leaves", &state.timed_out().pairs());
}

/// The streams of an aggregate by event time: of intervals before, in and after the batches.
fn by_event_time(keyed: &Keyed<String, Row>, watch: &Watch) {
    let ms = Duration::from_millis;
    let intervals = Intervals::every(ms(100))
        .slack(ms(100))
        .correct_for(ms(100));
    let agg = (sum_of::<f64>("_3"), max_of::<i64>("_2"), count());
    let time = |(_, n, _): (&str, i64, f64)| 220 + 60 * n;
    let by_time = keyed.agg_by_time("by time", time, intervals, agg).unwrap();
    watch.on("first by time", &by_time.first().pairs());
    watch.on("finals by time", &by_time.finals().pairs());
    watch.on("updates by time", &by_time.updates().pairs());
    watch.on("corrections by time", &by_time.corrections());
    watch.on("changelog by time", &by_time.changelog());
    watch.on("all by time", &by_time.all().pairs());
    watch.on("late by time", &by_time.late().pairs());
    watch.on("ahead by time", &by_time.ahead().pairs());
    let intervals = intervals.over(ms(300));
    let over = keyed.agg_by_time(
        "over time",
        time,
        intervals,
        (sum_of::<f64>("_3"), min_of::<i64>("_2")),
    );
    let over = over.unwrap();
    watch.on("updates over time", &over.updates().pairs());
    watch.on("finals over time", &over.finals().pairs());
}

/// Records that may be absent, lists of records, and aggregates that pass over nulls.
fn nested_records(rows: &DStream<Row>, watch: &Watch) {
    type Nested = (Option<(String, Option<i64>)>, Vec<(i64, Option<f64>)>);
    let nested = rows
        .key_by(|(_, n, _)| n.rem_euclid(3))
        .map_values(|(text, n, x)| -> Nested {
            let from = (n > 0).then(|| (text.to_owned(), (n > 2).then_some(n)));
            let list = (0..n).map(|at| (at, (at > 1).then_some(x)));
            (from, list.collect())
        });
    watch.on("nested records", &nested.pairs());
    let last = nested.update_state_by_key("nested", |_, values, _: Option<Nested>| {
        values.last().map(Nested::own)
    });
    watch.on("a state of nested records", &last.unwrap().all().pairs());
    let lists = "select _2 as key, array_agg(_3 order by _3) as value from this group by _2";
    let lists = rows.sql::<(i64, Vec<f64>)>(lists).unwrap();
    watch.on("lists by sql", &lists);
    let some = rows
        .key_by_into::<String>(|(text, _, _), key| key.push(text))
        .map_values(|(_, n, _)| (n > 0).then_some(n));
    let agg = || (sum_some::<i64>(), max_some::<i64>());
    watch.on("agg of some", &some.agg(agg()).unwrap().pairs());
    let running = some.running_agg("some", agg()).unwrap();
    watch.on("running_agg of some", &running.changes().pairs());
}

/// Fails at the first difference.
pub fn same<T: PartialEq + Debug>(one: &[T], other: &[T]) -> Result<(), TestCaseError> {
    prop_assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        prop_assert_eq!(one, other);
    }
    Ok(())
}
