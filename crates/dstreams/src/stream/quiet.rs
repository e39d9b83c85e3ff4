//! Whether an interval without records can be without effect: what has rows of nothing, whatever the states hold.
//!
//! Closures are called with records only, so nothing comes of none. An aggregate over all records, the whole of a state
//! and some queries have rows in each interval. What a state does by itself is due at some time:
//! [`States::due`](crate::state::States::due).

use datafusion::common::JoinType;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::graph::{Graph, NodeId, Op, View};
use crate::error::Operator;

/// The first operator before an output or a state that has rows in each interval; none if all of them can be empty.
pub(crate) fn never_empty(graph: &Graph) -> Option<Operator> {
    let outputs = graph.outputs.iter().map(|output| output.node);
    let states = graph.nodes.iter().filter(|node| node.op.is_state());
    let mut next: Vec<NodeId> = states.flat_map(|node| node.inputs.clone()).collect();
    next.extend(outputs);
    let mut seen = vec![false; graph.nodes.len()];
    while let Some(id) = next.pop() {
        if std::mem::replace(&mut seen[id.0], true) {
            continue;
        }
        let node = graph.node(id);
        if has_rows_of_nothing(&node.op) {
            return Some(node.operator.clone());
        }
        next.extend(&node.inputs);
    }
    None
}

/// Whether it has rows even if its inputs have none and its state is not due.
fn has_rows_of_nothing(op: &Op) -> bool {
    match op {
        // Over all records there may be a row of none.
        Op::Aggregate { keys, .. } | Op::Window { keys, .. } | Op::Running { keys, .. } => {
            *keys == 0
        }
        Op::StateView(View::All) => true,
        Op::Query(query) => query.never_empty,
        Op::StateView(
            View::Changes
            | View::TimedOut
            | View::Mapped
            | View::Released
            | View::Late
            | View::Ahead,
        ) => false,
        // Of records held, some may be due: the state says so.
        Op::ByTime { .. }
        | Op::Tracked { .. }
        | Op::Within(_)
        | Op::Sessions(_)
        | Op::History { .. } => false,
        // Without records no closure is called, no key is looked up and no pair made.
        Op::Source(_)
        | Op::Rows(_)
        | Op::Reduce { .. }
        | Op::Repartition { .. }
        | Op::Join(_)
        | Op::Cogroup { .. }
        | Op::Probe(_)
        | Op::Union
        | Op::Top { .. } => false,
    }
}

/// Whether a query has no rows if the streams with these names have none.
pub(super) fn is_empty_of_nothing(plan: &LogicalPlan, streams: &[String]) -> bool {
    let of = |plan: &LogicalPlan| is_empty_of_nothing(plan, streams);
    match plan {
        LogicalPlan::TableScan(scan) => {
            let name = scan.table_name.table();
            streams.iter().any(|stream| stream == name)
        }
        LogicalPlan::EmptyRelation(relation) => !relation.produce_one_row,
        LogicalPlan::Aggregate(aggregate) => {
            let sets = |expr: &Expr| matches!(expr, Expr::GroupingSet(_));
            let groups = &aggregate.group_expr;
            !groups.is_empty() && !groups.iter().any(sets) && of(&aggregate.input)
        }
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => {
                of(&join.left) || of(&join.right)
            }
            JoinType::Left | JoinType::LeftAnti => of(&join.left),
            JoinType::Right | JoinType::RightAnti => of(&join.right),
            _ => of(&join.left) && of(&join.right),
        },
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_) => plan.inputs().into_iter().all(of),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agg::count;
    use crate::stream::dstream::DStream;
    use crate::{AsOf, Intervals, Record, Slack, StreamContext, Track, Within};

    const SECOND: Duration = Duration::from_secs(1);

    /// The name of the operator that is never empty.
    fn never<T: Record>(build: impl FnOnce(&DStream<String>) -> DStream<T>) -> Option<String> {
        let mut ctx = StreamContext::new(SECOND).unwrap();
        let (_, words) = ctx.queue::<String>("words");
        build(&words).for_each_rdd(|_| ());
        let operator = never_empty(&words.graph.lock())?;
        Some(operator.to_string())
    }

    #[test]
    fn views_of_states_are_empty_but_for_the_whole() {
        let visits = |words: &DStream<String>| {
            let track = Track::new(|_, _| 1i64, |_, n: i64, _| Some(n + 1));
            let ones = words.map(|word| (word.to_owned(), 1i64)).by_key();
            ones.track("visits", track.timeout(SECOND * 5)).unwrap()
        };
        assert_eq!(never(|words| words.map(str::to_owned)), None);
        assert_eq!(
            never(|words| words.keyed().agg(count()).unwrap().pairs()),
            None
        );
        let windowed = |words: &DStream<String>| {
            let window = words.keyed().window_agg(SECOND * 6, SECOND * 2, count());
            window.unwrap().pairs()
        };
        assert_eq!(never(windowed), None);
        assert_eq!(never(|words| visits(words).changes().pairs()), None);
        assert_eq!(never(|words| visits(words).timed_out().pairs()), None);
        let whole = never(|words| visits(words).all().pairs()).unwrap();
        assert!(whole.contains("all"), "{whole}");
        assert!(never(|words| words.count().unwrap()).is_some());
        // What comes before a state counts too, whatever is read of it.
        let of_counts = |words: &DStream<String>| {
            let counts = words.count().unwrap().map(|n| (n, 1i64)).by_key();
            let counts = counts.running_agg("counts", count()).unwrap();
            counts.changes().pairs()
        };
        assert!(never(of_counts).is_some());
    }

    #[test]
    fn what_is_joined_looked_up_or_held_is_empty_of_nothing() {
        let ones = |words: &DStream<String>| words.map(|word| (word.to_owned(), 1i64)).by_key();
        assert_eq!(never(|words| words.distinct()), None);
        assert_eq!(
            never(|words| words.reduce(|one, _| one).repartition(3).unwrap()),
            None
        );
        let joined = |words: &DStream<String>| {
            let ones = ones(words);
            let lists = ones
                .full_join(&ones)
                .unwrap()
                .pairs()
                .map(|(word, _)| word.to_owned());
            let groups = ones.cogroup(&ones).unwrap().pairs();
            lists
                .union(&groups.map(|(word, _)| word.to_owned()))
                .unwrap()
        };
        assert_eq!(never(joined), None);
        let looked_up = |words: &DStream<String>| {
            let totals = ones(words).running_agg("totals", count()).unwrap();
            let found = ones(words).with_state(&totals, AsOf::After).unwrap();
            found.pairs().map(|(word, _)| word.to_owned())
        };
        assert_eq!(never(looked_up), None);
        let near = |words: &DStream<String>| {
            let within = Within::new(SECOND, SECOND);
            let near = ones(words).join_within("near", &ones(words), within);
            near.unwrap().first_unmatched().pairs()
        };
        assert_eq!(never(near), None);
        let held = |words: &DStream<String>| {
            let timed = words.by_time("timed", |_| 0, Slack::of(SECOND)).unwrap();
            timed.records().window(SECOND * 3, SECOND).unwrap().latest()
        };
        assert_eq!(never(held), None);
        let results = |words: &DStream<String>| {
            let every = Intervals::every(SECOND);
            ones(words)
                .agg_by_time("results", |_| 0, every, count())
                .unwrap()
        };
        assert_eq!(never(|words| results(words).finals().pairs()), None);
        assert!(never(|words| results(words).all().pairs()).is_some());
        // A window of something that is there in each interval.
        let counted = |words: &DStream<String>| words.count().unwrap().window(SECOND, SECOND);
        assert!(never(|words| counted(words).unwrap()).is_some());
    }

    #[test]
    fn a_query_has_rows_of_nothing_or_not() {
        let of = |query: &str| never(|words| words.sql::<String>(query).unwrap());
        for query in [
            "SELECT upper(value) AS value FROM this WHERE value > 'a' ORDER BY 1 LIMIT 3",
            "SELECT DISTINCT value FROM this",
            "SELECT value FROM this GROUP BY value HAVING count(*) > 1",
            "SELECT a.value FROM this a JOIN this b ON a.value = b.value",
            "SELECT a.value FROM (VALUES ('x')) c(value) JOIN this a ON a.value = c.value",
            "SELECT a.value FROM this a LEFT JOIN (VALUES ('x')) c(value) ON a.value = c.value",
            "SELECT value FROM this WHERE value IN (SELECT max(value) FROM this)",
            "SELECT value FROM this UNION ALL SELECT value FROM this",
        ] {
            assert_eq!(of(query), None, "{query}");
        }
        for query in [
            "SELECT CAST(count(*) AS VARCHAR) AS value FROM this",
            "SELECT 'x' AS value",
            "SELECT value FROM this UNION ALL SELECT 'x' AS value",
            "SELECT c.value FROM (VALUES ('x')) c(value) LEFT JOIN this a ON a.value = c.value",
            "SELECT c.value FROM (VALUES ('x')) c(value) WHERE c.value NOT IN (SELECT value FROM this)",
            "SELECT coalesce(value, 'all') AS value FROM this GROUP BY ROLLUP (value)",
        ] {
            assert!(of(query).is_some(), "{query}");
        }
    }
}
