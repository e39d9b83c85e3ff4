//! A partition's state that moved behaves as if it had stayed.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use dstreams_control::{BatchTime, Due};
use proptest::prelude::*;

use super::States;
use crate::encoding::{ByteInput, in_one, write_batches};
use crate::error::{Error, Result};
use crate::execute::{BatchSequence, StateInstaller};
use crate::plan::{StateSpec, WindowSpec};
use crate::stream::agg::{AggPart, AggPlan, Function};

mod refusals;

const PARTITION: usize = 1;
const PARTITIONS: usize = 3;

/// Key columns, with nulls or without.
fn keys_of(kind: usize) -> Vec<(DataType, bool)> {
    match kind {
        0 => vec![(DataType::Utf8View, false)],
        1 => vec![(DataType::Int64, true)],
        2 => vec![(DataType::Utf8View, true), (DataType::Int32, false)],
        3 => vec![(DataType::Float64, false)],
        4 => vec![(DataType::Float64, false), (DataType::Int32, true)],
        _ => vec![(DataType::Boolean, false), (DataType::BinaryView, false)],
    }
}

/// Parts of aggregates, the first being the count of records.
fn part(number: usize) -> (Function, DataType) {
    use Function::*;
    let parts = [
        (Count, DataType::Int64),
        (Sum, DataType::Int64),
        (Sum, DataType::UInt64),
        (Sum, DataType::Float64),
        (Min, DataType::Int32),
        (Max, DataType::UInt16),
        (Min, DataType::Float32),
        (Max, DataType::Float64),
        (Max, DataType::Timestamp(TimeUnit::Millisecond, None)),
        (Moments, DataType::Float64),
    ];
    parts[number].clone()
}

/// Types of the columns of a part.
fn columns_of(number: usize) -> Vec<DataType> {
    match part(number) {
        (Function::Moments, float) => vec![DataType::UInt64, float.clone(), float],
        (_, kind) => vec![kind],
    }
}

fn spec(keys: usize, parts: &[usize], panes: u64, every_ms: u64) -> WindowSpec {
    let keys = keys_of(keys);
    let key_fields = keys.iter().enumerate();
    let key_fields =
        key_fields.map(|(at, (kind, nulls))| Field::new(format!("key{at}"), kind.clone(), *nulls));
    let part_kinds = parts.iter().flat_map(|number| columns_of(*number));
    let part_fields = part_kinds.enumerate();
    let part_fields = part_fields.map(|(at, kind)| Field::new(format!("part{at}"), kind, false));
    let mut plan = AggPlan {
        parts: parts
            .iter()
            .map(|number| AggPart {
                function: part(*number).0,
                column: (*number > 0).then(|| format!("value{number}")),
            })
            .collect(),
        finish: Vec::new(),
    };
    let count = plan.column_of(AggPart {
        function: Function::Count,
        column: None,
    });
    WindowSpec {
        name: None,
        streams: String::new(),
        keys: keys.len(),
        schema: Arc::new(Schema::new(
            key_fields.chain(part_fields).collect::<Vec<_>>(),
        )),
        plan,
        count,
        length_ms: panes * every_ms,
        every_ms,
    }
}

/// A key's number, a number of records, their value.
type Row = (u16, u8, i16);

fn key_column(kind: &DataType, nulls: bool, rows: &[Row]) -> ArrayRef {
    let null = |key: u16| nulls && key % 7 == 3;
    let text = |key: u16| match key % 3 {
        0 => format!("k{key}"),
        1 => format!("a key that does not fit a view, number {key}"),
        _ => format!("{:012}", key),
    };
    let keys = rows.iter().map(|row| row.0);
    match kind {
        DataType::Boolean => Arc::new(BooleanArray::from_iter(keys.map(|key| Some(key % 2 == 0)))),
        DataType::Float64 => {
            let special = |key| match key {
                0 => -0.0,
                1 => 0.0,
                2 => f64::NAN,
                key => f64::from(key) / 8.0,
            };
            Arc::new(Float64Array::from_iter_values(keys.map(special)))
        }
        DataType::Utf8View | DataType::BinaryView => {
            let texts = keys.map(|key| (!null(key)).then(|| text(key)));
            cast(&StringViewArray::from_iter(texts), kind).unwrap()
        }
        _ => {
            let numbers = keys.map(|key| (!null(key)).then_some(i64::from(key)));
            cast(&Int64Array::from_iter(numbers), kind).unwrap()
        }
    }
}

fn part_columns(number: usize, rows: &[Row]) -> Vec<ArrayRef> {
    match part(number).0 {
        Function::Moments => {
            // One value per record, whose mean is the records' value.
            let counts = cast(&part_column(0, rows), &DataType::UInt64).unwrap();
            let squares = rows.iter().map(|row| f64::from(row.1) / 7.0);
            let squares = Arc::new(Float64Array::from_iter_values(squares));
            vec![counts, part_column(3, rows), squares]
        }
        _ => vec![part_column(number, rows)],
    }
}

fn part_column(number: usize, rows: &[Row]) -> ArrayRef {
    let kind = part(number).1;
    let values: ArrayRef = match (number, &kind) {
        (0, _) => Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| i64::from(row.1)),
        )),
        // Tenths do not add exactly: their sum depends on the order.
        (_, DataType::Float64 | DataType::Float32) => Arc::new(Float64Array::from_iter_values(
            rows.iter().map(|row| f64::from(row.2) / 10.0),
        )),
        (_, DataType::UInt16 | DataType::UInt64) => Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| i64::from(row.2).abs()),
        )),
        _ => Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| i64::from(row.2)),
        )),
    };
    cast(&values, &kind).unwrap()
}

fn delta(spec: &WindowSpec, keys: usize, parts: &[usize], rows: &[Row]) -> RecordBatch {
    let keys = keys_of(keys);
    let keys = keys
        .iter()
        .map(|(kind, nulls)| key_column(kind, *nulls, rows));
    let parts = parts.iter().flat_map(|number| part_columns(*number, rows));
    RecordBatch::try_new(Arc::clone(&spec.schema), keys.chain(parts).collect()).unwrap()
}

/// A window: keys, parts, panes, and the number of batches from one RDD of its input to the next.
type Shape = (usize, Vec<usize>, u64, u64);

/// The rows of one batch, and whether the state is then exported.
type Step = (Vec<Vec<Row>>, bool);

struct Program(Vec<(Shape, WindowSpec)>);

impl Program {
    fn new(shapes: &[Shape]) -> Self {
        let windows = shapes.iter().map(|shape| {
            let (keys, parts, panes, every) = shape;
            (shape.clone(), spec(*keys, parts, *panes, 100 * every))
        });
        Program(windows.collect())
    }

    fn windows(&self) -> States {
        let specs = self
            .0
            .iter()
            .map(|(_, spec)| StateSpec::Window(Arc::new(spec.clone())))
            .collect();
        States::new(specs, PARTITIONS, None).unwrap()
    }

    /// Installs batch `at` (from 1).
    fn install(&self, into: &States, at: u64, rows: &[Vec<Row>]) {
        for (window, ((keys, parts, _, every), spec)) in self.0.iter().enumerate() {
            if at.is_multiple_of(*every) {
                let deltas = rows.iter().map(|rows| delta(spec, *keys, parts, rows));
                let deltas: Vec<_> = deltas.collect();
                into.install(window, PARTITION, BatchTime(100 * at), None, &deltas)
                    .unwrap();
            }
        }
    }

    /// All readable rows, with batches, order and bits.
    fn read(&self, from: &States) -> Vec<(Vec<RecordBatch>, Vec<u8>)> {
        let windows = self.0.iter().enumerate().map(|(window, (_, spec))| {
            let batches = from.read(window, PARTITION).unwrap();
            let mut bits = Vec::new();
            write_batches(&mut bits, &spec.schema, &batches).unwrap();
            (batches, bits)
        });
        windows.collect()
    }
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let parts = prop::collection::vec(1..10usize, 0..5)
        .prop_flat_map(|others| (0..=others.len(), Just(others)))
        .prop_map(|(at, mut parts)| {
            parts.insert(at, 0);
            parts
        });
    prop::collection::vec((0..6usize, parts, 1..6u64, 1..3u64), 1..4)
}

/// Keys appear, stay and disappear: each batch has some from a moving range.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..24u16, 1..4u8, -99..99i16);
    let rows = prop::collection::vec(prop::collection::vec(row, 0..24), 0..3);
    let step = (rows, 0..9u16, prop::bool::weighted(0.2));
    prop::collection::vec(step, 1..40).prop_map(|steps| {
        let mut base = 0;
        let step = |(mut rows, moved, export): (Vec<Vec<Row>>, u16, bool)| {
            base += moved;
            rows.iter_mut().flatten().for_each(|row| row.0 += base);
            (rows, export)
        };
        steps.into_iter().map(step).collect()
    })
}

/// Export and import as one buffer.
trait OneBuffer {
    fn export(&self, partition: usize) -> Result<Vec<u8>>;
    fn import_of(&self, partition: usize, bytes: &[u8]) -> Result<()>;
}

impl OneBuffer for States {
    fn export(&self, partition: usize) -> Result<Vec<u8>> {
        let snapshot = self.snapshot(partition)?;
        in_one(|to| snapshot.write(to))
    }

    fn import_of(&self, partition: usize, bytes: &[u8]) -> Result<()> {
        self.import(partition, &mut ByteInput::of(bytes.to_vec()))
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn imported_state_behaves_like_the_exported_one(shapes in shapes(), steps in steps()) {
        let program = Program::new(&shapes);
        let original = program.windows();
        let mut copies: Vec<States> = Vec::new();
        let mut before = None;
        for (at, (rows, export)) in (1..).zip(&steps) {
            for windows in copies.iter().chain([&original]) {
                program.install(windows, at, rows);
            }
            let bytes = original.export(PARTITION).unwrap();
            // A snapshot does not change.
            let taken = (original.snapshot(PARTITION).unwrap(), bytes.clone());
            if let Some((snapshot, bytes)) = before.replace(taken) {
                prop_assert!(in_one(|to| snapshot.write(to)).unwrap() == bytes, "it has changed");
            }
            let read = program.read(&original);
            for copy in &copies {
                prop_assert_eq!(&program.read(copy), &read);
                prop_assert!(copy.export(PARTITION).unwrap() == bytes, "internals differ");
            }
            if *export {
                // A copy of the last copy, over existing state.
                let copy = program.windows();
                program.install(&copy, 7, &steps[0].0);
                let from = copies.last().unwrap_or(&original);
                copy.import_of(PARTITION, &from.export(PARTITION).unwrap()).unwrap();
                prop_assert_eq!(&program.read(&copy), &read);
                prop_assert_eq!(copy.versions(PARTITION), original.versions(PARTITION));
                copies.push(copy);
            }
        }
    }
}

/// Two windows with some of everything in them, and their bytes.
fn example() -> (Program, States, Vec<u8>) {
    let shapes = [(2, vec![1, 0, 3, 5], 4, 1), (3, vec![7, 0], 2, 2)];
    let program = Program::new(&shapes);
    let windows = program.windows();
    for at in 1..=7 {
        let rows = (0..3).map(|n| (at as u16 + n, 1, 10 * n as i16)).collect();
        program.install(&windows, at, &[rows, vec![(at as u16, 2, -5)]]);
    }
    let bytes = windows.export(PARTITION).unwrap();
    (program, windows, bytes)
}

#[test]
fn versions_follow_the_last_installs() {
    let (program, windows, bytes) = example();
    let batches = |times: [Option<u64>; 2]| times.map(|time| time.map(BatchTime)).to_vec();
    assert_eq!(windows.versions(PARTITION), batches([Some(700), Some(600)]));
    assert_eq!(windows.version(PARTITION), Some(BatchTime(600)));
    assert_eq!(windows.version(PARTITION + 1), None);
    assert_eq!(windows.version(PARTITIONS), None);

    windows.clear(PARTITION).unwrap();
    assert_eq!(windows.version(PARTITION), None);
    assert!(windows.read(0, PARTITION).unwrap().is_empty());
    program.install(&windows, 9, &[vec![(1, 1, 1)]]);
    assert_eq!(windows.versions(PARTITION), batches([Some(900), None]));
    assert_eq!(windows.version(PARTITION), Some(BatchTime(900)));

    windows.import_of(PARTITION, &bytes).unwrap();
    assert_eq!(windows.versions(PARTITION), batches([Some(700), Some(600)]));
}

/// Skipped intervals are no gap where the batch before is there. A window is due while it holds records.
#[test]
fn a_batch_after_skipped_intervals_follows_the_batch_before_it() {
    let program = Program::new(&[(1, vec![0], 3, 1), (1, vec![0], 2, 2)]);
    let windows = program.windows();
    // Before its first batch, that may be any up to its first RDD.
    let (from, to) = (BatchTime(101), BatchTime(300));
    let first = Some(Due { from, to });
    assert_eq!(windows.due(PARTITION, BatchTime(100)), first);
    for at in 1..=4 {
        let rows = if at == 2 { vec![(1, 1, 1)] } else { vec![] };
        program.install(&windows, at, &[rows]);
    }
    // The first has the record of 200 until 500, the second until 600.
    let due = |after| {
        windows
            .due(PARTITION, BatchTime(after))
            .map(|due| (due.from.0, due.to.0))
    };
    assert_eq!(due(400), Some((500, 500)));
    program.install(&windows, 5, &[vec![]]);
    assert_eq!(due(500), Some((600, 600)));
    program.install(&windows, 6, &[vec![]]);
    assert_eq!(due(600), None);

    let none =
        |state, batch, before| windows.install(state, PARTITION, BatchTime(batch), before, &[]);
    let mut batches = BatchSequence::after(Some(BatchTime(600)), 100);
    let after_600 = batches.next(BatchTime(1_100));
    let after_1_100 = batches.next(BatchTime(1_200));
    for before in [None, after_1_100] {
        let error = none(0, 1_200, before).unwrap_err();
        assert!(matches!(error, Error::Gap { .. }), "{error}");
    }
    none(0, 1_100, after_600).unwrap();
    none(0, 1_200, after_1_100).unwrap();
    // The second has a batch at each second interval.
    none(1, 1_200, None).unwrap_err();
    none(1, 1_200, after_1_100).unwrap();
    none(1, 1_600, batches.next(BatchTime(1_300))).unwrap();
    batches.next(BatchTime(1_400));
    none(1, 1_800, batches.next(BatchTime(1_500))).unwrap();
    assert_eq!(
        windows.versions(PARTITION),
        [1_200, 1_800].map(|at| Some(BatchTime(at)))
    );
    let rows = windows.read(0, PARTITION).unwrap();
    assert!(rows.iter().all(|rows| rows.num_rows() == 0));
}
