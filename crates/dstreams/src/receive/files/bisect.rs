//! Finds the rows of a batch that are no records: few of them cost little.

use datafusion::arrow::array::RecordBatch;

/// Pieces of `rows` that `fit`, in order, and the places of the rows that do not, with the reason of each.
pub(super) fn bisect(
    rows: &RecordBatch,
    fit: &impl Fn(&RecordBatch) -> Result<RecordBatch, String>,
) -> (Vec<RecordBatch>, Vec<(usize, String)>) {
    let mut found = (Vec::new(), Vec::new());
    search(rows, 0, fit, &mut found);
    found
}

fn search(
    rows: &RecordBatch,
    first: usize,
    fit: &impl Fn(&RecordBatch) -> Result<RecordBatch, String>,
    found: &mut (Vec<RecordBatch>, Vec<(usize, String)>),
) {
    match (fit(rows), rows.num_rows()) {
        (Ok(fitted), _) => found.0.push(fitted),
        (Err(_), 0) => {}
        (Err(why), 1) => found.1.push((first, why)),
        (Err(_), all) => {
            let half = all / 2;
            search(&rows.slice(0, half), first, fit, found);
            search(&rows.slice(half, all - half), first + half, fit, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::compute::concat_batches;
    use datafusion::arrow::datatypes::Int64Type;
    use proptest::prelude::*;
    use std::cell::Cell;

    use super::*;
    use crate::stream::record::batch_of;

    fn numbers(rows: &RecordBatch) -> Vec<i64> {
        rows.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn each_row_is_good_or_bad(all in prop::collection::vec(-2..20i64, 0..60)) {
            let rows = batch_of(all.clone()).unwrap();
            let fit = |rows: &RecordBatch| match numbers(rows).iter().find(|n| **n < 0) {
                None => Ok(rows.clone()),
                Some(n) => Err(n.to_string()),
            };
            let (good, bad) = bisect(&rows, &fit);
            let good = concat_batches(&rows.schema(), &good).unwrap();
            prop_assert_eq!(numbers(&good), all.iter().copied().filter(|n| *n >= 0).collect::<Vec<_>>());
            let all = all.into_iter().enumerate().filter(|(_, n)| *n < 0);
            prop_assert_eq!(bad, all.map(|(at, n)| (at, n.to_string())).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_bad_row_takes_few_looks() {
        let rows = batch_of((0..4096).map(|n| if n == 1234 { -1i64 } else { n })).unwrap();
        let looks = Cell::new(0);
        let fit = |rows: &RecordBatch| {
            looks.set(looks.get() + 1);
            let is_good = numbers(rows).iter().all(|n| *n >= 0);
            is_good.then(|| rows.clone()).ok_or_else(String::new)
        };
        assert_eq!(bisect(&rows, &fit).1, [(1234, String::new())]);
        assert!(looks.get() < 30, "{looks:?}");
    }
}
