//! Records that may be absent, and lists of records: through closures, shuffles, states and SQL.

use std::collections::BTreeMap;

use dstreams::arrow::datatypes::{DataType, SchemaRef};
use dstreams::record::{Items, batch_of, records_of};
use dstreams::{Queue, Record, StreamContext};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::program::{
    Batches, Program, block_on, cases, each, intervals, run, settings, small, sorted, text,
};

#[derive(Record, Debug, Clone, PartialEq)]
struct Stop {
    place: String,
    note: Option<String>,
    minutes: Option<i64>,
}

type Nested = Option<Option<(i64, String)>>;

/// A record with every combination.
#[derive(Record, Debug, Clone, PartialEq)]
struct Trip {
    id: i64,
    from: Option<(String, Option<i64>)>,
    stop: Option<Stop>,
    stops: Vec<Stop>,
    later: Option<Vec<Stop>>,
    grid: Vec<Vec<i64>>,
    holes: Vec<Option<i64>>,
    perhaps: Option<Option<bool>>,
    nested: Nested,
    list: Vec<Nested>,
    inner: Option<(Option<Stop>, Vec<(u8, Option<String>)>)>,
    /// Its column has the name of the one that says whether it is there.
    odd: Option<Odd>,
    nothing: Option<()>,
    nothings: Vec<()>,
}

#[derive(Record, Debug, Clone, PartialEq)]
struct Odd {
    is: bool,
}

fn stop() -> impl Strategy<Value = Stop> {
    let parts = (
        text(),
        prop::option::of(text()),
        prop::option::of(any::<i64>()),
    );
    parts.prop_map(|(place, note, minutes)| Stop {
        place,
        note,
        minutes,
    })
}

fn nested() -> impl Strategy<Value = Nested> {
    prop::option::of(prop::option::of((any::<i64>(), text())))
}

fn few<S: Strategy>(of: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(of, 0..3)
}

fn trip() -> impl Strategy<Value = Trip> {
    use prop::option::of;
    let first = (
        0..5i64,
        of((text(), of(any::<i64>()))),
        of(stop()),
        few(stop()),
        of(few(stop())),
    );
    let lists = (few(few(any::<i64>())), few(of(any::<i64>())), few(nested()));
    let inner = of((of(stop()), few((any::<u8>(), of(text())))));
    let last = (
        of(of(any::<bool>())),
        nested(),
        inner,
        of(any::<bool>()),
        of(Just(())),
        0..3usize,
    );
    (first, lists, last).prop_map(|(first, lists, last)| Trip {
        id: first.0,
        from: first.1,
        stop: first.2,
        stops: first.3,
        later: first.4,
        grid: lists.0,
        holes: lists.1,
        list: lists.2,
        perhaps: last.0,
        nested: last.1,
        inner: last.2,
        odd: last.3.map(|is| Odd { is }),
        nothing: last.4,
        nothings: vec![(); last.5],
    })
}

proptest! {
    #![proptest_config(cases(24))]

    /// Slices too: a list of a slice begins inside of its items.
    #[test]
    fn columns_have_the_records_that_made_them(trips in prop::collection::vec(trip(), 0..12), from in 0..12usize) {
        let batch = batch_of(trips.iter().cloned()).unwrap();
        let from = from.min(trips.len());
        let slice = batch.slice(from, trips.len() - from);
        prop_assert_eq!(&records_of::<Trip>(&slice).unwrap(), &trips[from..]);
        // Views are appended as the records are.
        let lists = trips.iter().map(|trip| (trip.id, trip.stops.clone()));
        let lists = batch_of::<(i64, Vec<Stop>)>(lists).unwrap();
        prop_assert_eq!(records_of::<(i64, Vec<Stop>)>(&lists).unwrap().len(), trips.len());
    }

    #[test]
    fn records_pass_through_operators_unchanged(config in settings(), input in intervals(trip(), 3)) {
        let got = run(&config, &input, |_, trips| {
            trips.filter(|trip| trip.stop.is_some() || trip.id > 1).flat_map::<Trip>(|trip, out| out.push(trip))
        });
        prop_assert_eq!(got, each(&input, |trips| {
            trips.into_iter().filter(|trip| trip.stop.is_some() || trip.id > 1).collect()
        }));
        // Parts of a record are pushed as records; the last one of each key crosses the shuffle.
        type Parts = (Option<Stop>, Vec<Stop>, Nested);
        let got = run(&config, &input, |_, trips| {
            trips
                .key_by(|trip| trip.id)
                .map_values(|trip| (trip.stop.map(Stop::own), <Vec<Stop>>::own(trip.stops), Nested::own(trip.nested)))
                .reduce(|_, last: Parts| last)
                .pairs()
                .flat_map::<(i64, Parts)>(|(id, (stop, stops, nested)), out| out.push((id, (stop, stops, nested))))
        });
        let wanted = each(&input, |trips| {
            let parts = |trip: Trip| (trip.id, (trip.stop, trip.stops, trip.nested));
            trips.into_iter().map(parts).collect::<BTreeMap<i64, Parts>>().into_iter().collect()
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    /// Blocks go through the journal, states through a checkpoint.
    #[test]
    fn a_state_of_nested_records_survives_a_restart(
        first in intervals(trip(), 3),
        second in intervals(trip(), 3),
    ) {
        let dir = Dir::missing();
        let mut wanted: BTreeMap<i64, (Vec<Trip>, Option<Trip>)> = BTreeMap::new();
        let mut intervals_before = 0;
        for input in [&first, &second] {
            let got = run_in(&dir, intervals_before, input);
            // And the one in which it is stopped.
            intervals_before += input.len() as u32 + 1;
            for trip in input.concat().into_iter().flatten() {
                let (last_two, before) = wanted.entry(trip.id).or_default();
                *before = last_two.last().cloned();
                last_two.push(trip);
                last_two.drain(..last_two.len().saturating_sub(2));
            }
            let all = wanted.iter().map(|(id, state)| (*id, state.clone()));
            let last = got.last().unwrap().1.clone();
            prop_assert_eq!(sorted(vec![(0, last)]), sorted(vec![(0, all.collect())]));
        }
    }
}

type Kept = (Vec<Trip>, Option<Trip>);

/// The directory of a program.
/// All of the state after each interval; the program goes on where it was.
fn run_in(
    dir: &Dir,
    before: u32,
    input: &[crate::program::Interval<Trip>],
) -> Batches<(i64, Kept)> {
    fn describe(ctx: &mut StreamContext) -> (Queue<Trip>, dstreams::RddReceiver<(i64, Kept)>) {
        let (queue, trips) = ctx.queue::<Trip>("trips");
        let kept =
            trips
                .key_by(|trip| trip.id)
                .update_state_by_key::<Kept>("last", |_, trips, kept| {
                    let (mut last, mut before) = kept.unwrap_or_default();
                    for trip in trips {
                        before = last.last().cloned();
                        last.push(Trip::own(trip));
                        last.drain(..last.len().saturating_sub(2));
                    }
                    Some((last, before))
                });
        (queue, kept.unwrap().all().pairs().collect())
    }
    block_on(async {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 2;
        let mut program = Program::after(before, config);
        let (queue, mut all) = describe(&mut program.ctx);
        program.ctx.persist_in(dir.path());
        let mut live = program.start().await;
        for interval in input {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
        }
        let batches = dstreams::testing::batches(&mut all).unwrap();
        live.running.stop().await.unwrap();
        let batches = batches.into_iter();
        batches.map(|(batch, records)| (batch.0, records)).collect()
    })
}

fn columns(schema: SchemaRef) -> Vec<String> {
    let field = |field: &dstreams::record::Field| {
        let nulls = if field.is_nullable() { "?" } else { "" };
        let kind = match field.data_type() {
            DataType::List(_) => "list".to_owned(),
            kind => kind.to_string().to_lowercase(),
        };
        format!("{}{nulls} {kind}", field.name())
    };
    schema.fields().iter().map(|it| field(it)).collect()
}

#[test]
fn the_columns_are_as_documented() {
    assert_eq!(columns(Option::<i64>::schema()), ["value? int64"]);
    assert_eq!(
        columns(<(i64, Option<(String, i64)>)>::schema()),
        [
            "key int64",
            "value_is boolean",
            "value_key? utf8view",
            "value_value? int64"
        ]
    );
    assert_eq!(
        columns(Option::<Option<i64>>::schema()),
        ["_is boolean", "value? int64"]
    );
    assert_eq!(
        columns(<(i64, Nested)>::schema()),
        [
            "key int64",
            "value_is boolean",
            "value_some_is? boolean",
            "value_some_key? int64",
            "value_some_value? utf8view"
        ]
    );
    assert_eq!(
        columns(<(i64, Option<Odd>)>::schema()),
        ["key int64", "value_is boolean", "value_some_is? boolean"]
    );
    assert_eq!(columns(Option::<Vec<Stop>>::schema()), ["value? list"]);
    let schema = Trip::schema();
    let DataType::List(item) = schema.field_with_name("stops").unwrap().data_type() else {
        panic!("{schema}");
    };
    assert_eq!(
        item.data_type().to_string(),
        r#"Struct("place": non-null Utf8View, "note": Utf8View, "minutes": Int64)"#
    );
    let DataType::List(item) = schema.field_with_name("holes").unwrap().data_type() else {
        panic!("{schema}");
    };
    assert!(item.is_nullable());
}

#[test]
fn queries_read_lists_and_absent_records() {
    let stop = |place: &str| Stop {
        place: place.to_owned(),
        note: None,
        minutes: Some(3),
    };
    let input = vec![vec![vec![
        (1, Some(stop("a")), vec![stop("b"), stop("c")]),
        (2, None, vec![stop("d")]),
    ]]];
    type Row = (i64, Option<Stop>, Vec<Stop>);
    let config = small(2, 1, 2);
    let got = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        rows.sql::<(i64, String)>("select _1, _3[1]['place'] from this")
            .unwrap()
    });
    assert_eq!(got[0].1, [(1, "b".to_owned()), (2, "d".to_owned())]);
    let got = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let all = "select _1, stop['place'], stop['minutes'] from (select _1, unnest(_3) as stop from this)";
        rows.sql::<(i64, String, Option<i64>)>(all).unwrap()
    });
    let wanted = [(1, "b"), (1, "c"), (2, "d")];
    assert_eq!(
        got[0].1,
        wanted.map(|(n, place)| (n, place.to_owned(), Some(3)))
    );
    // Back into records, by name and by place.
    let got = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        rows.sql::<Row>("select * from this where _2_is or _1 = 2")
            .unwrap()
    });
    assert_eq!(got[0].1, input[0][0]);
    let got = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let query = "select _1, _2_is, _2_place, _1 as n from this";
        rows.sql::<(i64, Option<(String, i64)>)>(query).unwrap()
    });
    assert_eq!(got[0].1, [(1, Some(("a".to_owned(), 1))), (2, None)]);
}

#[test]
fn queries_make_lists_and_absent_records() {
    let input = vec![vec![vec![
        ("a".to_owned(), Some(1)),
        ("b".to_owned(), None),
        ("a".to_owned(), Some(2)),
    ]]];
    type Row = (String, Option<i64>);
    let config = small(1, 100, 100);
    let lists = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let query = "select key, array_agg(coalesce(value, 0)) as value from this group by key";
        rows.sql::<(String, Vec<i64>)>(query).unwrap()
    });
    let wanted = vec![("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![0])];
    assert_eq!(sorted(lists)[0].1, wanted);
    let lists = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let query = "select key, array_agg(value) as value from this group by key";
        rows.sql::<(String, Vec<Option<i64>>)>(query).unwrap()
    });
    let wanted = vec![
        ("a".to_owned(), vec![Some(1), Some(2)]),
        ("b".to_owned(), vec![None]),
    ];
    assert_eq!(sorted(lists)[0].1, wanted);
    // Without an order of its own, no rows give no list.
    let lists = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let query = "select array_agg(value) as value from this where value > 7";
        rows.sql::<Option<Vec<i64>>>(query).unwrap()
    });
    assert_eq!(lists[0].1, [None]);
    let structs = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let query = "select key, array_agg(named_struct('key', key, 'value', value)) as value
            from this group by key";
        rows.sql::<(String, Vec<(String, Option<i64>)>)>(query)
            .unwrap()
    });
    let pair = |key: &str, value| (key.to_owned(), value);
    let wanted = vec![
        ("a".to_owned(), vec![pair("a", Some(1)), pair("a", Some(2))]),
        ("b".to_owned(), vec![pair("b", None)]),
    ];
    assert_eq!(sorted(structs)[0].1, wanted);
    let joined = run(&config, &input, |_, rows: &dstreams::DStream<Row>| {
        let query = "select a.key, b.key is not null as value_is, b.key as value_key, b.value as value_value
            from this a left join this b on a.value = b.value + 1";
        rows.sql::<(String, Option<(String, i64)>)>(query).unwrap()
    });
    let one = Some(("a".to_owned(), 1));
    let wanted = vec![
        ("a".to_owned(), None),
        ("a".to_owned(), one),
        ("b".to_owned(), None),
    ];
    assert_eq!(sorted(joined)[0].1, wanted);
}

/// What a query gives for records that cannot be what it says.
fn failure<U: Record>(query: &str) -> String {
    block_on(async {
        let mut program = Program::new(small(1, 100, 100));
        let (queue, rows) = program.ctx.queue::<(String, Option<i64>)>("in");
        let made = rows.sql::<U>(query);
        let made = match made {
            Ok(made) => made,
            Err(error) => return format!("graph: {error}"),
        };
        made.filter(|_| true).for_each_rdd(|_| {});
        let mut live = program.start().await;
        queue
            .push([("a".to_owned(), Some(1)), ("b".to_owned(), None)])
            .await
            .unwrap();
        let error = live.try_batch().await.unwrap_err();
        format!("batch: {error}")
    })
}

#[test]
fn nulls_that_are_there_are_refused() {
    let said = failure::<Option<(String, i64)>>("select true as _is, key, value from this");
    assert!(
        said.starts_with("batch: ") && said.contains("1 null(s) in 2 rows"),
        "{said}"
    );
    let said = failure::<Vec<i64>>("select array_agg(value) + 0 as value from this group by 1");
    assert!(said.starts_with("graph: "), "{said}");
    // Known when the graph is built.
    for query in [
        "select make_array(7, value) as value from this",
        "select array_agg(value) as value from this group by key",
        "select list as value from (select key, array_agg(value) as list from this group by key) limit 2",
    ] {
        let said = failure::<Vec<i64>>(query);
        assert!(
            said.starts_with("graph: ") && said.contains("items may be null"),
            "{said}"
        );
    }
    let said = failure::<Vec<i64>>("select make_array(abs(value), 7) as value from this");
    assert!(
        said.starts_with("batch: ") && said.contains("null(s)"),
        "{said}"
    );
    let said = failure::<Vec<(String, i64)>>(
        "select make_array(named_struct('key', key, 'value', value)) as value from this",
    );
    assert!(
        said.starts_with("batch: ") && said.contains("`value` of the items"),
        "{said}"
    );
    // Another type, or other names.
    let said = failure::<Vec<i32>>("select make_array(coalesce(value, 0)) as value from this");
    assert!(
        said.starts_with("graph: ") && said.contains("List"),
        "{said}"
    );
    let said = failure::<Vec<(String, i64)>>(
        "select make_array(named_struct('key', key, 'other', value)) as value from this",
    );
    assert!(
        said.starts_with("graph: ") && said.contains("other"),
        "{said}"
    );
}

#[test]
fn items_are_looked_at_by_place() {
    let config = small(1, 100, 100);
    let input = vec![vec![vec![vec![5i64, 6], vec![]]]];
    let got = run(&config, &input, |_, lists| {
        lists.map(|items: Items<'_, i64>| (items.get(0), items.get(1), items.get(2)))
    });
    assert_eq!(got[0].1, [(Some(5), Some(6), None), (None, None, None)]);
}
