//! Queries give the same whatever the number of partitions, or are refused: what can be seen of it is in the tests of
//! determinism, what is refused here.

use crate::program::{Program, small};

#[test]
fn what_differs_from_run_to_run_is_refused() {
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
