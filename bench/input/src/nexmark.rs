//! The events of Nexmark by the rules of the public generator, and two streams for an interval join.
//!
//! One person, three auctions and 46 bids in turn. Half of the bids are for the hot auction, the first of each hundred, the
//! others for one of the last hundred; three of four bidders and sellers are the hot one of a hundred persons, the others
//! one of the last thousand. An auction is open for up to twice the time in which a hundred auctions follow. Prices
//! are between 1 and 10^6, by magnitude, in cents. Texts are numbers of lists ([`texts`]); bids have no address and no
//! filling, which the public generator gives them so that they have 100 bytes.

use crate::columns::Columns;
use crate::rng::Rng;

/// The first number of persons and of auctions.
const FIRST: i64 = 1_000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: usize = 5;
/// Auctions that are open, and persons that are active.
const OPEN: usize = 100;
const ACTIVE: usize = 1_000;
/// One of so many is hot.
const HOT: i64 = 100;
/// Events of a turn, and the auctions among them, which follow one person.
const TURN: i64 = 50;
const AUCTIONS: i64 = 3;

/// The events in order of their times, which are milliseconds.
#[derive(Debug)]
pub struct Events {
    /// Number, name, city, state, time.
    pub persons: Columns,
    /// Number, item, first bid, reserve, time, end, seller, category.
    pub auctions: Columns,
    /// Auction, bidder, price, channel, time.
    pub bids: Columns,
}

/// The lists of texts: names, cities, states, channels, items.
pub fn texts() -> [(&'static str, Vec<String>); 5] {
    let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let first = [
        "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie",
    ];
    let names = first.iter().flat_map(|first| {
        let last = [
            "Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith",
        ];
        last.map(|last| format!("{first} {last}"))
    });
    [
        ("names", names.collect()),
        (
            "cities",
            all(&["Phoenix", "Los Angeles", "Boise", "Portland", "Redmond"]),
        ),
        ("states", all(&["AZ", "CA", "ID", "OR", "WA", "WY"])),
        ("channels", all(&["Google", "Facebook", "Baidu", "Apple"])),
        (
            "items",
            (0..1_000).map(|item| format!("item {item}")).collect(),
        ),
    ]
}

/// The longest time for which an auction is open, in milliseconds, with so many events in a second.
pub fn longest_auction_ms(per_second: u64) -> i64 {
    let events = OPEN as i64 * TURN / AUCTIONS;
    (events * 2_000 / per_second as i64).max(1)
}

fn price(rng: &mut Rng) -> i64 {
    let magnitude = rng.below(1 << 20) as f64 / f64::from(1 << 20) * 6.0;
    (10f64.powf(magnitude) * 100.0).round() as i64
}

/// In all but one of `n` cases.
fn mostly(rng: &mut Rng, n: usize) -> bool {
    rng.below(n) > 0
}

impl Events {
    /// The events with the numbers `0..events`, so many in a second of event time.
    pub fn generate(events: u64, per_second: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0);
        let [names, cities, states, channels, items] = texts().map(|(_, texts)| texts.len());
        let (mut persons, mut auctions, mut bids) =
            (Columns::new(5), Columns::new(8), Columns::new(5));
        let longest = longest_auction_ms(per_second) as usize;
        for n in 0..events as i64 {
            let time = n * 1_000 / per_second as i64;
            let (turn, place) = (n / TURN, n % TURN);
            let person = FIRST + turn;
            if place == 0 {
                let of = [names, cities, states].map(|texts| rng.below(texts) as i64);
                persons.push(&[person, of[0], of[1], of[2], time]);
            } else if place <= AUCTIONS {
                let id = FIRST + turn * AUCTIONS + place - 1;
                let (item, first) = (rng.below(items) as i64, price(&mut rng));
                let reserve = first + price(&mut rng);
                let expires = time + 1 + rng.below(longest) as i64;
                let seller = someone(&mut rng, person, 0);
                let category = FIRST_CATEGORY + rng.below(CATEGORIES) as i64;
                auctions.push(&[id, item, first, reserve, time, expires, seller, category]);
            } else {
                let last = FIRST + turn * AUCTIONS + AUCTIONS - 1;
                let auction = match mostly(&mut rng, 2) {
                    true => last / HOT * HOT,
                    false => last - rng.below(OPEN) as i64,
                };
                let bidder = someone(&mut rng, person, 1);
                let (price, channel) = (price(&mut rng), rng.below(channels) as i64);
                bids.push(&[auction.max(FIRST), bidder, price, channel, time]);
            }
        }
        Self {
            persons,
            auctions,
            bids,
        }
    }
}

/// The hot person, whose number has this rest, or an active one.
fn someone(rng: &mut Rng, last: i64, rest: i64) -> i64 {
    let person = match mostly(rng, 4) {
        true => last / HOT * HOT + rest,
        false => last - rng.below(ACTIVE) as i64,
    };
    person.max(FIRST)
}

/// Two streams of records (key, time, number), `rows` of each in each interval of so many milliseconds, in any order
/// within it; ten times as many keys as such rows.
pub fn pairs(rows: u64, intervals: u64, interval_ms: u64, seed: u64) -> [Columns; 2] {
    [1, 2].map(|stream| {
        let mut rng = Rng::new(seed, stream);
        let mut records = Columns::new(3);
        for interval in 0..intervals {
            for _ in 0..rows {
                let key = rng.below(rows as usize * 10) as i64;
                let time = interval * interval_ms + rng.below(interval_ms as usize) as u64;
                records.push(&[key, time as i64, rng.below(1 << 30) as i64]);
            }
        }
        records
    })
}

/// How a row of an answer is added to its checksum, number by number; texts count with their FNV-1a.
#[inline]
pub fn mix(hash: u64, value: u64) -> u64 {
    let hash = (hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportions_and_numbers_are_those_of_the_benchmark() {
        let events = Events::generate(100_000, 5_000, 1);
        let counts = [&events.persons, &events.auctions, &events.bids].map(Columns::len);
        assert_eq!(counts, [2_000, 6_000, 92_000]);
        let (auctions, bids) = (&events.auctions.0, &events.bids.0);
        assert_eq!(auctions[0], (1_000..7_000).collect::<Vec<_>>());
        // A bid is for an auction that there is, of a person that there is.
        for (at, auction) in bids[0].iter().enumerate() {
            let (time, of) = (bids[4][at], (auction - FIRST) as usize);
            assert!(auctions[4][of] <= time, "{auction} at {time}");
            assert!((1_000..3_000).contains(&bids[1][at]));
        }
        let open = auctions[5].iter().zip(&auctions[4]);
        let longest = open.map(|(end, start)| end - start).max();
        assert!(longest <= Some(longest_auction_ms(5_000)) && longest > Some(600));
        assert_eq!(bids[4].last(), Some(&19_999));
    }

    #[test]
    fn pairs_come_interval_by_interval() {
        for records in pairs(100, 5, 2_000, 1) {
            assert_eq!(records.len(), 500);
            let intervals = records.0[1].iter().map(|time| time / 2_000);
            let wanted = (0..5).flat_map(|interval| [interval; 100]);
            assert!(intervals.eq(wanted));
        }
    }
}
