//! Impressions of ads with their clicks of the ten seconds after; impressions without a click are emitted too.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::testing::{TestProgram, records, sorted};
use dstreams::{DStream, Joined, Record, Result, Slack, Within};

use super::{SECOND, arrivals, by_interval, ends, random, sql, table};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Impression {
    id: String,
    campaign: i64,
    at_ms: i64,
}

#[derive(Record, Debug, Clone)]
struct Click {
    impression: String,
    at_ms: i64,
}

fn describe(
    impressions: &DStream<Impression>,
    clicks: &DStream<Click>,
) -> Result<Joined<String, Impression, Click>> {
    let slack = Slack::of(2 * SECOND);
    let shown = impressions
        .by_time("impressions", |it| it.at_ms, slack)?
        .records();
    let clicked = clicks.by_time("clicks", |it| it.at_ms, slack)?.records();
    let clicked = clicked.key_by_into::<String>(|it, key| key.push(it.impression));
    shown
        .key_by_into::<String>(|it, key| key.push(it.id))
        .join_within("ads", &clicked, Within::new(Duration::ZERO, 10 * SECOND))
}

fn clicks_by_campaign(joined: &Joined<String, Impression, Click>) -> Result<DStream<(i64, i64)>> {
    let pairs = joined.pairs().pairs();
    let of = pairs.key_by(|(_, (shown, _click))| shown.campaign);
    Ok(of.window_agg(6 * SECOND, 3 * SECOND, count())?.pairs())
}

#[test]
fn impressions_and_clicks() {
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (show, impressions) = test.context().queue::<Impression>("impressions");
        let (click, clicks) = test.context().queue::<Click>("clicks");
        let joined = describe(&impressions, &clicks).unwrap();
        let by_campaign = clicks_by_campaign(&joined).unwrap();
        let mut by_campaign = by_campaign.collect();
        let pairs = joined.pairs().pairs();
        let pairs = pairs.map(|(id, (_, click))| (id.to_owned(), click.at_ms));
        let mut pairs = pairs.collect();
        let mut ignored = joined
            .first_unmatched()
            .pairs()
            .map(|(id, _)| id.to_owned())
            .collect();
        let mut stray = joined
            .second_unmatched()
            .pairs()
            .map(|(id, _)| id.to_owned())
            .collect();

        // Both are under way for up to a second; clicks come up to fifteen seconds after, or belong to nothing.
        let (mut shown, mut clicked) = (Vec::new(), Vec::new());
        for n in 0..80 {
            let (at_ms, r) = (n * 250, random(n as u64));
            let (id, campaign) = (format!("impression {n}"), (r % 3) as i64);
            shown.push((
                at_ms + (r / 10 % 1_000) as i64,
                Impression {
                    id: id.clone(),
                    campaign,
                    at_ms,
                },
            ));
            for m in 0..r / 100 % 3 {
                let r = random(1_000 * (m + 1) + n as u64);
                let at_ms = at_ms + (r % 15_000) as i64;
                let impression = match r / 100 % 10 {
                    0 => format!("no {id}"),
                    _ => id.clone(),
                };
                clicked.push((
                    at_ms + (r / 1_000 % 1_000) as i64,
                    Click { impression, at_ms },
                ));
            }
        }
        let impressions: Vec<Impression> = shown.iter().map(|(_, it)| it.clone()).collect();
        let clicks: Vec<Click> = clicked.iter().map(|(_, it)| it.clone()).collect();
        let mut run = test.start().await.unwrap();
        for (shown, clicked) in arrivals(shown, 50).into_iter().zip(arrivals(clicked, 50)) {
            show.push(shown).await.unwrap();
            click.push(clicked).await.unwrap();
            run.end_interval().await.unwrap();
        }
        run.stop().await.unwrap();

        // Near is said in intervals of a second.
        let near = "i.id = c.impression and c.at_ms / 1000 - i.at_ms / 1000 between 0 and 10";
        let tables = [
            ("i", table(&impressions)),
            ("c", table(&clicks)),
            ("ends", ends(3_000, 48_000)),
        ];
        let wanted = format!("select i.id, c.at_ms from i join c on {near}");
        let wanted: Vec<(String, i64)> = sql(&tables, &wanted).await;
        assert!(wanted.len() > 30, "{}", wanted.len());
        assert_eq!(sorted(records(&mut pairs).unwrap()), sorted(wanted));
        let wanted = format!("select i.id from i left anti join c on {near}");
        let wanted: Vec<String> = sql(&tables, &wanted).await;
        assert_eq!(sorted(records(&mut ignored).unwrap()), sorted(wanted));
        let wanted = format!("select c.impression from c left anti join i on {near}");
        let wanted: Vec<String> = sql(&tables, &wanted).await;
        assert_eq!(sorted(records(&mut stray).unwrap()), sorted(wanted));
        // A pair is of the interval of its click.
        let wanted = format!(
            "select e.value, i.campaign, count(*) from i join c on {near}
             join ends e on c.at_ms < e.value and c.at_ms >= e.value - 6000
             group by 1, 2"
        );
        let wanted: Vec<(i64, i64, i64)> = sql(&tables, &wanted).await;
        let found = by_interval(&mut by_campaign).into_iter();
        let found = found
            .map(|(end, (campaign, clicks))| (end, campaign, clicks))
            .collect();
        assert_eq!(sorted(found), sorted(wanted));
    });
}
