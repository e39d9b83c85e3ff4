//! Queries of single bids, and of windows.

use std::time::Duration;

use dstreams::agg::{count, max_of};
use dstreams::{Millis, Record, Sessions};

use super::{INTERVAL, check, interval};

/// 0: the bids as they are.
#[test]
fn q0_passthrough() {
    let wanted = format!(
        "select {}, auction, bidder, price from bid",
        interval("date_time", 2_000)
    );
    check(
        |streams| Ok(streams.bids.map(|bid| (bid.auction, bid.bidder, bid.price))),
        &as_pairs(&wanted),
    );
}

/// Names the columns of a query over an interval and three more as a pair of the interval and a tuple.
fn as_pairs(query: &str) -> String {
    format!(
        "with q(key, a, b, c) as ({query}) select key, a as value__1, b as value__2, c as value__3 from q"
    )
}

/// 1: prices in euros, here in thousandths of the benchmark's 0.908.
#[test]
fn q1_currency() {
    let wanted = format!(
        "select {}, auction, bidder, price * 908 from bid",
        interval("date_time", 2_000)
    );
    check(
        |streams| {
            Ok(streams
                .bids
                .map(|bid| (bid.auction, bid.bidder, bid.price * 908)))
        },
        &as_pairs(&wanted),
    );
}

/// 2: bids on some auctions.
#[test]
fn q2_selection() {
    let wanted = format!(
        "select {}, auction, price from bid where auction % 123 = 0",
        interval("date_time", 2_000)
    );
    check(
        |streams| {
            let bids = streams.bids.filter(|bid| bid.auction % 123 == 0);
            Ok(bids.map(|bid| (bid.auction, bid.price)))
        },
        &wanted,
    );
}

/// 5: the auctions with the most bids of the last ten seconds, every two.
#[test]
fn q5_hot_items() {
    let wanted = "
        with counts as (
          select e.e as e, b.auction, count(*) as n
          from bid b join (select value as e from generate_series(2000, 36000, 2000)) e
            on cast(b.date_time as bigint) < e.e and cast(b.date_time as bigint) >= e.e - 10000
          group by 1, 2)
        select e, auction, n from counts c
        where n = (select max(n) from counts m where m.e = c.e)";
    check(
        |streams| {
            let counts = streams.bids.key_by(|bid| bid.auction);
            let counts = counts.window_agg(5 * INTERVAL, INTERVAL, count())?;
            counts.sql::<(i64, i64)>(
                "select key, value from this where value = (select max(value) from this)",
            )
        },
        wanted,
    );
}

#[derive(Record, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Highest {
    auction: i64,
    price: i64,
    bidder: i64,
    at: i64,
}

/// 7: the highest bids of each ten seconds.
#[test]
fn q7_highest_bid() {
    let wanted = format!(
        "select e, auction, price, bidder, at from (
           select {} as e, auction, price, bidder, cast(date_time as bigint) as at,
                  max(price) over (partition by {}) as highest from bid)
         where price = highest",
        interval("date_time", 10_000),
        interval("date_time", 10_000)
    );
    check(
        |streams| {
            let ten = 5 * INTERVAL;
            streams.bids.window(ten, ten)?.sql::<Highest>(
                "select auction, price, bidder, cast(date_time as bigint) as at
                 from this where price = (select max(price) from this)",
            )
        },
        &wanted,
    );
}

/// 7 without a query: each bid beside the greatest price of its window, which is an aggregate. The join is of all with all
/// by a key that is the same for all.
#[test]
fn q7_highest_bid_by_a_join() {
    let end = interval("date_time", 10_000);
    let wanted = format!("select {end}, max(price) as price from bid group by 1");
    check(
        |streams| {
            let ten = 5 * INTERVAL;
            let bids = streams.bids.key_by(|_| 0i64);
            let highest = bids.window_agg(ten, ten, max_of::<i64>("price"))?;
            let pairs = bids.window(ten, ten)?.join(&highest)?;
            let winning = pairs.filter(|_, (bid, highest)| bid.price == highest);
            Ok(winning.pairs().map(|(_, (bid, _))| bid.price).distinct())
        },
        &wanted,
    );
}

/// 8: persons who registered and opened an auction in the same ten seconds.
#[test]
fn q8_monitor_new_users() {
    let wanted = format!(
        "select distinct {}, p.id, p.name from person p join auction a on a.seller = p.id and {} = {}",
        interval("p.date_time", 10_000),
        interval("p.date_time", 10_000),
        interval("a.date_time", 10_000)
    );
    check(
        |streams| {
            let ten = 5 * INTERVAL;
            let persons = streams
                .persons
                .key_by(|person| person.id)
                .window(ten, ten)?;
            let sellers = streams.auctions.map(|auction| auction.seller);
            let sellers = sellers.window(ten, ten)?.distinct();
            let new = persons.join(&sellers.keyed())?.pairs();
            Ok(new.map(|(id, (person, ()))| (id, person.name.to_owned())))
        },
        &wanted,
    );
}

/// 11: the bids of each bidder by sessions, which end when there was no bid for ten seconds. So few events hardly have two
/// sessions of a bidder, so shorter gaps are checked too.
#[test]
fn q11_user_sessions() {
    for gap_ms in [2_000, 10_000] {
        let wanted = format!(
            "with steps as (
               select bidder, cast(date_time as bigint) as at,
                      lag(cast(date_time as bigint)) over (partition by bidder order by date_time) as before from bid),
             numbered as (
               select bidder, at, sum(case when at - before < {gap_ms} then 0 else 1 end)
                 over (partition by bidder order by at rows unbounded preceding) as session from steps)
             select (max(at) + {gap_ms} + 1999) / 2000 * 2000 as key, bidder as value__1, min(at) as value__2, max(at) + {gap_ms} as value__3,
                    count(*) as value__4
             from numbered group by bidder, session"
        );
        check(
            |streams| {
                let bids = streams.bids.key_by(|bid| bid.bidder);
                let sessions = Sessions::gap(Duration::from_millis(gap_ms as u64));
                let sessions =
                    bids.session_agg("sessions", |bid| bid.date_time.0, sessions, count())?;
                let ended = sessions.ended().pairs();
                Ok(ended.map(move |(bidder, ((first, last), bids))| {
                    (bidder, first, last + gap_ms, bids)
                }))
            },
            &wanted,
        );
    }
}

/// 12: the bids of each bidder in ten seconds of processing time, which here are batch times: those at which bids arrive,
/// and so another answer for each order of arrival.
#[test]
fn q12_processing_time_windows() {
    let wanted = format!(
        "select {}, value_bidder, count(*) from arrival group by 1, 2",
        interval("key", 10_000)
    );
    check(
        |streams| {
            let ten = 5 * INTERVAL;
            let bids = streams.arriving.key_by(|bid| bid.bidder);
            Ok(bids.window_agg(ten, ten, count())?.pairs())
        },
        &wanted,
    );
}

/// The time of a record is a timestamp in queries.
#[test]
fn times_are_timestamps_in_queries() {
    let wanted = format!(
        "select {}, date_time from auction",
        interval("date_time", 2_000)
    );
    check(
        |streams| {
            let times = streams.auctions.sql::<Millis>("select date_time from this");
            Ok(times?.map(|at| at.0))
        },
        &wanted.replace(", date_time from", ", cast(date_time as bigint) from"),
    );
}
