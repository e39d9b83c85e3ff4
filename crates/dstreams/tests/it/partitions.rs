//! Queries give the same for any number of partitions, or are refused: the tests of determinism check the former,
//! this file the latter.

use crate::program::{Program, small};

#[test]
fn nondeterministic_queries_are_refused() {
    let mut program = Program::new(small(1, 1, 1));
    let (_, pairs) = program.ctx.queue::<(String, f64)>("in");
    for (query, name) in [
        (
            "select key, sum(distinct value) as value from this group by key",
            "sum(distinct",
        ),
        (
            "select key, avg(distinct value + 1) as value from this group by key",
            "avg(distinct",
        ),
        ("select key, random() as value from this", "random"),
    ] {
        let refused = pairs.sql::<(String, f64)>(query).err().unwrap().to_string();
        assert!(
            refused.contains(name) && refused.contains("same result"),
            "{refused}"
        );
    }
    let _ = pairs
        .sql::<(String, i64)>(
            "select key, sum(distinct cast(value as bigint)) as value from this group by key",
        )
        .unwrap();
}
