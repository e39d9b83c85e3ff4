//! Queries without windows: their results change with each batch.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dstreams::agg::sum_of;
use dstreams::{AsOf, Config, DStream, Keyed, Record, Result, Track, Within};

use super::events::{Auction, AuctionRef, Bid, BidRef, Events, Person};
use super::{INTERVAL, INTERVAL_MS, Streams, check, cut, interval, run};
use crate::program::block_on;
use crate::programs::sql;

/// 3: who sells in a category in some states. Over event time the seller is known before the auction; the benchmark's
/// join is not bounded, and neither is the state of persons here.
#[test]
fn q3_local_item_suggestion() {
    let wanted = format!(
        "select {}, p.name, p.city, p.state, a.id from auction a join person p on a.seller = p.id
         where a.category = 10 and p.state in ('OR', 'ID', 'CA')",
        interval("a.date_time", 2_000)
    );
    check(
        |streams| {
            let persons = streams
                .persons
                .filter(|it| ["OR", "ID", "CA"].contains(&it.state));
            let persons = persons
                .key_by(|person| person.id)
                .update_state_by_key("sellers", |_, mut persons, before| {
                    before.or_else(|| persons.next().map(Person::own))
                })?;
            let auctions = streams.auctions.filter(|auction| auction.category == 10);
            let sold = auctions.key_by(|auction| auction.seller);
            let sold = sold.with_state(&persons, AsOf::After)?;
            Ok(sold.pairs().flat_map::<(String, String, String, i64)>(
                |(_, (auction, person)), out| {
                    if let Some(person) = person {
                        out.push((person.name, person.city, person.state, auction.id));
                    }
                },
            ))
        },
        &wanted,
    );
}

/// The bids of each auction while it is open, each once. No auction is open for longer than 8 seconds.
fn valid_bids(streams: &Streams) -> Result<Keyed<i64, (Auction, Bid)>> {
    let bids = streams.bids.key_by(|bid| bid.auction);
    let within = Within::new(std::time::Duration::ZERO, 5 * INTERVAL);
    let auctions = streams.auctions.key_by(|auction| auction.id);
    let near = auctions
        .join_within("open auctions", &bids, within)?
        .pairs();
    let is_valid = |auction: AuctionRef<'_>, bid: BidRef<'_>| {
        auction.date_time.0 <= bid.date_time.0 && bid.date_time.0 <= auction.expires.0
    };
    Ok(near.filter(move |_, (auction, bid)| is_valid(auction, bid)))
}

/// The bids that SQL joins, of the events until an interval.
const VALID: &str = "auction a join bid b on a.id = b.auction
    and b.date_time between a.date_time and a.expires
    and cast(b.date_time as bigint) < {end} and cast(a.date_time as bigint) < {end}";

/// The newest row of each key, where rows with a later interval replace those before, is that of SQL after each interval.
fn check_changes<K: Record + Ord + Clone + Debug, V: Record + Clone + Debug + PartialEq>(
    build: impl Fn(&Streams) -> Result<DStream<(K, V)>>,
    query: &str,
) {
    for (seed, config) in [(3, Config::new(INTERVAL)), (4, cut())] {
        let events = Events::arriving(seed);
        let mut newest = BTreeMap::<K, V>::new();
        for (end, rows) in run(&config, &events, &build) {
            newest.extend(rows);
            if end % (4 * INTERVAL_MS) != 0 {
                continue;
            }
            let query = query
                .replace("{valid}", VALID)
                .replace("{end}", &end.to_string());
            let wanted: BTreeMap<K, V> = block_on(sql::<(K, V)>(&events.tables(), &query))
                .into_iter()
                .collect();
            assert_eq!(newest, wanted, "{end}, seed {seed}");
        }
        assert!(newest.len() > 3, "{newest:?}");
    }
}

/// 4: the average winning price of each category. What a batch makes of the highest bid of an auction is added to the
/// sums of its category, and what it was before is taken away.
#[test]
fn q4_average_price_of_a_category() {
    check_changes(
        |streams| {
            let prices = valid_bids(streams)?.pairs();
            let prices = prices.map(|(id, (auction, bid))| ((id, auction.category), bid.price));
            let highest = Track::<(i64, i64), i64, i64>::new(|_, price| price, |_, highest, price| Some(highest.max(price)));
            let highest = prices.by_key().track("highest", highest)?;
            let changes = highest.changes().with_state(&highest, AsOf::Before)?.pairs();
            let changes = changes.map(|((_id, category), (now, before))| {
                (category, (now - before.unwrap_or(0), i64::from(before.is_none())))
            });
            let sums = (sum_of::<i64>("key"), sum_of::<i64>("value"));
            let sums = changes.by_key().running_agg("categories", sums)?.changes();
            Ok(sums.map_values(|(sum, auctions)| sum as f64 / auctions as f64).pairs())
        },
        "select category as key, avg(final) as value
         from (select max(b.price) as final, a.category from {valid} group by a.id, a.category) group by 1",
    );
}

/// 9: the winning bid of each auction: the highest, and of those the earliest.
#[test]
fn q9_winning_bids() {
    check_changes(
        |streams| {
            let bids = valid_bids(streams)?;
            let bids = bids.map_values(|(_, bid)| (bid.price, -bid.date_time.0, bid.bidder));
            let winning = bids.update_state_by_key("winning", |_, bids, before| {
                bids.chain(before).max_by_key(|(price, earliness, _)| (*price, *earliness))
            })?;
            Ok(winning.changes().map_values(|(price, earliness, bidder)| (price, -earliness, bidder)).pairs())
        },
        "select id as key, price as value__1, at as value__2, bidder as value__3 from (
           select a.id, b.price, cast(b.date_time as bigint) as at, b.bidder,
                  row_number() over (partition by a.id order by b.price desc, b.date_time) as place from {valid})
         where place = 1",
    );
}
