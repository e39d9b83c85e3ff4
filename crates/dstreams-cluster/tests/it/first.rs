//! A word count on a master and two workers.

use std::collections::BTreeMap;
use std::time::Duration;

use dstreams::{StreamContext, agg::count, text::words};
use dstreams_cluster::{Master, MasterOptions, WorkerOptions, run_worker};

fn program() -> (StreamContext, dstreams::Queue<String>, impl FnMut() -> BTreeMap<String, i64>) {
    let mut ctx = StreamContext::new(Duration::from_millis(50)).unwrap();
    let (queue, lines) = ctx.queue::<String>("lines");
    let counts = lines
        .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
        .keyed()
        .agg(count())
        .unwrap();
    let mut found = counts.pairs().collect();
    (ctx, queue, move || {
        let mut all = BTreeMap::new();
        while let Some(rdd) = found.try_recv() {
            for (word, n) in rdd.collect().unwrap() {
                *all.entry(word).or_default() += n;
            }
        }
        all
    })
}

#[test]
fn words_are_counted_by_two_workers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (ctx, queue, mut found) = program();
        let mut options = MasterOptions::default();
        options.workers = 2;
        let master = Master::listen(ctx, options).await.unwrap();
        let address = master.address().to_owned();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let mut options = WorkerOptions::new(&address);
                options.cores = 1;
                std::thread::spawn(move || run_worker(&options, &|_| Ok(program().0), &|_, _| {}))
            })
            .collect();
        let cluster = master.start().await.unwrap();
        let mut wanted = BTreeMap::new();
        for n in 0..3 {
            let lines: Vec<_> = (0..3000).map(|i| format!("a b{} c{n}", i % 7)).collect();
            for word in lines.iter().flat_map(|line| line.split(' ')) {
                *wanted.entry(word.to_owned()).or_default() += 1i64;
            }
            queue.push(lines).await.unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        let summary = cluster.running.stop(true, None).await.unwrap();
        assert_eq!(summary.records, 9000);
        assert_eq!(found(), wanted);
        for worker in workers {
            worker.join().unwrap().unwrap();
        }
    });
}
