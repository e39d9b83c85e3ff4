//! Orders with the exchange rate that was in force when each was placed, though both arrive late.

use std::collections::BTreeMap;

use dstreams::testing::{TestProgram, records, sorted};
use dstreams::{AsOf, DStream, Record, Result, Slack};

use super::{SECOND, arrivals, end_of, random};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Order {
    id: i64,
    currency: String,
    cents: i64,
    at_ms: i64,
}

/// A currency without a rate is no longer traded.
#[derive(Record, Debug, Clone)]
struct Rate {
    currency: String,
    rate: Option<i64>,
    at_ms: i64,
}

/// The order, and its price.
type Priced = (i64, Option<i64>);

fn describe(orders: &DStream<Order>, rates: &DStream<Rate>) -> Result<DStream<Priced>> {
    let slack = Slack::of(3 * SECOND);
    let orders = orders.by_time("orders", |it| it.at_ms, slack)?.records();
    let rates = rates.by_time("changes", |it| it.at_ms, slack)?.records();
    let rates = rates.key_by_into::<String>(|it, key| key.push(it.currency));
    let rates = rates.update_state_by_key("rates", |_, changes, _before| {
        // Changes of one second come in any order.
        changes
            .max_by_key(|it| it.at_ms)
            .and_then(|newest| newest.rate)
    })?;
    let orders = orders.key_by_into::<String>(|it, key| key.push(it.currency));
    let priced = orders.with_state(&rates, AsOf::After)?.pairs();
    Ok(priced.map(|(_, (order, rate))| (order.id, rate.map(|rate| rate * order.cents))))
}

#[test]
fn orders_at_the_rate_of_their_time() {
    const CURRENCIES: [&str; 4] = ["CHF", "DKK", "NOK", "SEK"];
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (order, orders) = test.context().queue::<Order>("orders");
        let (change, rates) = test.context().queue::<Rate>("rates");
        let mut priced = describe(&orders, &rates).unwrap().collect();

        let delay = |r: u64| (r / 1_000_000 % 3_000) as i64;
        let orders: Vec<(i64, Order)> = (0..200)
            .map(|id| {
                let (r, at_ms) = (random(id as u64), id * 97);
                let currency = CURRENCIES[(r % 4) as usize].to_owned();
                let cents = (r / 100 % 1_000) as i64;
                (
                    at_ms + delay(r),
                    Order {
                        id,
                        currency,
                        cents,
                        at_ms,
                    },
                )
            })
            .collect();
        // NOK never has one.
        let rates: Vec<(i64, Rate)> = (0..60)
            .map(|n| {
                let (r, at_ms) = (random(1_000 + n as u64), n * 311);
                let currency = ["CHF", "DKK", "SEK"][(r % 3) as usize].to_owned();
                let rate = (!r.is_multiple_of(5)).then_some((r / 100 % 100) as i64);
                (
                    at_ms + delay(r),
                    Rate {
                        currency,
                        rate,
                        at_ms,
                    },
                )
            })
            .collect();
        let of = |id: i64| {
            let (_, order) = &orders[id as usize];
            let mut known = BTreeMap::new();
            for (_, rate) in &rates {
                if end_of(rate.at_ms, 1_000) <= end_of(order.at_ms, 1_000) {
                    known.insert(rate.currency.as_str(), rate.rate);
                }
            }
            let rate = known.get(order.currency.as_str()).copied().flatten();
            (id, rate.map(|rate| rate * order.cents))
        };
        let wanted: Vec<Priced> = (0..200).map(of).collect();
        let without = wanted.iter().filter(|(_, price)| price.is_none()).count();
        assert!((60..140).contains(&without), "{without}");

        let mut run = test.start().await.unwrap();
        for (ordered, changed) in arrivals(orders, 28).into_iter().zip(arrivals(rates, 28)) {
            order.push(ordered).await.unwrap();
            change.push(changed).await.unwrap();
            run.end_interval().await.unwrap();
        }
        run.stop().await.unwrap();
        assert_eq!(sorted(records(&mut priced).unwrap()), wanted);
    });
}
