//! The same program over the files of last week, then live, with one state: killed in the middle, and started again.

use std::path::Path;
use std::time::Duration;

use dstreams::agg::count;
use dstreams::files::{Files, Format};
use dstreams::{Clock, Config, DStream, Queue, RddReceiver, Record, Result, StreamContext};

use super::{SECOND, end_of, random, sql, table};
use crate::dir::Dir;
use crate::program::{block_on, until};

#[derive(Record, Debug, Clone)]
struct View {
    page: String,
    at_ms: i64,
}

type Counts = RddReceiver<(String, i64)>;

/// What is done with views, wherever they come from: the views of ten minutes, every minute, and all since the start.
fn describe(views: &DStream<View>) -> Result<(Counts, Counts)> {
    let views = views.key_by_into::<String>(|view, page| page.push(view.page));
    let recent = views.window_agg(600 * SECOND, 60 * SECOND, count())?;
    let total = views.running_agg("total", count())?;
    Ok((recent.collect(), total.changes().collect()))
}

fn program(week: &Path, state: &Path) -> Result<(StreamContext, Queue<View>, (Counts, Counts))> {
    let mut config = Config::new(SECOND);
    config.skip_quiet = true;
    let mut ctx = StreamContext::with_config(config)?;
    ctx.persist_in(state);
    ctx.set_clock(Clock::of_sources());
    let week = Files::dir(week, Format::Csv).once();
    let old = ctx.files::<View>("week", week.by_time("at_ms", Duration::ZERO))?;
    let (queue, new) = ctx.queue::<View>("live");
    let found = describe(&old.union(&new)?)?;
    Ok((ctx, queue, found))
}

/// The rows of each RDD, by batch; a batch that is repeated gives the same.
fn add(found: &mut Vec<(i64, (String, i64))>, rdds: &mut Counts) {
    while let Some(rdd) = rdds.try_recv() {
        let batch = rdd.batch_time().millis() as i64;
        let rows = rdd.collect().unwrap().into_iter();
        let rows: Vec<_> = rows.map(|row| (batch, row)).collect();
        if found.last().is_none_or(|last| last.0 < batch) {
            found.extend(rows);
        }
    }
}

#[test]
fn a_week_of_files_then_the_present() {
    const HOUR: i64 = 3_600_000;
    let (week, state) = (Dir::new(), Dir::missing());
    let view = |n: u64| View {
        page: format!("/{}", random(n) % 7),
        at_ms: 500 * HOUR + n as i64 * 1_700 + (random(n) % 1_000) as i64,
    };
    let views: Vec<View> = (0..3_000).map(view).collect();
    for (hour, views) in views.chunks(400).enumerate() {
        let lines = views
            .iter()
            .map(|view| format!("{},{}\n", view.page, view.at_ms));
        let text = "page,at_ms\n".to_owned() + &lines.collect::<String>();
        std::fs::write(week.join(format!("{hour:02}.csv")), text).unwrap();
    }
    let (mut recent, mut totals) = (Vec::new(), Vec::new());
    block_on(async {
        // The first process ends in the middle of the week.
        let (ctx, _, mut found) = program(week.path(), state.path()).unwrap();
        let running = ctx.start().await.unwrap();
        until("half of the week", || running.status().batches > 100).await;
        running.abort().await.unwrap();
        add(&mut recent, &mut found.0);
        add(&mut totals, &mut found.1);
        // The second one reads the rest, and then follows what comes.
        let (ctx, queue, mut found) = program(week.path(), state.path()).unwrap();
        let running = ctx.start().await.unwrap();
        let now = Clock::wall().now().micros() / 1_000;
        until("the present", || {
            running
                .last_batch()
                .is_some_and(|last| last.millis() >= now)
        })
        .await;
        let new = View {
            page: "/new".into(),
            at_ms: now as i64,
        };
        queue.push([new, view(0)]).await.unwrap();
        running.stop().await.unwrap();
        add(&mut recent, &mut found.0);
        add(&mut totals, &mut found.1);
    });
    let last = views.last().unwrap().at_ms;
    recent.retain(|(batch, _)| *batch <= last);
    let windows = "SELECT end.value AS key, page, count(*) AS value FROM end, views
        WHERE at_ms < end.value AND at_ms >= end.value - 600000 GROUP BY end.value, page";
    let ends = (500 * HOUR / 60_000 + 1..=last / 60_000).map(|minute| minute * 60_000);
    let tables = [
        ("end", table(&ends.collect::<Vec<i64>>())),
        ("views", table(&views)),
    ];
    let mut wanted = block_on(sql::<(i64, (String, i64))>(&tables, windows));
    wanted.sort();
    recent.sort();
    assert_eq!(recent, wanted);
    // The views of the present are counted beside those of the week.
    let of = |page: &str| {
        totals
            .iter()
            .filter(|(_, (of, _))| of == page)
            .map(|(_, (_, n))| *n)
            .max()
    };
    let page = view(0).page;
    let in_week = views.iter().filter(|view| view.page == page).count() as i64;
    assert_eq!((of("/new"), of(&page)), (Some(1), Some(in_week + 1)));
    let first = totals.first().unwrap().0;
    assert_eq!(first, end_of(views[0].at_ms, 1_000));
}
