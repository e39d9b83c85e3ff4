//! Each event once: by its id, for ten seconds after it was first seen.

use std::collections::{BTreeMap, BTreeSet};

use dstreams::testing::{TestProgram, batches, records, sorted};
use dstreams::{DStream, MapWithState, Record, Result};

use super::{SECOND, feed, random};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Event {
    id: String,
    body: i64,
}

/// The state has no value: it is there for as long as the event is known.
type Once = MapWithState<String, Event, (), Event>;

fn describe(events: &DStream<Event>) -> Result<DStream<Event>> {
    let once = Once::new(|_id, event, seen, out| {
        if let (Some(event), None) = (event, seen.get()) {
            seen.set(());
            out.push(event);
        }
    });
    let by_id = events.key_by_into::<String>(|event, key| key.push(event.id));
    Ok(by_id.map_with_state("seen", once.live(10 * SECOND))?.0)
}

fn events() -> Vec<Vec<Event>> {
    let event = |n: u64| Event {
        id: format!("event {}", n / 40 * 10 + random(n) % 20),
        body: n as i64,
    };
    (0..40)
        .map(|second| (second * 10..second * 10 + 10).map(event).collect())
        .collect()
}

#[test]
fn each_event_once_in_ten_seconds() {
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, stream) = test.context().queue::<Event>("events");
        let mut once = describe(&stream).unwrap().map(|event| event.body).collect();
        let mut run = test.start().await.unwrap();
        feed(&mut run, &queue, events()).await;
        run.stop().await.unwrap();

        let mut first = BTreeMap::<String, usize>::new();
        let mut found = batches(&mut once).unwrap().into_iter();
        for (now, events) in events().into_iter().enumerate() {
            let mut wanted = Vec::new();
            for event in events {
                if first.get(&event.id).is_none_or(|first| now - first >= 10) {
                    first.insert(event.id, now);
                    wanted.push(event.body);
                }
            }
            assert_eq!(sorted(found.next().unwrap().1), wanted, "{now}");
        }
    });
}

/// Without an end, each event is known for ever.
#[test]
fn each_event_once_for_ever() {
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, stream) = test.context().queue::<Event>("events");
        let by_id = stream.key_by_into::<String>(|event, key| key.push(event.id));
        let seen = Once::new(|_id, event, seen, out| {
            if let (Some(event), None) = (event, seen.get()) {
                seen.set(());
                out.push(event);
            }
        });
        let (once, _) = by_id.map_with_state("seen", seen).unwrap();
        let mut once = once.map(|event| event.id.to_owned()).collect();
        let mut run = test.start().await.unwrap();
        feed(&mut run, &queue, events()).await;
        let session = run.running().session().await.unwrap();
        let ids: BTreeSet<String> = events()
            .concat()
            .into_iter()
            .map(|event| event.id)
            .collect();
        let known = session.sql("select key from seen").await.unwrap();
        assert_eq!(known.count().await.unwrap(), ids.len());
        run.stop().await.unwrap();
        assert_eq!(
            sorted(records(&mut once).unwrap()),
            ids.into_iter().collect::<Vec<_>>()
        );
    });
}
