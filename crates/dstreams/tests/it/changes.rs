//! A program that changes, in the directory of its earlier versions: what it goes on with, and what it refuses.

use std::path::PathBuf;

use dstreams::agg::{count, sum};
use dstreams::{Queue, StreamContext};

use crate::program::{Live, Program, block_on, small};

type Words = Queue<(String, i64)>;

/// The directory of a program, and how many intervals it has run.
struct Dir(PathBuf, u32);

impl Dir {
    fn new(name: &str) -> Self {
        let name = format!("dstreams-changes-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        Dir(dir, 0)
    }

    /// A version of the program.
    fn version(&self, app: impl FnOnce(&mut StreamContext) -> Words) -> (Program, Words) {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 1;
        let mut program = Program::after(self.1, config);
        let words = app(&mut program.ctx);
        let app = program.ctx;
        program.ctx = StreamContext::restore_or_new(&self.0, || Ok(app)).unwrap();
        (program, words)
    }

    async fn refused(&self, app: impl FnOnce(&mut StreamContext) -> Words) -> String {
        let start = self.version(app).0.ctx.start().await;
        start.err().unwrap().to_string()
    }

    /// Runs it past a checkpoint with this record in it, and returns what `query` gives.
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
        live.running.stop(true, None).await.unwrap();
        self.1 += 1;
        found
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
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

/// A call that drops or renames state is code, and stays when the program restarts: it must not do so again.
#[test]
fn a_change_of_state_may_stay_in_the_program() {
    let (counts, sums) = (false, true);
    block_on(async {
        let mut dir = Dir::new("drop");
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

        let mut dir = Dir::new("rename");
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
