//! The events of Nexmark: persons, auctions and bids, 1 to 3 to 46, by the rules of the public generator.
//!
//! Event time grows by twelve milliseconds an event; as in the generator, bids prefer a hot auction, auctions a hot
//! seller, and an auction ends when about so many events have followed as its number of open auctions needs. Texts are
//! short, numbers of open auctions and persons smaller than the generator's, so that few events have all cases.

use dstreams::arrow::array::RecordBatch;
use dstreams::{Millis, Record};

use super::table;
use crate::programs::random;

/// Events, enough for an auction whose number is a multiple of 123.
const EVENTS: u64 = 2_000;
const STEP_MS: i64 = 12;
/// How late an event may arrive: with the length of its own interval less than the slack.
const LATE_MS: u64 = 3_500;
const FIRST_PERSON: i64 = 1_000;
const FIRST_AUCTION: i64 = 1_000;
const FIRST_CATEGORY: i64 = 10;
/// Auctions that are open at a time, and persons that are active.
const OPEN: i64 = 20;
const ACTIVE: i64 = 25;

#[derive(Record, Debug, Clone, PartialEq)]
pub struct Person {
    pub id: i64,
    pub name: String,
    pub email: String,
    pub city: String,
    pub state: String,
    pub date_time: Millis,
}

#[derive(Record, Debug, Clone, PartialEq)]
pub struct Auction {
    pub id: i64,
    pub item_name: String,
    pub initial_bid: i64,
    pub reserve: i64,
    pub date_time: Millis,
    pub expires: Millis,
    pub seller: i64,
    pub category: i64,
}

#[derive(Record, Debug, Clone, PartialEq)]
pub struct Bid {
    pub auction: i64,
    pub bidder: i64,
    pub price: i64,
    pub channel: String,
    pub date_time: Millis,
}

/// Events in order of arrival, each with the time at which it arrives, in milliseconds.
pub struct Events {
    pub persons: Vec<(i64, Person)>,
    pub auctions: Vec<(i64, Auction)>,
    pub bids: Vec<(i64, Bid)>,
}

/// The last person and the last auction before event `n`.
fn last_ids(n: u64) -> (i64, i64) {
    let (epoch, offset) = ((n / 50) as i64, n % 50);
    let auctions = match offset {
        0 => epoch * 3 - 1,
        offset => epoch * 3 + (offset.min(4) as i64 - 2).max(-1),
    };
    (FIRST_PERSON + epoch, FIRST_AUCTION + auctions.max(0))
}

/// A price as the generator has it: between 100 and 10^8, by magnitude.
fn price(r: u64) -> i64 {
    (10f64.powf((r % 10_000) as f64 / 10_000.0 * 6.0) * 100.0).round() as i64
}

impl Events {
    /// All events; `seed` says in which order they arrive.
    pub fn arriving(seed: u64) -> Self {
        let mut events = Events {
            persons: Vec::new(),
            auctions: Vec::new(),
            bids: Vec::new(),
        };
        for n in 0..EVENTS {
            let time = n as i64 * STEP_MS;
            let arrival = time + (random(n + seed * EVENTS) % LATE_MS) as i64;
            match n % 50 {
                0 => events.persons.push((arrival, person(n, time))),
                1..4 => events.auctions.push((arrival, auction(n, time))),
                _ => events.bids.push((arrival, bid(n, time))),
            }
        }
        events.persons.sort_by_key(|(at_ms, _)| *at_ms);
        events.auctions.sort_by_key(|(at_ms, _)| *at_ms);
        events.bids.sort_by_key(|(at_ms, _)| *at_ms);
        events
    }

    pub fn last_ms(&self) -> i64 {
        EVENTS as i64 * STEP_MS
    }

    /// The tables `person`, `auction`, and `bid`; `arrival` has the bids with the time at which they arrive.
    pub fn tables(&self) -> [(&'static str, RecordBatch); 4] {
        fn events<T: Record + Clone>(events: &[(i64, T)]) -> RecordBatch {
            table(
                &events
                    .iter()
                    .map(|(_, event)| event.clone())
                    .collect::<Vec<_>>(),
            )
        }
        [
            ("person", events(&self.persons)),
            ("auction", events(&self.auctions)),
            ("bid", events(&self.bids)),
            ("arrival", table(&self.bids)),
        ]
    }
}

fn person(n: u64, time: i64) -> Person {
    const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
    const CITIES: [&str; 5] = ["Phoenix", "Los Angeles", "Boise", "Portland", "Redmond"];
    let (r, (id, _)) = (random(n), last_ids(n));
    let name = format!(
        "{} {}",
        ["Peter", "Paul", "Luke", "Saul"][(r % 4) as usize],
        r / 100 % 9
    );
    Person {
        id,
        email: format!("{}@example.org", name.replace(' ', ".")),
        name,
        city: CITIES[(r / 10 % 5) as usize].to_owned(),
        state: STATES[(r / 1_000 % 6) as usize].to_owned(),
        date_time: Millis(time),
    }
}

fn auction(n: u64, time: i64) -> Auction {
    let (r, (last_person, id)) = (random(n), last_ids(n + 1));
    // Three of four are of the hot seller, a hundredth person in the generator, a fifth one here.
    let seller = match r.is_multiple_of(4) {
        true => last_person - (r / 4) as i64 % ACTIVE,
        false => last_person / 5 * 5,
    };
    // Until so many auctions have followed, on average.
    let horizon = OPEN * 50 / 3 * STEP_MS;
    let initial_bid = price(r / 7);
    Auction {
        id,
        item_name: format!("item {}", r / 100 % 1_000),
        initial_bid,
        reserve: initial_bid + price(r / 11),
        date_time: Millis(time),
        expires: Millis(time + 1 + (r / 13) as i64 % (2 * horizon)),
        seller: seller.max(FIRST_PERSON),
        category: FIRST_CATEGORY + (r / 17) as i64 % 5,
    }
}

fn bid(n: u64, time: i64) -> Bid {
    let (r, (last_person, last_auction)) = (random(n), last_ids(n));
    // Every second one is for the hot auction, a hundredth one in the generator, a ninth one here.
    let auction = match r.is_multiple_of(2) {
        true => last_auction / 9 * 9,
        false => last_auction - (r / 2) as i64 % OPEN,
    };
    let bidder = match r.is_multiple_of(4) {
        true => last_person - (r / 40) as i64 % ACTIVE,
        false => last_person / 5 * 5 + 1,
    };
    Bid {
        auction: auction.max(FIRST_AUCTION),
        bidder: bidder.max(FIRST_PERSON),
        price: price(r / 19),
        channel: ["Google", "Facebook", "Baidu", "Apple"][(r / 23 % 4) as usize].to_owned(),
        date_time: Millis(time),
    }
}

#[test]
fn proportions_and_numbers_are_those_of_the_benchmark() {
    let events = Events::arriving(1);
    let counts = [
        events.persons.len(),
        events.auctions.len(),
        events.bids.len(),
    ];
    assert_eq!(counts, [40, 120, 1_840]);
    let mut auctions: Vec<i64> = events.auctions.iter().map(|(_, it)| it.id).collect();
    auctions.sort();
    assert_eq!(auctions, (1_000..1_120).collect::<Vec<_>>());
    let known = |person: i64| (1_000..1_040).contains(&person);
    assert!(
        events
            .auctions
            .iter()
            .all(|(_, it)| known(it.seller) && it.expires.0 > it.date_time.0)
    );
    assert!(
        events
            .bids
            .iter()
            .all(|(_, it)| known(it.bidder) && it.auction < 1_120)
    );
    let in_order = events
        .bids
        .windows(2)
        .filter(|it| it[0].1.date_time.0 < it[1].1.date_time.0);
    assert!(in_order.count() < 1_200, "no disorder");
}
