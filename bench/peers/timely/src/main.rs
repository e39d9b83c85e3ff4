//! The benchmark's works on timely dataflow 0.32: a batch is an epoch.
//!
//! Each worker puts its part of a batch in as blocks of 1,000 lines and closes the epoch. Words are counted where they
//! are read; when the epoch is complete there, one record per distinct word goes to the worker of its hash. A
//! result is complete when the frontier has passed its epoch. `--variant slices` (keys point into the input)
//! or `owned` (keys are `CompactString`s); the default is the faster.

#[path = "../../counts.rs"]
mod counts;

use bench_input::{Args, Input, LINE_BYTES, NEEDLE, Report, Words, Work, input};
use compact_str::CompactString;
use counts::{Entry, Key, Slice, Table, Window, first, route, search, total};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Stream};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BLOCK_LINES: usize = 1_000;
/// An idle worker polls for a while, then parks; it looks again after this at the latest.
const PARK: Option<Duration> = Some(Duration::from_millis(1));

type Block = &'static [u8];
type Blocks<'s> = Stream<'s, usize, Vec<Text>>;
type Top = Vec<(String, u64)>;

/// A block of lines, by reference; it never leaves the process.
#[derive(Clone)]
struct Text(Block);

/// What a worker has when all epochs are complete.
struct Results<K> {
    grep: Vec<u64>,
    tables: Vec<Table<K>>,
    /// The counts of all words so far.
    state: Table<K>,
    window: Window<K>,
    sizes: Vec<(u64, u64)>,
    tops: Vec<Top>,
}

impl<K: Key> Results<K> {
    fn new() -> Self {
        Self {
            grep: Vec::new(),
            tables: Vec::new(),
            state: Table::with_capacity(1024),
            window: Window::new(),
            sizes: Vec::new(),
            tops: Vec::new(),
        }
    }

    fn run(&mut self, mut table: Table<K>) {
        self.state.run(&mut table);
        self.tables.push(table);
    }

    fn slide(&mut self, table: Table<K>) {
        self.sizes.push(self.window.slide(table));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse(std::env::args().skip(1))?;
    if args.variant.is_empty() {
        args.variant = "owned".into();
    }
    let input: &'static Input = Box::leak(Box::new(Input::generate(&args)));
    let report = match args.variant.as_str() {
        "slices" => run::<Slice>(&args, input)?,
        "owned" => run::<CompactString>(&args, input)?,
        other => return Err(format!("unknown variant {other:?}: slices or owned").into()),
    };
    println!("{}", report.json());
    Ok(())
}

fn run<'a, K: Key>(args: &'a Args, input: &'static Input) -> Result<Report<'a>, String> {
    let shared = (
        args.clone(),
        Arc::new(Barrier::new(args.threads)),
        Arc::new(Mutex::new(Words::default())),
    );
    let guards = timely::execute(timely::Config::process(args.threads), move |worker| {
        let (args, barrier, sum) = &shared;
        let results = Rc::new(RefCell::new(Results::<K>::new()));
        let mut handle = InputHandle::new();
        let probe = ProbeHandle::new();
        worker.dataflow::<usize, _, _>(|scope| {
            let blocks = handle.to_stream(scope);
            match args.work {
                Work::Grep => grep(blocks, &results, &probe),
                _ => words(blocks, args.work, &results, &probe),
            }
        });
        let me = worker.index();
        let mut times = Vec::new();
        barrier.wait();
        let start = Instant::now();
        for (epoch, batch) in input.batches.iter().enumerate() {
            let began = Instant::now();
            let part = input::part(batch, me, args.threads);
            for block in part.chunks(BLOCK_LINES * LINE_BYTES) {
                handle.send(Text(block));
            }
            handle.advance_to(epoch + 1);
            // Epochs overlap by one; `small` waits for each.
            let complete = if args.work == Work::Small {
                epoch + 1
            } else {
                epoch
            };
            worker.step();
            worker.step_or_park_while(PARK, || probe.less_than(&complete));
            if args.work == Work::Small {
                times.push(began.elapsed());
                check(input, epoch, &results, sum, barrier, me);
            }
        }
        handle.close();
        worker.step_or_park_while(PARK, || !probe.done());
        let time = start.elapsed();
        let results = std::mem::replace(&mut *results.borrow_mut(), Results::new());
        (time, times, results)
    })?;
    let workers: Vec<(Duration, Vec<Duration>, Results<K>)> =
        guards.join().into_iter().collect::<Result<_, String>>()?;
    verify(
        args,
        input,
        &workers
            .iter()
            .map(|(.., results)| results)
            .collect::<Vec<_>>(),
    )?;
    let version = concat!("timely ", "0.32.0");
    Ok(match args.work {
        Work::Small => Report::small("timely", version, args, &args.variant, &workers[0].1),
        _ => Report::throughput("timely", version, args, &args.variant, workers[0].0),
    })
}

/// Per epoch, the lines that contain the needle, at worker 0.
fn grep<K: Key>(blocks: Blocks<'_>, results: &Rc<RefCell<Results<K>>>, probe: &ProbeHandle<usize>) {
    let results = Rc::clone(results);
    blocks
        .unary(Pipeline, "Grep", |_, _| {
            let finder = memchr::memmem::Finder::new(NEEDLE);
            move |input, output| {
                input.for_each_stamp(|cap, data| {
                    let count: u64 = data
                        .flat_map(|blocks| blocks.iter())
                        .map(|text| search(text.0, &finder))
                        .sum();
                    output.session(&cap).give(count);
                });
            }
        })
        .container::<Vec<u64>>()
        .unary_frontier(Exchange::new(|_: &u64| 0), "Sum", move |_, _| {
            let mut epochs = BTreeMap::new();
            move |(input, frontier), output| {
                input.for_each_stamp(|cap, data| {
                    let sum: u64 = data.flat_map(|counts| counts.iter()).sum();
                    if let Some(cap) = cap.retain_least(output.output_index()) {
                        epochs.entry(*cap.time()).or_insert((cap, 0)).1 += sum;
                    }
                });
                while let Some(epoch) = epochs.first_entry()
                    && !frontier.less_equal(epoch.key())
                {
                    let (cap, sum) = epoch.remove();
                    results.borrow_mut().grep.push(sum);
                    output.session(&cap).give(());
                }
            }
        })
        .container::<Vec<()>>()
        .probe_with(probe);
}

/// Counts where the text is, exchanges one record per distinct word, completes each epoch at the word's worker.
fn words<K: Key>(
    blocks: Blocks<'_>,
    work: Work,
    results: &Rc<RefCell<Results<K>>>,
    probe: &ProbeHandle<usize>,
) {
    let (complete, ranked) = (Rc::clone(results), Rc::clone(results));
    let tops = blocks
        .unary_frontier(Pipeline, "Count", move |_, _| {
            let mut epochs = BTreeMap::new();
            let mut spare: Vec<Table<K>> = Vec::new();
            move |(input, frontier), output| {
                input.for_each_stamp(|cap, data| {
                    if let Some(cap) = cap.retain_least(output.output_index()) {
                        let (_, table) = epochs.entry(*cap.time()).or_insert_with(|| {
                            (
                                cap,
                                spare.pop().unwrap_or_else(|| Table::with_capacity(1024)),
                            )
                        });
                        data.for_each(|blocks| {
                            blocks.drain(..).for_each(|text| table.count(text.0))
                        });
                    }
                });
                while let Some(epoch) = epochs.first_entry()
                    && !frontier.less_equal(epoch.key())
                {
                    let (cap, mut table) = epoch.remove();
                    output.session(&cap).give_iterator(table.0.drain());
                    spare.push(table);
                }
            }
        })
        .container::<Vec<Entry<K>>>()
        .unary_frontier(
            Exchange::new(|entry: &Entry<K>| route(entry.hash)),
            "Complete",
            move |_, _| {
                let mut epochs = BTreeMap::new();
                let mut last = 1024;
                move |(input, frontier), output| {
                    input.for_each_stamp(|cap, data| {
                        if let Some(cap) = cap.retain_least(output.output_index()) {
                            let (_, table) = epochs
                                .entry(*cap.time())
                                .or_insert_with(|| (cap, Table::<K>::with_capacity(last)));
                            data.for_each(|entries| {
                                entries.drain(..).for_each(|entry| table.add(entry))
                            });
                        }
                    });
                    while let Some(epoch) = epochs.first_entry()
                        && !frontier.less_equal(epoch.key())
                    {
                        let (cap, table) = epoch.remove();
                        last = table.0.len();
                        let mut results = complete.borrow_mut();
                        match work {
                            Work::Running => results.run(table),
                            Work::Window => results.slide(table),
                            Work::TopK => {
                                results.slide(table);
                                output
                                    .session(&cap)
                                    .give_iterator(results.window.top().into_iter());
                            }
                            _ => results.tables.push(table),
                        }
                    }
                }
            },
        )
        .container::<Vec<Entry<K>>>();
    if work != Work::TopK {
        tops.probe_with(probe);
        return;
    }
    tops.unary_frontier(Exchange::new(|_: &Entry<K>| 0), "Top", move |_, _| {
        let mut epochs = BTreeMap::new();
        move |(input, frontier), output| {
            input.for_each_stamp(|cap, data| {
                if let Some(cap) = cap.retain_least(output.output_index()) {
                    let (_, all) = epochs
                        .entry(*cap.time())
                        .or_insert((cap, Vec::<Entry<K>>::new()));
                    data.for_each(|entries| all.append(entries));
                }
            });
            while let Some(epoch) = epochs.first_entry()
                && !frontier.less_equal(epoch.key())
            {
                let (cap, all) = epoch.remove();
                ranked.borrow_mut().tops.push(first(all));
                output.session(&cap).give(());
            }
        }
    })
    .container::<Vec<()>>()
    .probe_with(probe);
}

/// Checks one batch of `small` while the clock stands, and drops it.
fn check<K: Key>(
    input: &Input,
    batch: usize,
    results: &Rc<RefCell<Results<K>>>,
    sum: &Mutex<Words>,
    barrier: &Barrier,
    me: usize,
) {
    let words = total(
        results
            .borrow_mut()
            .tables
            .drain(..)
            .collect::<Vec<_>>()
            .iter(),
    );
    barrier.wait();
    {
        let mut sum = sum.lock().expect("no worker has panicked");
        sum.distinct += words.distinct;
        sum.total += words.total;
        sum.checksum = sum.checksum.wrapping_add(words.checksum);
    }
    barrier.wait();
    if me == 0 {
        let words = std::mem::take(&mut *sum.lock().expect("no worker has panicked"));
        if let Err(why) = input.expected.check_batch(batch, words) {
            eprintln!("Error: {why}");
            std::process::exit(1);
        }
    }
    barrier.wait();
}

fn verify<K: Key>(args: &Args, input: &Input, workers: &[&Results<K>]) -> Result<(), String> {
    match args.work {
        Work::Small => Ok(()),
        Work::Grep => input.expected.check_grep(&workers[0].grep),
        Work::WordCount | Work::Running => {
            let short = workers.iter().any(|w| w.tables.len() != args.batches);
            let batches = if short { 0 } else { args.batches };
            let all: Vec<Words> = (0..batches)
                .map(|b| total(workers.iter().map(|w| &w.tables[b])))
                .collect();
            input.expected.check_words(&all)
        }
        Work::Window => {
            let size = |b: usize| {
                let sizes = workers.iter().filter_map(|w| w.sizes.get(b));
                sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
            };
            let sizes: Vec<(u64, u64)> = (0..args.batches).map(size).collect();
            input
                .expected
                .check_window(&sizes, total(workers.iter().map(|w| &w.window.state)))
        }
        Work::TopK => input.expected.check_top(&workers[0].tops),
    }
}
