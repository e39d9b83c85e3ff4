//! Fraud: rules with a state for each user, and limits of each country that change while the program runs.

use dstreams::testing::{TestProgram, records};
use dstreams::{AsOf, DStream, Decimal, MapWithState, Millis, Record, Result};

use super::{SECOND, random, sql, table};
use crate::program::block_on;

type Amount = Decimal<12, 2>;

#[derive(Record, Debug, Clone)]
struct Payment {
    id: i64,
    user: i64,
    amount: Amount,
    country: String,
    at: Millis,
}

#[derive(Record, Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Rule {
    Often,
    Countries,
    Limit,
}

#[derive(Record)]
struct Recent {
    at: Millis,
    country: String,
}

/// Alerts: the payment, and the rule.
type Alert = (i64, Rule);
type Rules = MapWithState<i64, Payment, Vec<Recent>, Alert>;

fn describe(
    payments: &DStream<Payment>,
    limits: &DStream<(String, Amount)>,
) -> Result<(DStream<Alert>, DStream<(String, Payment)>)> {
    let judged = payments.try_map(|payment| match payment.amount.0 > 0 {
        true => Ok(Payment::own(payment)),
        false => Err("an amount that is not positive"),
    });
    let rules = Rules::new(|_user, payment, recent, out| {
        let Some(payment) = payment else { return }; // nothing for a quarter of an hour
        let mut of_user = recent.remove().unwrap_or_default();
        of_user.retain(|it| payment.at.0 - it.at.0 < 600_000);
        if of_user
            .iter()
            .filter(|it| payment.at.0 - it.at.0 < 60_000)
            .count()
            >= 5
        {
            out.push((payment.id, Rule::Often));
        }
        if of_user.iter().any(|it| it.country != payment.country) {
            out.push((payment.id, Rule::Countries));
        }
        of_user.push(Recent {
            at: payment.at,
            country: payment.country.to_owned(),
        });
        recent.set(of_user);
    });
    let by_user = judged.ok().key_by(|payment| payment.user);
    let (alerts, _) = by_user.map_with_state("recent", rules.timeout(900 * SECOND))?;

    let limits = limits
        .by_key()
        .update_state_by_key("limits", |_, limits, before| limits.last().or(before))?;
    let by_country = judged
        .ok()
        .key_by_into::<String>(|payment, key| key.push(payment.country));
    let by_country = by_country.with_state(&limits, AsOf::After)?;
    let above = by_country
        .filter(|_, (payment, limit)| limit.is_some_and(|limit| payment.amount.0 > limit.0));
    let above = above
        .pairs()
        .map(|(_, (payment, _limit))| (payment.id, Rule::Limit));
    Ok((alerts.union(&above)?, judged.rejected()))
}

#[test]
fn payments_that_look_like_fraud() {
    const COUNTRIES: [&str; 3] = ["DE", "FR", "NL"];
    block_on(async {
        let interval = 20 * SECOND;
        let mut test = TestProgram::new(interval).unwrap();
        let (pay, payments) = test.context().queue::<Payment>("payments");
        let (limit, limits) = test.context().queue::<(String, Amount)>("limits");
        let (alerts, rejected) = describe(&payments, &limits).unwrap();
        let (mut alerts, mut rejected) = (alerts.collect(), rejected.collect());

        let payment = |n: i64| {
            let r = random(n as u64);
            let user = (r % 8 + r / 8 % 8) as i64;
            // Who is away is rarely away.
            let country = COUNTRIES[if r.is_multiple_of(40) {
                1
            } else {
                user as usize % 3
            }];
            Payment {
                id: n,
                user,
                amount: Decimal(i128::from(r / 1_000 % 20_000) - 100),
                country: country.to_owned(),
                at: Millis(n * 1_900),
            }
        };
        let all: Vec<Payment> = (0..500).map(payment).collect();
        // The interval from which on a limit holds, the country, the limit.
        let changes: Vec<(i64, (String, Amount))> = [
            (3, "DE", 15_000),
            (3, "FR", 18_000),
            (20, "DE", 12_000),
            (40, "FR", 1),
        ]
        .map(|(from, country, most)| (from, (country.to_owned(), Decimal(most))))
        .to_vec();
        let mut run = test.start().await.unwrap();
        for interval in 0..48 {
            let changed = changes.iter().filter(|(from, _)| *from == interval);
            limit
                .push(changed.map(|(_, limit)| limit.clone()))
                .await
                .unwrap();
            let paid = all
                .iter()
                .filter(|payment| payment.at.0 / 20_000 == interval);
            pay.push(paid.cloned()).await.unwrap();
            run.end_interval().await.unwrap();
        }
        run.stop().await.unwrap();

        let tables = [("all_payments", table(&all)), ("limits", table(&changes))];
        let wanted = "
            with p as (select id, \"user\" as u, amount, country, cast(at as bigint) as at
                       from all_payments where amount > 0),
                 pairs as (select p.id, q.country <> p.country as elsewhere, p.at - q.at as ms
                           from p join p q on p.u = q.u and q.id < p.id and p.at - q.at < 600000)
            select id, 0 from pairs where ms < 60000 group by id having count(*) >= 5
            union all select distinct id, 1 from pairs where elsewhere
            union all select p.id, 2 from p join limits l on l.value_key = p.country
              where l.key <= p.at / 20000
                and not exists (select 1 from limits m where m.value_key = p.country
                                and m.key > l.key and m.key <= p.at / 20000)
                and p.amount > l.value_value";
        let mut wanted: Vec<(i64, i64)> = sql(&tables, wanted).await;
        wanted.sort();
        let mut found: Vec<_> = records(&mut alerts).unwrap();
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let found: Vec<_> = found
            .into_iter()
            .map(|(id, rule)| (id, rule as i64))
            .collect();
        assert_eq!(found, wanted);
        for rule in 0..3 {
            assert!(
                wanted.iter().any(|(_, it)| *it == rule),
                "no alert of rule {rule}"
            );
        }
        let rejected = records(&mut rejected).unwrap();
        let bad: i64 = rejected.iter().map(|(_, payment)| payment.id).sum();
        let wanted = all.iter().filter(|payment| payment.amount.0 <= 0);
        assert_eq!(bad, wanted.map(|payment| payment.id).sum::<i64>());
        assert!(rejected[0].0.contains("not positive"));
    });
}
