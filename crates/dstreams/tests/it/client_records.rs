//! Records with a column of every type through the protocol of clients, as this crate has them and as other libraries
//! send them.

use std::sync::Arc;

use dstreams::arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray};
use dstreams::arrow::compute::cast;
use dstreams::arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Schema, TimestampMillisecondType,
};
use dstreams::record::batch_of;
use dstreams::{Clients, Record};
use dstreams_client::{Client, Options};
use proptest::prelude::*;

use crate::program::{Program, block_on, cases, small};
use crate::receive_tcp::take;
use crate::values::{Level, Nested, nested};

/// The records of one batch that a client sent, or why it was refused. The program goes on after that.
fn sent<T: Record>(rows: Vec<RecordBatch>) -> (Vec<T>, Vec<String>) {
    block_on(async {
        let mut program = Program::new(small(1, 100, 100));
        let clients = Clients::listen("127.0.0.1:0");
        let mut all = program.ctx.clients::<T>("records", &clients).collect();
        let mut live = program.start().await;
        let address = live.running.address("records").unwrap().to_string();
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for rows in rows {
            let client = Client::connect(address.clone(), Options::default());
            let client = client.await.unwrap();
            let opened = client.batches("records", rows.schema()).await;
            let sent = async {
                let mut sender = opened?;
                sender.send(rows).await?;
                sender.finish().await
            };
            if let Err(error) = sent.await {
                refused.push(error.to_string());
            }
            live.batch().await;
            take(&mut all, &mut found);
        }
        live.running.stop().await.unwrap();
        (found, refused)
    })
}

/// As pyarrow has it: text and bytes without views, another name of the zone or none, and all items nullable, of another
/// name.
fn foreign(column: &ArrayRef, zone: Option<&str>) -> ArrayRef {
    let field = |name: &str, column: &ArrayRef| -> FieldRef {
        Arc::new(Field::new(name, column.data_type().clone(), true))
    };
    let kind = match column.data_type() {
        DataType::Utf8View => DataType::LargeUtf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(..) => {
            let times = column.as_primitive::<TimestampMillisecondType>().clone();
            return Arc::new(times.with_timezone_opt(zone));
        }
        DataType::List(_) => {
            let (_, offsets, items, nulls) = column.as_list::<i32>().clone().into_parts();
            let items = foreign(&items, zone);
            return Arc::new(ListArray::new(
                field("element", &items),
                offsets,
                items,
                nulls,
            ));
        }
        DataType::Struct(fields) => {
            let (_, columns, nulls) = column.as_struct().clone().into_parts();
            let columns: Vec<_> = columns.iter().map(|it| foreign(it, zone)).collect();
            let fields = fields.iter().zip(&columns);
            let fields: Fields = fields
                .map(|(it, column)| field(it.name(), column))
                .collect();
            return Arc::new(StructArray::new(fields, columns, nulls));
        }
        _ => return Arc::clone(column),
    };
    cast(column, &kind).unwrap()
}

fn foreign_rows(rows: &RecordBatch, zone: Option<&str>) -> RecordBatch {
    let columns = rows.columns().iter().map(|it| foreign(it, zone));
    let columns: Vec<_> = columns.collect();
    let fields = rows.schema();
    let fields = fields.fields().iter().zip(&columns);
    let fields = fields.map(|(it, column)| Field::new(it.name(), column.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

proptest! {
    #![proptest_config(cases(16))]

    /// Slices too: the lists of a slice begin inside of their items.
    #[test]
    fn records_arrive_as_they_were_sent(all in prop::collection::vec(nested(), 1..12), from in 0..12usize) {
        let rows = batch_of(all.clone()).unwrap();
        let from = from.min(all.len() - 1);
        let slice = rows.slice(from, all.len() - from);
        let foreign = ["UTC", "+02:00"].map(|zone| foreign_rows(&rows, Some(zone)));
        let all_rows = [vec![rows.clone(), slice, foreign_rows(&rows, None)], foreign.to_vec()];
        let (found, refused) = sent::<Nested>(all_rows.concat());
        prop_assert_eq!(refused, Vec::<String>::new());
        let wanted = [&all[..], &all[from..], &all[..], &all[..], &all[..]].concat();
        prop_assert_eq!(found, wanted);
    }
}

/// Rows whose columns fit, but that are no records, would fail their batch.
#[test]
fn rows_that_are_no_records_are_refused() {
    type Row = (i64, Option<(Level, i64)>, Vec<i64>);
    let good = vec![
        (1i64, Some((Level::Info, 2i64)), vec![3i64]),
        (4, None, vec![]),
    ];
    let rows = batch_of::<Row>(good.clone()).unwrap();
    let with = |place: usize, other: ArrayRef| {
        let mut columns = rows.columns().to_vec();
        let mut fields: Vec<_> = rows
            .schema()
            .fields()
            .iter()
            .map(|it| it.as_ref().clone())
            .collect();
        fields[place] = fields[place]
            .clone()
            .with_data_type(other.data_type().clone());
        columns[place] = other;
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    };
    use dstreams::arrow::array::{BooleanArray, StringViewArray};
    use dstreams::arrow::datatypes::Int64Type;
    let lists = [Some(vec![Some(1), None]), Some(vec![])];
    let all = [
        (
            with(1, Arc::new(BooleanArray::from(vec![true, true]))),
            "1 null(s) in 2 rows",
        ),
        (
            with(2, Arc::new(StringViewArray::from(vec![Some("Worn"), None]))),
            "`Worn`",
        ),
        (
            with(
                4,
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
            ),
            "1 null(s) in 2",
        ),
    ];
    let wrong = all.iter().map(|(rows, _)| rows.clone());
    let (found, refused) = sent::<Row>(wrong.chain([rows.clone()]).collect());
    assert_eq!(found, good);
    assert_eq!(refused.len(), all.len(), "{refused:?}");
    for (why, (_, words)) in refused.iter().zip(&all) {
        assert!(why.contains(words), "{why}");
    }
}
