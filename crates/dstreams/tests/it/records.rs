//! Records of every shape go through closures, shuffles and outputs unchanged.

use std::fmt::Debug;

use dstreams::agg::{count, max_of, sum_of};
use dstreams::arrow::datatypes::DataType;
use dstreams::{Key, Record};
use proptest::prelude::*;

use crate::program::{Interval, cases, each, intervals, run, settings, small, sorted, text};

/// Nested in [`Event`].
#[derive(Record, Debug, Clone, PartialEq)]
struct Place {
    city: String,
    at: (f64, f32),
}

/// One of every kind of field.
#[derive(Record, Debug, Clone, PartialEq)]
struct Event {
    name: String,
    place: Place,
    note: Option<String>,
    level: Option<i16>,
    seen: Option<bool>,
    tags: Vec<String>,
    counts: Vec<u32>,
    maybe: Option<Vec<i64>>,
    pair: (bool, u64),
    r#type: i8,
}

fn place() -> impl Strategy<Value = Place> {
    (text(), -1e6..1e6f64, -1e3..1e3f32).prop_map(|(city, x, y)| Place { city, at: (x, y) })
}

fn event() -> impl Strategy<Value = Event> {
    let options = (
        prop::option::of(text()),
        prop::option::of(any::<i16>()),
        prop::option::of(any::<bool>()),
        prop::option::of(prop::collection::vec(any::<i64>(), 0..3)),
    );
    let lists = (
        prop::collection::vec(text(), 0..4),
        prop::collection::vec(any::<u32>(), 0..4),
    );
    (
        text(),
        place(),
        options,
        lists,
        any::<(bool, u64)>(),
        any::<i8>(),
    )
        .prop_map(
            |(name, place, (note, level, seen, maybe), (tags, counts), pair, kind)| Event {
                name,
                place,
                note,
                level,
                seen,
                tags,
                counts,
                maybe,
                pair,
                r#type: kind,
            },
        )
}

/// The same record rebuilt from the row view.
fn rebuilt(row: EventRef<'_>) -> Event {
    Event {
        name: row.name.to_owned(),
        place: Place {
            city: row.place.city.to_owned(),
            at: row.place.at,
        },
        note: row.note.map(str::to_owned),
        level: row.level,
        seen: row.seen,
        tags: row.tags.iter().map(str::to_owned).collect(),
        counts: row.counts.iter().collect(),
        maybe: row.maybe.map(|items| items.iter().collect()),
        pair: row.pair,
        r#type: row.r#type,
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn structs_pass_through_unchanged(config in settings(), input in intervals(event(), 4)) {
        let got = run(&config, &input, |_, events| events.clone());
        prop_assert_eq!(&got, &each(&input, |rows| rows));
        let got = run(&config, &input, |_, events| {
            let kept = events.filter(|event| event.pair.0 || event.tags.len() > 1);
            let whole = kept.flat_map::<Event>(|event, out| {
                out.push(event);
                out.push(rebuilt(event));
            });
            whole.map(rebuilt)
        });
        prop_assert_eq!(got, each(&input, |rows| {
            let kept = rows.into_iter().filter(|event| event.pair.0 || event.tags.len() > 1);
            kept.flat_map(|event| [event.clone(), event]).collect()
        }));
    }

    #[test]
    fn structs_are_values_of_keys(config in settings(), input in intervals(event(), 4)) {
        let got = run(&config, &input, |_, events| {
            events.key_by_into::<(String, bool)>(|event, key| key.push((event.place.city, event.pair.0))).pairs()
        });
        prop_assert_eq!(got, each(&input, |rows| {
            rows.into_iter().map(|event| ((event.place.city.clone(), event.pair.0), event)).collect()
        }));
        // The last one of each key crosses the shuffle.
        let got = run(&config, &input, |_, events| {
            events
                .key_by_into::<String>(|event, key| key.push(event.place.city))
                .reduce(|_, newer| newer)
                .map_values(|event| (event.tags.len() as u32, rebuilt(event)))
                .pairs()
        });
        let wanted = each(&input, |rows| {
            let mut last = std::collections::BTreeMap::new();
            for event in rows {
                last.insert(event.place.city.clone(), event);
            }
            let pair = |(key, event): (String, Event)| (key, (event.tags.len() as u32, event));
            last.into_iter().map(pair).collect()
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn nested_columns_are_aggregated_by_name(config in settings(), input in intervals(event(), 4)) {
        let got = run(&config, &input, |_, events| {
            events
                .key_by(|event| event.r#type % 3)
                .agg((count(), sum_of::<u64>("pair_value"), max_of::<String>("place_city")))
                .unwrap()
                .pairs()
        });
        let wanted = each(&input, |rows| {
            let mut groups = std::collections::BTreeMap::<i8, (i64, u64, String)>::new();
            for event in rows {
                let group = groups.entry(event.r#type % 3).or_default();
                group.0 += 1;
                group.1 = group.1.wrapping_add(event.pair.1);
                group.2 = group.2.clone().max(event.place.city);
            }
            groups.into_iter().collect()
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn lists_and_options_by_themselves(
        config in settings(),
        input in intervals((prop::option::of(text()), prop::collection::vec(prop::collection::vec(text(), 0..3), 0..3)), 4),
    ) {
        let got = run(&config, &input, |_, rows| {
            rows.flat_map::<(Option<String>, Vec<String>)>(|(option, lists), out| {
                for list in lists.iter() {
                    out.push((option, list.iter().collect::<Vec<_>>()));
                }
            })
        });
        prop_assert_eq!(got, each(&input, |rows| {
            let lists = |(option, lists): (Option<String>, Vec<Vec<String>>)| -> Vec<_> {
                lists.into_iter().map(|list| (option.clone(), list)).collect()
            };
            rows.into_iter().flat_map(lists).collect()
        }));
    }
}

/// A record crosses a shuffle as the value of a key, and as a key where it is one.
pub fn crosses<T: Record + Clone + Debug + PartialEq>(values: Vec<T>) {
    let input: Vec<Interval<(i64, T)>> = vec![
        (0..)
            .zip(&values)
            .map(|(n, value)| vec![(n, value.clone())])
            .collect(),
    ];
    let got = run(&small(3, 1, 2), &input, |_, pairs| {
        pairs.by_key().reduce(|_, b| b).pairs()
    });
    let mut got = got[0].1.clone();
    got.sort_by_key(|(n, _)| *n);
    let got: Vec<T> = got.into_iter().map(|(_, value)| value).collect();
    assert_eq!(got, values);
}

/// Keys of a count, each once.
pub fn keys<T: Key + Clone + Debug + PartialEq>(values: Vec<T>) {
    crosses(values.clone());
    let input: Vec<Interval<T>> = vec![values.iter().map(|value| vec![value.clone()]).collect()];
    let got = run(&small(3, 1, 2), &input, |_, rows| {
        rows.keyed().agg(count()).unwrap().pairs()
    });
    let wanted = values.into_iter().map(|value| (value, 1)).collect();
    assert_eq!(sorted(got), sorted(vec![(100, wanted)]));
}

#[test]
fn extreme_values() {
    keys(vec![i8::MIN, -1, 0, i8::MAX]);
    keys(vec![i16::MIN, -1, 0, i16::MAX]);
    keys(vec![i32::MIN, -1, 0, i32::MAX]);
    keys(vec![i64::MIN, -1, 0, i64::MAX]);
    keys(vec![0, u8::MAX]);
    keys(vec![0, u16::MAX]);
    keys(vec![0, u32::MAX]);
    keys(vec![0, u64::MAX - 1, u64::MAX]);
    keys(vec![false, true]);
    keys(vec![None, Some(0u8), Some(1)]);
    keys(vec![
        None,
        Some(String::new()),
        Some("\0".into()),
        Some("long enough to be outside".into()),
    ]);
    keys(vec![
        String::new(),
        "\0".into(),
        "\0\0".into(),
        "\u{10ffff}".repeat(4),
        "x".repeat(70_000),
    ]);
    crosses(vec![f64::MIN, -0.0, f64::MIN_POSITIVE, f64::INFINITY]);
    crosses(vec![f32::MIN, f32::EPSILON]);
    crosses(vec![None, Some(1.5f64)]);
    crosses(vec![vec![0u8; 0], vec![0, 255], vec![7; 10_000]]);
    crosses(vec![None, Some(vec![true, false]), Some(vec![])]);
}

#[test]
fn column_names_are_flat_and_as_documented() {
    let names = |schema: dstreams::arrow::datatypes::SchemaRef| -> Vec<String> {
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    assert_eq!(
        names(Event::schema()),
        [
            "name",
            "place_city",
            "place_at_key",
            "place_at_value",
            "note",
            "level",
            "seen",
            "tags",
            "counts",
            "maybe",
            "pair_key",
            "pair_value",
            "type"
        ]
    );
    assert_eq!(
        names(<(String, (i64, bool, u8))>::schema()),
        ["key", "value_1", "value_2", "value_3"]
    );
    assert_eq!(names(i64::schema()), ["value"]);
    assert_eq!(*Event::schema().field(0).data_type(), DataType::Utf8View);
}
