//! Queries whose aggregations run on our table, beside DataFusion's own over the same rows.

use datafusion::arrow::array::{Float64Array, Int32Array, StringViewArray};
use datafusion::arrow::datatypes::Field;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;

/// Rows with many keys and with few, in two partitions.
fn context(rows: i64) -> SessionContext {
    let field = |name: &str, kind, nullable| Field::new(name, kind, nullable);
    let schema = Arc::new(Schema::new(vec![
        field("word", DataType::Utf8View, false),
        field("name", DataType::Utf8View, true),
        field("many", DataType::Int64, false),
        field("few", DataType::Int32, true),
        field("real", DataType::Float64, false),
        field("value", DataType::Int64, true),
        field("size", DataType::UInt64, false),
    ]));
    let batch = |range: std::ops::Range<i64>| {
        let words = range.clone().map(|n| {
            let long = "a word of thirteen bytes or more"[..13 + n as usize % 19].to_owned();
            [format!("w{}", n % 5), long][n as usize % 2].clone()
        });
        let names = range
            .clone()
            .map(|n| (n % 3 > 0).then(|| format!("name {}", n % 7)));
        let value = |n: i64| (n % 11 > 0).then_some(n * 1_000_003 % 1_009 - 500);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(words)),
            Arc::new(names.collect::<StringViewArray>()),
            Arc::new(Int64Array::from_iter_values(range.clone())),
            Arc::new(
                range
                    .clone()
                    .map(|n| (n % 9 > 0).then_some(n as i32 % 9))
                    .collect::<Int32Array>(),
            ),
            Arc::new(Float64Array::from_iter_values(
                range.clone().map(|n| (n % 4) as f64 - 1.0),
            )),
            Arc::new(range.clone().map(value).collect::<Int64Array>()),
            Arc::new(UInt64Array::from_iter_values(
                range.map(|n| u64::MAX / 2 + n as u64),
            )),
        ];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let half = |from: i64, to: i64| {
        let starts = (from..to).step_by(1_000);
        starts
            .map(|start| batch(start..(start + 1_000).min(to)))
            .collect::<Vec<_>>()
    };
    let parts = vec![half(0, rows / 2), half(rows / 2, rows)];
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    let table = MemTable::try_new(Arc::clone(&schema), parts).unwrap();
    context.register_table("this", Arc::new(table)).unwrap();
    context
}

/// The plan of a query; it runs once.
async fn plan(query: &str, context: &SessionContext) -> Arc<dyn ExecutionPlan> {
    let frame = context.sql(query).await.unwrap();
    frame.create_physical_plan().await.unwrap()
}

/// The plan on our table, and how many aggregations it has there.
fn grouped(plan: Arc<dyn ExecutionPlan>) -> (Arc<dyn ExecutionPlan>, usize) {
    let mut count = 0;
    let plan = plan.transform_up(|plan| {
        let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else {
            return Ok(Transformed::no(plan));
        };
        Ok(match group(aggregate)? {
            Some(plan) => {
                count += 1;
                Transformed::yes(plan)
            }
            None => Transformed::no(plan),
        })
    });
    (plan.unwrap().data, count)
}

async fn rows(plan: Arc<dyn ExecutionPlan>, context: &SessionContext) -> Vec<String> {
    let schema = plan.schema();
    let batches = collect(plan, context.task_ctx()).await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        assert_eq!(batch.schema(), schema);
        for row in 0..batch.num_rows() {
            let columns = batch.columns().iter();
            let values = columns.map(|column| array_value_to_string(column, row).unwrap());
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort_unstable();
    rows
}

/// The aggregation of a plan whose results are merged by another one.
fn first_aggregation(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let is_first = |exec: &GroupExec| exec.functions.mode == AggregateMode::Partial;
    match plan.downcast_ref::<GroupExec>().is_some_and(is_first) {
        true => Arc::clone(plan),
        false => first_aggregation(plan.children()[0]),
    }
}

#[tokio::test]
async fn queries_give_what_datafusions_aggregation_gives() {
    for count in [0, 1, 10_000] {
        let context = context(count);
        for query in [
            "select word, count(*) from this group by word",
            "select name, count(*), count(value) from this group by name",
            "select few, sum(value) from this group by few",
            "select few, sum(many) from this group by few",
            "select name, sum(size) from this group by name",
            "select few, name, sum(value), min(value), max(word) from this group by few, name",
            "select word, few, many % 3, count(*) from this group by word, few, many % 3",
            "select real, count(*) from this group by real",
            "select real, name, avg(value) from this group by real, name",
            "select few, count(*) filter (where value > 0), sum(value) filter (where value < 0) \
             from this group by few",
            "select few, sum(many) filter (where many < 5) from this group by few",
            "select few, count(*) filter (where many < 0) from this group by few",
            "select few, count(distinct value), avg(value), stddev(value) from this group by few",
            "select many, count(*) from this group by many",
            "select distinct word, few from this",
            "select few, most from (select few, count(*) as most from this group by few) where most > 5",
            "select few, name, count(*) from this group by grouping sets ((few), (few, name), ())",
            "select many % 2 = 0, sum(value) from this group by many % 2 = 0",
        ] {
            let expected = rows(plan(query, &context).await, &context).await;
            let (plan, replaced) = grouped(plan(query, &context).await);
            assert!(replaced > 0, "{query} does not use the table");
            assert_eq!(rows(plan, &context).await, expected, "{query}");
            assert!(!expected.is_empty() || count < 2, "{query} has no results");
        }
    }
}

#[tokio::test]
async fn what_the_table_cannot_do_stays_with_datafusion() {
    let context = context(100);
    for query in [
        "select count(*) from this",
        "select few, first_value(word order by many) from this group by few",
    ] {
        let (_, replaced) = grouped(plan(query, &context).await);
        assert_eq!(replaced, 0, "{query}");
    }
}

/// The first aggregation of rows that have a key each stops to group them: each row is a result of its own.
#[tokio::test]
async fn rows_pass_where_each_has_a_key_of_its_own() {
    let context = context(300_000);
    // Some keys come twice.
    let key = "case when many % 150000 < 140000 then many else many / 2 end";
    for values in ["count(*)", "sum(value), max(many), avg(value)"] {
        let query = format!("select {key}, {values} from this group by {key}");
        let expected = rows(plan(&query, &context).await, &context).await;
        let (all, replaced) = grouped(plan(&query, &context).await);
        assert_eq!(replaced, 2);
        let first = first_aggregation(&grouped(plan(&query, &context).await).0);
        let partial = rows(first, &context).await.len();
        assert_eq!(partial, 300_000, "all rows pass, or begin a group");
        assert_eq!(expected.len(), 285_000);
        assert_eq!(rows(all, &context).await, expected);
    }
}
