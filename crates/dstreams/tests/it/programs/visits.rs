//! Visits to a site: one ends after half a minute without a click, and after two minutes in any case, so that a robot's
//! end too. A visit that lasts a minute is told while it is open.

use std::collections::BTreeMap;

use dstreams::testing::{TestProgram, batches, sorted};
use dstreams::{DStream, MapWithState, Record, Result};

use super::{SECOND, feed, random};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Click {
    user: String,
    url: String,
}

#[derive(Record, Debug, Clone)]
struct Visit {
    entry: String,
    exit: String,
    pages: i64,
}

/// Types of key, event, state, and what is made.
type Visits = MapWithState<String, Click, Visit, String>;

fn describe(clicks: &DStream<Click>) -> Result<DStream<String>> {
    let visits = Visits::new(|user, click, visit, out| match (click, visit.get()) {
        (Some(click), Some(open)) => {
            let (exit, pages) = (click.url.to_owned(), open.pages + 1);
            visit.set(Visit {
                exit,
                pages,
                ..open.clone()
            });
        }
        (Some(click), None) => {
            let [entry, exit] = [click.url, click.url].map(str::to_owned);
            visit.set(Visit {
                entry,
                exit,
                pages: 1,
            });
            visit.wake_at(visit.time().plus(60_000));
        }
        (None, open) => {
            let pages = open.map_or(0, |open| open.pages);
            out.push(format!("{user} is here for a minute, with {pages} pages"));
        }
    });
    let visits = visits.timeout(30 * SECOND).live(120 * SECOND).on_timeout(
        |user, Visit { entry, exit, pages }, out| {
            out.push(format!(
                "{user} came by {entry} and left by {exit} after {pages} pages"
            ));
        },
    );
    let by_user = clicks.key_by_into::<String>(|click, user| user.push(click.user));
    Ok(by_user.map_with_state("visits", visits)?.0)
}

/// Second by second: a robot clicks always, people now and then.
fn clicks() -> Vec<Vec<Click>> {
    let click = |user: String, n: u64| Click {
        user,
        url: format!("/page/{}", random(n) % 9),
    };
    let second = |second: u64| {
        let people = (0..6).filter(move |who| random(second * 6 + who) % 20 < 1 + who / 2);
        let people = people.map(move |who| click(format!("person {who}"), second * 7 + who));
        people.chain([click("robot".to_owned(), second)]).collect()
    };
    (0..300).map(second).collect()
}

/// Second by second: what is told, by a search through all visits.
fn by_hand(clicks: Vec<Vec<Click>>) -> Vec<Vec<String>> {
    let mut open = BTreeMap::<String, (Visit, usize, usize)>::new();
    let seconds = clicks.into_iter().enumerate().map(|(now, clicks)| {
        let mut told = Vec::new();
        open.retain(|user, (visit, first, last)| {
            if now == *first + 60 {
                let pages = visit.pages;
                told.push(format!("{user} is here for a minute, with {pages} pages"));
            }
            let stays = now < *last + 30 && now < *first + 120;
            if !stays {
                let Visit { entry, exit, pages } = visit;
                told.push(format!(
                    "{user} came by {entry} and left by {exit} after {pages} pages"
                ));
            }
            stays
        });
        for Click { user, url } in clicks {
            let (entry, exit) = (url.clone(), url.clone());
            let new = Visit {
                entry,
                exit,
                pages: 0,
            };
            let (visit, _, last) = open.entry(user).or_insert((new, now, now));
            (visit.exit, visit.pages, *last) = (url, visit.pages + 1, now);
        }
        told
    });
    seconds.collect()
}

#[test]
fn visits_end_and_long_ones_are_told() {
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, stream) = test.context().queue::<Click>("clicks");
        let mut told = describe(&stream).unwrap().collect();
        let mut run = test.start().await.unwrap();
        feed(&mut run, &queue, clicks()).await;
        run.stop().await.unwrap();
        let wanted = by_hand(clicks());
        let found = batches(&mut told).unwrap().into_iter();
        for (now, (wanted, (_, found))) in wanted.iter().cloned().zip(found).enumerate() {
            assert_eq!(sorted(found), sorted(wanted), "{now}");
        }
        let all = wanted.concat();
        let of = |what: &str| all.iter().filter(|told| told.contains(what)).count();
        assert_eq!(of("robot is here"), 2);
        assert_eq!(of("robot came"), 2);
        assert!(of("person") > 9, "{all:?}");
    });
}
