//! Reductions by closures equal a naive reference: of whole RDDs, and of keys.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::program::{cases, each, intervals, run, settings, sorted, text};

fn groups<V>(pairs: Vec<(String, V)>) -> BTreeMap<String, Vec<V>> {
    let mut groups = BTreeMap::<_, Vec<V>>::new();
    for (key, value) in pairs {
        groups.entry(key).or_default().push(value);
    }
    groups
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn an_rdd_is_reduced_in_order_of_arrival(config in settings(), input in intervals(text(), 5)) {
        let got = run(&config, &input, |_, texts| texts.reduce(|a, b| a + "/" + &b));
        let wanted = each(&input, |texts| match texts.is_empty() {
            true => vec![],
            false => vec![texts.join("/")],
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn records_without_columns_are_reduced(config in settings(), input in intervals(any::<bool>(), 3)) {
        let got = run(&config, &input, |_, all| all.map(|_| ()).reduce(|(), ()| ()));
        prop_assert_eq!(got, each(&input, |all| all.first().map(|_| ()).into_iter().collect()));
    }

    #[test]
    fn values_are_combined_to_another_type(
        config in settings(),
        input in intervals((text(), text()), 4),
    ) {
        // Their number, and they themselves in order of arrival.
        let got = run(&config, &input, |_, pairs| {
            let combined = pairs.by_key().combine_by_key(
                |value| (1i64, value.to_owned()),
                |(count, all), value| (count + 1, all + "/" + value),
                |(m, a), (n, b)| (m + n, a + "/" + &b),
            );
            combined.pairs()
        });
        let wanted = each(&input, |rows| {
            let groups = groups(rows).into_iter();
            groups.map(|(key, all)| (key, (all.len() as i64, all.join("/")))).collect()
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }
}
