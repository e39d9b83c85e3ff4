//! The queries of Nexmark as programs, and an interval join; the tests of `dstreams` hold the queries against plain SQL.

use std::path::Path;
use std::time::Duration;

use bench_input::nexmark::longest_auction_ms;
use dstreams::agg::{count, sum_of};
use dstreams::arrow::array::RecordBatch;
use dstreams::{
    AsOf, DStream, Keyed, Queue, Record, Sessions, Slack, StreamContext, Track, Within,
};

use super::records::{self, Answer, Auction, AuctionRef, Bid, BidRef, Pair, Person, Table};
use super::{INTERVAL, INTERVAL_MS, Outcome, Size};

/// The length of the windows, and the gap of sessions.
const TEN_SECONDS: Duration = Duration::from_secs(10);
/// Categories of auctions are numbers from this one on.
const CATEGORY: i64 = 10;
/// Times of joined records differ by this at most.
const NEAR: Duration = Duration::from_secs(4);

/// The sources of a program.
pub struct Inputs<'a> {
    pub ctx: &'a mut StreamContext,
    pub folder: &'a Path,
    pub size: &'a Size,
    feeds: Vec<Feed>,
}

/// The batches of a stream.
pub struct Feed {
    pub table: Table,
    queue: Pushed,
}

enum Pushed {
    Persons(Queue<Person>),
    Auctions(Queue<Auction>),
    Bids(Queue<Bid>),
    Pairs(Queue<Pair>),
}

impl Feed {
    pub async fn push(&self, rows: RecordBatch) -> dstreams::Result<()> {
        match &self.queue {
            Pushed::Persons(queue) => queue.push_batch(rows).await,
            Pushed::Auctions(queue) => queue.push_batch(rows).await,
            Pushed::Bids(queue) => queue.push_batch(rows).await,
            Pushed::Pairs(queue) => queue.push_batch(rows).await,
        }?;
        Ok(())
    }
}

/// The streams by event time are without slack: no event comes after its interval.
fn slack() -> Slack {
    Slack::of(Duration::ZERO)
}

impl<'a> Inputs<'a> {
    pub fn new(ctx: &'a mut StreamContext, folder: &'a Path, size: &'a Size) -> Self {
        Inputs {
            ctx,
            folder,
            size,
            feeds: Vec::new(),
        }
    }

    /// The streams that the program reads.
    pub fn feeds(self) -> Vec<Feed> {
        self.feeds
    }

    /// The persons as they come.
    fn persons(&mut self) -> Outcome<DStream<Person>> {
        let table = records::persons(self.folder, self.size.intervals())?;
        let (queue, stream) = self.ctx.queue("persons");
        let queue = Pushed::Persons(queue);
        self.feeds.push(Feed { table, queue });
        Ok(stream)
    }

    fn auctions(&mut self) -> Outcome<DStream<Auction>> {
        let table = records::auctions(self.folder, self.size.intervals())?;
        let (queue, stream) = self.ctx.queue("auctions");
        let queue = Pushed::Auctions(queue);
        self.feeds.push(Feed { table, queue });
        Ok(stream)
    }

    fn bids(&mut self) -> Outcome<DStream<Bid>> {
        let table = records::bids(self.folder, self.size.intervals())?;
        let (queue, stream) = self.ctx.queue("bids");
        let queue = Pushed::Bids(queue);
        self.feeds.push(Feed { table, queue });
        Ok(stream)
    }

    /// The bids by event time.
    fn bids_by_time(&mut self) -> Outcome<DStream<Bid>> {
        let bids = self.bids()?;
        Ok(bids
            .by_time("bids", |bid| bid.date_time.0, slack())?
            .records())
    }

    /// One of two streams of records by event time.
    fn pairs(&mut self, stream: usize) -> Outcome<Keyed<i64, (i64, i64)>> {
        let table = records::of_pairs(self.folder, stream, self.size.intervals())?;
        let name = ["first", "second"][stream];
        let (queue, records) = self.ctx.queue::<Pair>(name);
        let queue = Pushed::Pairs(queue);
        self.feeds.push(Feed { table, queue });
        let records = records.by_time(name, |(_, (time, _))| time, slack())?;
        Ok(records.records().by_key())
    }

    /// The bids of each auction while it is open, by event time.
    fn valid_bids(&mut self) -> Outcome<Keyed<i64, (Auction, Bid)>> {
        let auctions = self.auctions()?;
        let auctions = auctions.by_time("auctions", |auction| auction.date_time.0, slack())?;
        let bids = self.bids_by_time()?.key_by(|bid| bid.auction);
        let longest = longest_auction_ms(self.size.per_second) as u64 / INTERVAL_MS + 1;
        let within = Within::new(Duration::ZERO, INTERVAL * longest as u32);
        let auctions = auctions.records().key_by(|auction| auction.id);
        let near = auctions.join_within("open auctions", &bids, within)?;
        let is_valid = |auction: AuctionRef<'_>, bid: BidRef<'_>| {
            auction.date_time.0 <= bid.date_time.0 && bid.date_time.0 <= auction.expires.0
        };
        let near = near.pairs();
        Ok(near.filter(move |_, (auction, bid)| is_valid(auction, bid)))
    }
}

/// Adds all rows.
fn rows<T: Record>(stream: &DStream<T>, answer: &Answer) -> Outcome<()> {
    let answer = answer.clone();
    stream.for_each_rdd(move |rdd| answer.add(&rdd));
    Ok(())
}

/// Adds the newest row of each key.
fn newest<T: Record>(stream: &DStream<T>, answer: &Answer) -> Outcome<()> {
    let answer = answer.clone();
    stream.for_each_rdd(move |rdd| answer.replace(&rdd));
    Ok(())
}

/// Describes the program of a work.
pub fn describe(work: &str, inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    match work {
        "q0" => {
            let bids = inputs.bids()?;
            let same = bids.map(|bid| (bid.auction, bid.bidder, bid.price, bid.date_time.0));
            rows(&same, answer)
        }
        "q1" => {
            let bids = inputs.bids()?;
            let euros = bids.map(|bid| (bid.auction, bid.bidder, bid.price * 908, bid.date_time.0));
            rows(&euros, answer)
        }
        "q2" => {
            let bids = inputs.bids()?.filter(|bid| bid.auction % 123 == 0);
            rows(&bids.map(|bid| (bid.auction, bid.price)), answer)
        }
        "q3" => local_items(inputs, answer),
        "q4" => average_prices(inputs, answer),
        "q5" => hot_items(inputs, answer),
        "q7" => highest_bids(inputs, answer),
        "q8" => new_users(inputs, answer),
        "q9" => winning_bids(inputs, answer),
        "q11" => {
            let bids = inputs.bids_by_time()?.key_by(|bid| bid.bidder);
            let time = |bid: BidRef<'_>| bid.date_time.0;
            let sessions = Sessions::gap(TEN_SECONDS);
            let sessions = bids.session_agg("sessions", time, sessions, count())?;
            rows(&sessions.ended().pairs(), answer)
        }
        "q12" => {
            // Of batch times: the processing time of a program that keeps up.
            let bids = inputs.bids()?.key_by(|bid| bid.bidder);
            let counts = bids.window_agg(TEN_SECONDS, TEN_SECONDS, count())?;
            rows(&counts.pairs(), answer)
        }
        "within" => within(inputs, answer),
        other => Err(format!("no work {other:?}").into()),
    }
}

fn local_items(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let persons = inputs.persons()?;
    let persons = persons.filter(|person| ["OR", "ID", "CA"].contains(&person.state));
    let persons = persons.key_by(|person| person.id);
    let sellers = persons.update_state_by_key("sellers", |_, mut persons, before| {
        before.or_else(|| persons.next().map(Person::own))
    })?;
    let auctions = inputs.auctions()?;
    let auctions = auctions.filter(|auction| auction.category == CATEGORY);
    let sold = auctions.key_by(|auction| auction.seller);
    let sold = sold.with_state(&sellers, AsOf::After)?.pairs();
    let items = sold.flat_map::<(String, String, String, i64)>(|(_, (auction, person)), out| {
        if let Some(person) = person {
            out.push((person.name, person.city, person.state, auction.id));
        }
    });
    rows(&items, answer)
}

/// Keeps the sum of the highest bids of each category: a batch that raises one adds the new bid and subtracts the old
/// one.
fn average_prices(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let prices = inputs.valid_bids()?.pairs();
    let prices = prices.map(|(id, (auction, bid))| ((id, auction.category), bid.price));
    let highest = Track::<(i64, i64), i64, i64>::new(
        |_, price| price,
        |_, highest, price| Some(highest.max(price)),
    );
    let highest = prices.by_key().track("highest", highest)?;
    let changes = highest.changes().with_state(&highest, AsOf::Before)?;
    let changes = changes.pairs().map(|((_id, category), (now, before))| {
        let auctions = i64::from(before.is_none());
        (category, (now - before.unwrap_or(0), auctions))
    });
    let sums = (sum_of::<i64>("key"), sum_of::<i64>("value"));
    let sums = changes.by_key().running_agg("categories", sums)?;
    let averages = sums.changes().map_values(|(sum, auctions)| sum / auctions);
    newest(&averages.pairs(), answer)
}

fn hot_items(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let counts = inputs.bids_by_time()?.key_by(|bid| bid.auction);
    let counts = counts.window_agg(TEN_SECONDS, INTERVAL, count())?;
    let most = "select key, value from this where value = (select max(value) from this)";
    rows(&counts.sql::<(i64, i64)>(most)?, answer)
}

fn highest_bids(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let bids = inputs.bids_by_time()?.window(TEN_SECONDS, TEN_SECONDS)?;
    let highest = "select auction as a, price as b, bidder as c, cast(date_time as bigint) as d \
                   from this where price = (select max(price) from this)";
    let highest = bids.sql::<Highest>(highest)?;
    rows(&highest, answer)
}

#[derive(Record, Debug, Clone)]
struct Highest {
    a: i64,
    b: i64,
    c: i64,
    d: i64,
}

fn new_users(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let persons = inputs.persons()?;
    let persons = persons.by_time("persons", |person| person.date_time.0, slack())?;
    let persons = persons.records().key_by(|person| person.id);
    let persons = persons.map_values(|person| person.name.to_owned());
    let persons = persons.window(TEN_SECONDS, TEN_SECONDS)?;
    let auctions = inputs.auctions()?;
    let auctions = auctions.by_time("auctions", |auction| auction.date_time.0, slack())?;
    let sellers = auctions.records().map(|auction| auction.seller);
    let sellers = sellers.window(TEN_SECONDS, TEN_SECONDS)?.distinct();
    let new = persons.join(&sellers.keyed())?.pairs();
    rows(&new.map(|(id, (name, ()))| (id, name.to_owned())), answer)
}

/// The highest of each auction, and of equal ones the earliest.
fn winning_bids(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let bids = inputs.valid_bids()?;
    let bids = bids.map_values(|(_, bid)| (bid.price, -bid.date_time.0));
    let winning = bids.update_state_by_key("winning", |_, bids, before| {
        bids.chain(before)
            .max_by_key(|(price, earliness)| (*price, *earliness))
    })?;
    let winning = winning.changes();
    let winning = winning.map_values(|(price, earliness)| (price, -earliness));
    newest(&winning.pairs(), answer)
}

/// Records with one key whose times differ by [`NEAR`] at most: those of near intervals, filtered by their times.
fn within(inputs: &mut Inputs<'_>, answer: &Answer) -> Outcome<()> {
    let (first, second) = (inputs.pairs(0)?, inputs.pairs(1)?);
    let joined = first.join_within("near", &second, Within::new(NEAR, NEAR))?;
    let near = NEAR.as_millis() as u64;
    let joined = joined.pairs();
    let joined = joined.filter(move |_, ((first, _), (second, _))| first.abs_diff(second) <= near);
    rows(&joined.pairs(), answer)
}
