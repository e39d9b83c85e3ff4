//! A state for each video session, and metrics over the sessions that are open, by country and CDN.
//!
//! The metrics follow incrementally: what a batch changes of a session is added, and what the session was before is
//! taken away. So a batch costs what it changes, however many sessions are open.

use std::collections::BTreeMap;

use dstreams::agg::sum_of;
use dstreams::testing::{TestProgram, batches};
use dstreams::{AsOf, DStream, Record, Result, State, Track};

use super::{SECOND, random};
use crate::program::block_on;

/// What a player says every few seconds.
#[derive(Record, Debug, Clone)]
struct Beat {
    session: String,
    country: String,
    cdn: String,
    playing_ms: i64,
    buffering_ms: i64,
    startup_ms: Option<i64>,
    errors: i64,
}

#[derive(Record, Debug, Clone, Default, PartialEq)]
struct Session {
    country: String,
    cdn: String,
    playing_ms: i64,
    buffering_ms: i64,
    startup_ms: Option<i64>,
    errors: i64,
}

impl Session {
    fn next(mut self, beat: BeatRef<'_>) -> Session {
        self.country = beat.country.to_owned();
        self.cdn = beat.cdn.to_owned();
        self.playing_ms += beat.playing_ms;
        self.buffering_ms += beat.buffering_ms;
        self.startup_ms = self.startup_ms.or(beat.startup_ms);
        self.errors += beat.errors;
        self
    }
}

/// Sums over sessions.
#[derive(Record, Debug, Clone, Default, PartialEq)]
struct Metrics {
    sessions: i64,
    playing_ms: i64,
    buffering_ms: i64,
    started: i64,
    with_errors: i64,
}

fn metrics(session: SessionRef<'_>, sign: i64) -> Metrics {
    Metrics {
        sessions: sign,
        playing_ms: sign * session.playing_ms,
        buffering_ms: sign * session.buffering_ms,
        started: sign * i64::from(session.startup_ms.is_some()),
        with_errors: sign * i64::from(session.errors > 0),
    }
}

/// Country and CDN.
type Group = (String, String);

fn describe(beats: &DStream<Beat>) -> Result<(State<String, Session>, DStream<(Group, Metrics)>)> {
    let track = Track::<String, Beat, Session>::new(
        |_, beat| Session::default().next(beat),
        |_, session: Session, beat| Some(session.next(beat)),
    );
    let sessions = beats
        .key_by_into::<String>(|beat, key| key.push(beat.session))
        .track("sessions", track.timeout(3 * SECOND))?;
    let (changes, gone) = (sessions.changes(), sessions.timed_out());
    // A session may time out and begin anew with one batch.
    let changes = changes
        .full_join(&gone)?
        .with_state(&sessions, AsOf::Before)?;
    let changes = changes
        .pairs()
        .flat_map(|(_, ((now, _gone), before)), out| {
            for (session, sign) in [(before, -1), (now, 1)] {
                if let Some(it) = session {
                    out.push(((it.country, it.cdn), metrics(it, sign)));
                }
            }
        });
    let sums = (
        sum_of::<i64>("sessions"),
        sum_of::<i64>("playing_ms"),
        sum_of::<i64>("buffering_ms"),
        sum_of::<i64>("started"),
        sum_of::<i64>("with_errors"),
    );
    let sums = changes.by_key().running_agg("metrics", sums)?.all();
    let metrics = sums.map_values(
        |(sessions, playing_ms, buffering_ms, started, with_errors)| Metrics {
            sessions,
            playing_ms,
            buffering_ms,
            started,
            with_errors,
        },
    );
    let metrics = metrics.filter(|_, metrics| metrics.sessions > 0);
    metrics.remember("last metrics", 600 * SECOND)?;
    Ok((sessions, metrics.pairs()))
}

/// The metrics of the sessions that are open after each batch, computed anew.
fn naive(intervals: &[Vec<Beat>]) -> Vec<BTreeMap<Group, Metrics>> {
    let mut open = BTreeMap::<String, (usize, Session)>::new();
    let after = intervals.iter().enumerate().map(|(now, beats)| {
        open.retain(|_, (last, _)| *last + 3 > now);
        for beat in beats {
            let (last, session) = open.entry(beat.session.clone()).or_default();
            *last = now;
            session.country.clone_from(&beat.country);
            session.cdn.clone_from(&beat.cdn);
            session.playing_ms += beat.playing_ms;
            session.buffering_ms += beat.buffering_ms;
            session.startup_ms = session.startup_ms.or(beat.startup_ms);
            session.errors += beat.errors;
        }
        let mut metrics = BTreeMap::<Group, Metrics>::new();
        for (_, it) in open.values() {
            let of = metrics
                .entry((it.country.clone(), it.cdn.clone()))
                .or_default();
            of.sessions += 1;
            of.playing_ms += it.playing_ms;
            of.buffering_ms += it.buffering_ms;
            of.started += i64::from(it.startup_ms.is_some());
            of.with_errors += i64::from(it.errors > 0);
        }
        metrics
    });
    after.collect()
}

#[test]
fn metrics_of_open_sessions() {
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, beats) = test.context().queue::<Beat>("beats");
        let (_sessions, metrics) = describe(&beats).unwrap();
        let mut metrics = metrics.collect();

        // Sessions pause, end, come back, and change their CDN.
        let beat = |second: u64, n: u64| {
            let r = random(second * 100 + n);
            r.is_multiple_of(3).then(|| Beat {
                session: format!("session {n}"),
                country: ["DE", "FR"][n as usize % 2].to_owned(),
                cdn: ["near", "far"][(r / 3 % 9 / 8) as usize].to_owned(),
                playing_ms: (r / 100 % 1_000) as i64,
                buffering_ms: (r / 1_000 % 3 / 2 * 500) as i64,
                startup_ms: (r / 10_000).is_multiple_of(4).then_some(700),
                errors: (r / 100_000 % 20 / 19) as i64,
            })
        };
        let second = |second| (0..20).filter_map(|n| beat(second, n)).collect();
        let intervals: Vec<Vec<Beat>> = (0..25).map(second).collect();
        let wanted = naive(&intervals);
        let mut run = test.start().await.unwrap();
        for interval in intervals {
            queue.push(interval).await.unwrap();
            run.end_interval().await.unwrap();
        }

        let found = batches(&mut metrics).unwrap();
        for ((batch, found), wanted) in found.iter().zip(&wanted) {
            let found: BTreeMap<_, _> = found.iter().cloned().collect();
            assert_eq!(&found, wanted, "{batch}");
        }
        assert_eq!(found.len(), wanted.len());
        // What somebody asks meanwhile: the last batches, and the sessions.
        let ((from, _), (to, _)) = (found[20].clone(), found[24].clone());
        let last = run
            .running()
            .slice::<(Group, Metrics)>("last metrics", from, to);
        let last = last.await.unwrap().into_iter();
        let last: Vec<_> = last.map(|rdd| rdd.collect().unwrap().len()).collect();
        assert_eq!(
            last,
            wanted[20..].iter().map(BTreeMap::len).collect::<Vec<_>>()
        );
        let session = run.running().session().await.unwrap();
        let errors = "select value_cdn from sessions where value_errors > 0";
        let errors = session.sql(errors).await.unwrap().count().await.unwrap();
        let with_errors: i64 = wanted[24].values().map(|it| it.with_errors).sum();
        assert_eq!(errors as i64, with_errors);
        run.stop().await.unwrap();
    });
}
