//! A changed program in the directory of its earlier versions: what it resumes with, and what it refuses.

use std::path::Path;

use dstreams::agg::{count, sum};
use dstreams::{Config, Queue, StreamContext};

use crate::dir::Dir;
use crate::program::{INTERVAL, Live, Program, block_on, small};

type Words = Queue<(String, i64)>;

/// The directory of a program, and the number of intervals it has run.
struct Place(Dir, u32);

impl Place {
    fn new() -> Self {
        Place(Dir::missing(), 0)
    }

    /// A version of the program, with a checkpoint of each batch.
    fn version(&self, app: impl FnOnce(&mut StreamContext) -> Words) -> (Program, Words) {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 1;
        self.with(config, app)
    }

    fn with(
        &self,
        config: Config,
        app: impl FnOnce(&mut StreamContext) -> Words,
    ) -> (Program, Words) {
        let mut program = Program::after(self.1, config);
        let words = app(&mut program.ctx);
        program.ctx.persist_in(self.0.path());
        (program, words)
    }

    async fn refused(&self, app: impl FnOnce(&mut StreamContext) -> Words) -> String {
        let start = self.version(app).0.ctx.start().await;
        start.err().unwrap().to_string()
    }

    /// Runs it past a checkpoint with this record, and returns the result of `query`.
    async fn run(
        &mut self,
        app: impl FnOnce(&mut StreamContext) -> Words,
        record: (&str, i64),
        query: &str,
    ) -> Vec<(String, i64)> {
        let (program, words) = self.version(app);
        let mut live = program.start().await;
        words.push([(record.0.to_owned(), record.1)]).await.unwrap();
        let mut batch = live.batch().await.batch;
        self.1 += 1;
        let wanted = batch;
        while live.running.lineage().unwrap().checkpoint < Some(wanted) {
            batch = live.batch().await.batch;
            self.1 += 1;
            assert!(batch.0 < wanted.0 + 100_000, "no checkpoint");
        }
        let found = ask(&live, query).await;
        live.running.stop().await.unwrap();
        self.1 += 1;
        found
    }
}

async fn ask(live: &Live, query: &str) -> Vec<(String, i64)> {
    let session = live.running.session().await.unwrap();
    let rows = session.sql(query).await.unwrap().collect().await.unwrap();
    let rows = rows.iter();
    rows.flat_map(|rows| dstreams::record::records_of::<(String, i64)>(rows).unwrap())
        .collect()
}

fn pairs(of: &[(&str, i64)]) -> Vec<(String, i64)> {
    of.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect()
}

/// A running count, or a running sum, of each name.
fn states(ctx: &mut StreamContext, states: &[(&str, bool)]) -> Words {
    let (words, stream) = ctx.queue::<(String, i64)>("words");
    let keyed = stream.by_key();
    for (name, sums) in states {
        match sums {
            true => {
                let state = keyed.running_agg(name, sum::<i64>()).unwrap();
                state.changes().pairs().for_each_rdd(|_| ());
            }
            false => {
                let state = keyed.running_agg(name, count()).unwrap();
                state.changes().pairs().for_each_rdd(|_| ());
            }
        }
    }
    words
}

/// A call that drops or renames state stays in the code after a restart: it must not act again.
#[test]
fn a_change_of_state_may_stay_in_the_program() {
    let (counts, sums) = (false, true);
    block_on(async {
        let mut dir = Place::new();
        let all = "select * from totals order by 1";
        dir.run(|ctx| states(ctx, &[("totals", counts)]), ("a", 5), all)
            .await;
        let refused = dir.refused(|ctx| states(ctx, &[("totals", sums)])).await;
        assert!(refused.contains("drop_state"), "{refused}");
        let second = |ctx: &mut StreamContext| {
            ctx.drop_state("totals");
            states(ctx, &[("totals", sums)])
        };
        assert_eq!(dir.run(second, ("a", 7), all).await, pairs(&[("a", 7)]));
        let found = dir.run(second, ("b", 1), all).await;
        assert_eq!(found, pairs(&[("a", 7), ("b", 1)]));

        let mut dir = Place::new();
        let all = "select * from a union all select * from b order by 2";
        let first = |ctx: &mut StreamContext| states(ctx, &[("a", counts)]);
        dir.run(first, ("k", 5), "select * from a").await;
        let second = |ctx: &mut StreamContext| {
            ctx.rename_state("a", "b");
            states(ctx, &[("b", counts), ("a", sums)])
        };
        let found = dir.run(second, ("k", 3), all).await;
        assert_eq!(found, pairs(&[("k", 2), ("k", 3)]));
        let found = dir.run(second, ("k", 4), all).await;
        assert_eq!(found, pairs(&[("k", 3), ("k", 7)]));
    });
}

/// From the first second a directory knows its program: another one is refused without any checkpoint.
#[test]
fn another_program_is_refused_before_the_first_checkpoint() {
    let two = |ctx: &mut StreamContext, names: [&str; 2]| {
        let [first, second] = names.map(|name| ctx.queue::<(String, i64)>(name));
        for stream in [&first.1, &second.1] {
            stream.for_each_rdd(|_| ());
        }
        let state = first.1.by_key().running_agg("counts", count()).unwrap();
        state.changes().pairs().for_each_rdd(|_| ());
        first.0
    };
    block_on(async {
        let mut dir = Place::new();
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 1_000;
        let mut found = Vec::new();
        for _ in 0..2 {
            let (program, words) = dir.with(config.clone(), |ctx| two(ctx, ["words", "more"]));
            let mut live = program.start().await;
            words.push([("a".to_owned(), 1)]).await.unwrap();
            live.batch().await;
            found = ask(&live, "select * from counts").await;
            live.running.stop().await.unwrap();
            dir.1 += 2;

            let mut other = config.clone();
            other.interval = INTERVAL * 3 / 2;
            let (program, _) = dir.with(other, |ctx| two(ctx, ["words", "more"]));
            let refused = program.ctx.start().await.err().unwrap().to_string();
            assert!(
                refused.contains("100 ms") && refused.contains("150 ms"),
                "{refused}"
            );
            for names in [["more", "words"], ["words", "less"]] {
                let (program, _) = dir.with(config.clone(), |ctx| two(ctx, names));
                let refused = program.ctx.start().await.err().unwrap().to_string();
                assert!(
                    refused.contains("inputs") && refused.contains("of its own"),
                    "{refused}"
                );
            }
        }
        assert_eq!(found, pairs(&[("a", 2)]));
    });
}

/// A journal that continues after a checkpoint needs it: without it the state would begin empty.
#[test]
fn missing_checkpoints_are_demanded() {
    let app = |ctx: &mut StreamContext| states(ctx, &[("counts", false)]);
    let all = "select * from counts order by 1";
    block_on(async {
        let (mut dir, mut other) = (Place::new(), Place::new());
        dir.run(app, ("a", 1), all).await;
        other.run(app, ("b", 1), all).await;
        other.run(app, ("b", 1), all).await;
        let place = dir.0.join("place");
        std::fs::create_dir(&place).unwrap();
        let at = |place: &Path| {
            let url = format!("file://{}", place.display());
            move |ctx: &mut StreamContext| {
                ctx.checkpoint_to(&url).unwrap();
                app(ctx)
            }
        };
        let refused = dir.refused(at(&place)).await;
        let was = dir.0.path().display().to_string();
        assert!(
            refused.contains("none") && refused.contains(&was),
            "{refused}"
        );
        // There are checkpoints, and newer ones, but of another directory.
        let refused = dir.refused(at(other.0.path())).await;
        assert!(refused.contains("of another directory"), "{refused}");
        assert_eq!(dir.run(app, ("a", 1), all).await, pairs(&[("a", 2)]));

        // Copied elsewhere they are found; those that stayed behind are too old then.
        for entry in std::fs::read_dir(dir.0.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("state-") || name.starts_with("manifest-") {
                std::fs::copy(&path, place.join(name)).unwrap();
            }
        }
        assert_eq!(dir.run(at(&place), ("a", 1), all).await, pairs(&[("a", 3)]));
        let refused = dir.refused(app).await;
        assert!(refused.contains("place"), "{refused}");

        for entry in std::fs::read_dir(&place).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let refused = dir.refused(at(&place)).await;
        assert!(refused.contains("none"), "{refused}");
        // The journal was lost, the checkpoints were not: the program resumes from these.
        for entry in std::fs::read_dir(other.0.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().contains("journal-") {
                std::fs::remove_file(path).unwrap();
            }
        }
        other.run(app, ("c", 1), all).await;
    });
}

/// The contents of a window of each stream, after a record of `pushed` if there is one.
async fn windows(
    dir: &mut Place,
    streams: &[&'static str],
    pushed: Option<&str>,
) -> Vec<(String, i64)> {
    let mut config = small(2, 4, 8);
    config.checkpoint_every = 1;
    let mut program = Program::after(dir.1, config);
    // The inputs keep their order, however they are used.
    let queues = ["errors", "requests"].map(|name| (name, program.ctx.queue::<String>(name)));
    let of = |name: &str| queues.iter().find(|it| it.0 == name).unwrap().1.clone();
    let mut outputs = Vec::new();
    for name in streams {
        let words = of(name).1.keyed();
        let window = words
            .window_agg(INTERVAL * 1_000, INTERVAL, count())
            .unwrap();
        outputs.push((*name, window.pairs().collect()));
    }
    program.ctx.persist_in(dir.0.path());
    let mut live = program.start().await;
    if let Some(name) = pushed {
        of(name).0.push([name.to_owned()]).await.unwrap();
    }
    let wanted = live.batch().await.batch;
    dir.1 += 1;
    while live.running.lineage().unwrap().checkpoint < Some(wanted) {
        live.batch().await;
        dir.1 += 1;
    }
    live.running.stop().await.unwrap();
    dir.1 += 1;
    let mut found = Vec::new();
    for (name, mut output) in outputs {
        let mut last = Vec::new();
        while let Some(rdd) = output.try_recv() {
            last = rdd.collect().unwrap();
        }
        found.extend(
            last.into_iter()
                .map(|(word, n)| (format!("{name}: {word}"), n)),
        );
    }
    found.sort();
    found
}

/// Unnamed windows with the same contents are told apart by their streams.
#[test]
fn windows_of_different_streams_are_not_swapped() {
    block_on(async {
        let mut dir = Place::new();
        windows(&mut dir, &["errors", "requests"], Some("errors")).await;
        let expected = |n| {
            [
                ("errors: errors".to_owned(), 1),
                ("requests: requests".to_owned(), n),
            ]
        };
        let found = windows(&mut dir, &["requests", "errors"], Some("requests")).await;
        assert_eq!(found, expected(1));
        let found = windows(&mut dir, &["errors", "requests"], Some("requests")).await;
        assert_eq!(found, expected(2));
        let mut program = Program::after(dir.1, small(2, 4, 8));
        let (_errors, _) = program.ctx.queue::<String>("errors");
        let (_queue, words) = program.ctx.queue::<String>("requests");
        let window = words
            .keyed()
            .window_agg(INTERVAL * 1_000, INTERVAL, count());
        window.unwrap().print(0);
        program.ctx.persist_in(dir.0.path());
        let error = program.ctx.start().await.err().unwrap().to_string();
        assert!(
            error.contains("has no state") && error.contains("of errors, it has"),
            "{error}"
        );
    });
}

/// Two windows with the same contents of the same stream, in this order, after a line of errors; named, or renamed
/// from their default names. Returns the contents of each.
async fn parts_of_one_stream(dir: &mut Place, parts: [&'static str; 2], named: bool) -> [usize; 2] {
    let mut config = small(2, 4, 8);
    config.checkpoint_every = 1;
    let mut program = Program::after(dir.1, config);
    let (queue, lines) = program.ctx.queue::<String>("lines");
    let outputs = parts.map(|part| {
        let of_part = move |line: &str| line.starts_with("error") == (part == "errors");
        let lines = lines.filter(of_part).keyed();
        let length = INTERVAL * 1_000;
        let window = match named {
            true => lines.named_window_agg(part, length, INTERVAL, count()),
            false => lines.window_agg(length, INTERVAL, count()),
        };
        window.unwrap().pairs().collect()
    });
    if let Ok(found) = dstreams::inspect(dir.0.path())
        && named
    {
        let states = found.checkpoint.into_iter().flat_map(|it| it.states);
        let unnamed = states.filter(|state| !parts.contains(&&*state.name));
        for (state, part) in unnamed.zip(parts) {
            program.ctx.rename_state(&state.name, part);
        }
    }
    program.ctx.persist_in(dir.0.path());
    let mut live = program.start().await;
    if dir.1 == 0 {
        queue.push(["error".to_owned()]).await.unwrap();
    }
    let wanted = live.batch().await.batch;
    dir.1 += 1;
    while live.running.lineage().unwrap().checkpoint < Some(wanted) {
        live.batch().await;
        dir.1 += 1;
    }
    live.running.stop().await.unwrap();
    dir.1 += 1;
    outputs.map(|mut output| {
        let mut last = 0;
        while let Some(rdd) = output.try_recv() {
            last = rdd.collect().unwrap().len();
        }
        last
    })
}

/// Without names only their order tells them apart.
#[test]
fn windows_of_one_stream_are_told_apart_by_their_names() {
    block_on(async {
        let mut dir = Place::new();
        let (forth, back) = (["errors", "others"], ["others", "errors"]);
        assert_eq!(parts_of_one_stream(&mut dir, forth, false).await, [1, 0]);
        assert_eq!(parts_of_one_stream(&mut dir, forth, true).await, [1, 0]);
        assert_eq!(parts_of_one_stream(&mut dir, back, true).await, [0, 1]);
        let mut program = Program::new(small(2, 4, 8));
        let (_queue, words) = program.ctx.queue::<String>("words");
        let words = words.keyed();
        let _ = words.running_agg("words", count()).unwrap();
        let taken = words.named_window_agg("words", INTERVAL, INTERVAL, count());
        let error = taken.err().unwrap().to_string();
        assert!(error.contains("another state is called `words`"), "{error}");
    });
}

/// A state has the name that the program gives, regardless of other states and their order.
#[test]
fn states_may_be_added_before_others() {
    block_on(async {
        let mut dir = Place::new();
        let all = "select * from b order by 1";
        let first = |ctx: &mut StreamContext| states(ctx, &[("b", false)]);
        dir.run(first, ("k", 5), all).await;
        let more = |ctx: &mut StreamContext| states(ctx, &[("a", false), ("b", false)]);
        assert_eq!(dir.run(more, ("k", 5), all).await, pairs(&[("k", 2)]));
        let other = |ctx: &mut StreamContext| states(ctx, &[("b", false), ("a", false)]);
        assert_eq!(dir.run(other, ("k", 5), all).await, pairs(&[("k", 3)]));
        let found = dir.run(other, ("k", 5), "select * from a order by 1").await;
        assert_eq!(found, pairs(&[("k", 3)]));
    });
}
