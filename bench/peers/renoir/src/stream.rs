//! One job for all batches, with event times and watermarks.

use crate::counts::{Entry, Table, Window, first, route, search, total};
use bench_input::{Args, Input, LINE_BYTES, NEEDLE, Words, Work, input};
use compact_str::CompactString;
use renoir::operator::{Operator, StreamElement};
use renoir::prelude::*;
use renoir::{Replication, Stream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BLOCK_LINES: usize = 1_000;

type Word = CompactString;

/// A block of lines of one batch.
#[derive(Clone)]
struct Block {
    batch: usize,
    text: &'static [u8],
    last: bool,
}

/// What one replica has for one batch.
#[derive(Clone)]
enum Partial {
    Found(u64),
    Counts(Table<Word>),
    Size((u64, u64)),
    Top(Vec<Entry<Word>>),
    /// The state of the window, after the last batch.
    State(Table<Word>),
}

type Sink = Sender<(usize, Partial)>;

pub fn run(args: &Args, data: &'static Input) -> Result<Vec<Duration>, String> {
    let parts = args.threads;
    let ready = Arc::new(AtomicUsize::new(0));
    let (feeds, sources): (Vec<Sender<usize>>, Vec<_>) = (0..parts)
        .map(|_| channel::<usize>())
        .map(|(to, from)| (to, Some(from)))
        .unzip();
    let sources = Arc::new(Mutex::new(sources));
    let (sink, results) = channel();

    let config = RuntimeConfig::local(parts as u64).map_err(|error| error.to_string())?;
    let env = StreamContext::new(config);
    let started = Arc::clone(&ready);
    let blocks = env
        .stream_par_iter(move |replica, _| {
            let feed = sources.lock().expect("sources")[replica as usize]
                .take()
                .expect("one use");
            blocks(feed, data, replica as usize, parts, Arc::clone(&started))
        })
        .batch_mode(BatchMode::fixed(1024))
        .add_timestamps(
            |block| block.batch as i64,
            |block, time| block.last.then_some(*time),
        );
    match args.work {
        Work::Grep => grep(blocks, sink),
        work => words(blocks, work, args.batches, sink),
    }
    let job = std::thread::spawn(move || env.execute_blocking());
    while ready.load(Ordering::Acquire) < parts {
        std::thread::yield_now();
    }
    let feed = |batch| {
        feeds
            .iter()
            .try_for_each(|to| to.send(batch))
            .map_err(|_| "the job has ended".to_owned())
    };
    let times = if args.work == Work::Small {
        small(args, data, feed, &results)?
    } else {
        let start = Instant::now();
        (0..args.batches).try_for_each(feed)?;
        let partials = collect(args, &results)?;
        let time = start.elapsed();
        verify(args, data, partials)?;
        vec![time]
    };
    drop(feeds);
    job.join().map_err(|_| "the job has panicked".to_owned())?;
    Ok(times)
}

/// The blocks of the batches as they are released.
fn blocks(
    feed: Receiver<usize>,
    data: &'static Input,
    part: usize,
    parts: usize,
    ready: Arc<AtomicUsize>,
) -> impl Iterator<Item = Block> + Send {
    let released = std::iter::once_with(move || {
        ready.fetch_add(1, Ordering::Release);
        feed.into_iter()
    });
    released.flatten().flat_map(move |batch| {
        let part = input::part(&data.batches[batch], part, parts);
        let end = part.as_ptr_range().end.addr();
        let block = move |text: &'static [u8]| Block {
            batch,
            text,
            last: text.as_ptr_range().end.addr() == end,
        };
        part.chunks(BLOCK_LINES * LINE_BYTES).map(block)
    })
}

fn grep(blocks: Stream<impl Operator<Out = Block> + 'static>, sink: Sink) {
    let finder = memchr::memmem::Finder::new(NEEDLE);
    let mut found = 0;
    blocks
        .rich_map_custom(move |mut elements| {
            loop {
                match elements.next() {
                    StreamElement::Item(block) | StreamElement::Timestamped(block, _) => {
                        found += search(block.text, &finder);
                    }
                    StreamElement::Watermark(time) => {
                        return StreamElement::Timestamped(
                            (time as usize, Partial::Found(std::mem::take(&mut found))),
                            time,
                        );
                    }
                    other => return control(&other.variant()),
                }
            }
        })
        .for_each(move |result| drop(sink.send(result)));
}

/// The element without a record, as an element of another type.
fn control<T>(element: &StreamElement<()>) -> StreamElement<T> {
    match element {
        StreamElement::Terminate => StreamElement::Terminate,
        StreamElement::FlushAndRestart => StreamElement::FlushAndRestart,
        _ => StreamElement::FlushBatch,
    }
}

fn words(
    blocks: Stream<impl Operator<Out = Block> + 'static>,
    work: Work,
    batches: usize,
    sink: Sink,
) {
    let mut table: Table<Word> = Table::with_capacity(1024);
    let mut counted: Vec<Entry<Word>> = Vec::new();
    let (mut time, mut then) = (0, Vec::new());
    let counts = blocks.rich_map_custom(move |mut elements| {
        loop {
            if let Some(entry) = counted.pop() {
                return StreamElement::Timestamped(entry, time);
            }
            if let Some(element) = then.pop() {
                return element;
            }
            match elements.next() {
                StreamElement::Item(block) | StreamElement::Timestamped(block, _) => {
                    table.count(block.text)
                }
                StreamElement::Watermark(end) => {
                    counted.extend(table.0.drain());
                    time = end;
                    // Last in, first out: the watermark after the counts, then nothing may wait in a buffer.
                    then = vec![StreamElement::FlushBatch, StreamElement::Watermark(end)];
                }
                other => return control(&other.variant()),
            }
        }
    });
    let mut open: BTreeMap<i64, Table<Word>> = BTreeMap::new();
    let mut window = Window::new();
    let mut state: Table<Word> = Table::with_capacity(1024);
    let mut then = Vec::new();
    let mut size = 1024;
    counts
        .repartition_by(Replication::Unlimited, |entry: &Entry<Word>| {
            route(entry.hash)
        })
        .rich_map_custom(move |mut elements| {
            loop {
                if let Some(element) = then.pop() {
                    return element;
                }
                match elements.next() {
                    StreamElement::Timestamped(entry, time) => {
                        open.entry(time)
                            .or_insert_with(|| Table::with_capacity(size))
                            .add(entry);
                    }
                    StreamElement::Item(_) => unreachable!("every record has a time"),
                    StreamElement::Watermark(end) => {
                        // A watermark may pass several batches at once.
                        while let Some(first) = open.first_entry()
                            && *first.key() <= end
                        {
                            let batch = *first.key() as usize;
                            let mut table = first.remove();
                            size = table.0.len();
                            let mut give =
                                |partial| then.push(StreamElement::Item((batch, partial)));
                            match work {
                                Work::Running => {
                                    state.run(&mut table);
                                    give(Partial::Counts(table));
                                }
                                Work::Window => give(Partial::Size(window.slide(table))),
                                Work::TopK => {
                                    window.slide(table);
                                    give(Partial::Top(window.top()));
                                }
                                _ => give(Partial::Counts(table)),
                            }
                            if work == Work::Window && batch + 1 == batches {
                                let state = std::mem::replace(&mut window, Window::new()).state;
                                give(Partial::State(state));
                            }
                        }
                        then.reverse();
                    }
                    other => return control(&other.variant()),
                }
            }
        })
        .for_each(move |result| drop(sink.send(result)));
}

/// The results of all batches, each complete when every replica has given its own.
fn collect(args: &Args, results: &Receiver<(usize, Partial)>) -> Result<Vec<Vec<Partial>>, String> {
    let mut partials: Vec<Vec<Partial>> = vec![Vec::new(); args.batches];
    let states = if args.work == Work::Window {
        args.threads
    } else {
        0
    };
    for _ in 0..args.batches * args.threads + states {
        let (batch, partial) = results
            .recv()
            .map_err(|_| "the job ended without all results".to_owned())?;
        partials[batch].push(partial);
    }
    Ok(partials)
}

fn counts_of(partials: &[Partial]) -> Words {
    total(partials.iter().filter_map(|partial| match partial {
        Partial::Counts(table) | Partial::State(table) => Some(table),
        _ => None,
    }))
}

fn verify(args: &Args, data: &Input, partials: Vec<Vec<Partial>>) -> Result<(), String> {
    match args.work {
        Work::Grep => {
            let found = |partial: &Partial| {
                if let Partial::Found(n) = partial {
                    *n
                } else {
                    0
                }
            };
            let sums: Vec<u64> = partials
                .iter()
                .map(|batch| batch.iter().map(found).sum())
                .collect();
            data.expected.check_grep(&sums)
        }
        Work::WordCount | Work::Running | Work::Small => data.expected.check_words(
            &partials
                .iter()
                .map(|batch| counts_of(batch))
                .collect::<Vec<_>>(),
        ),
        Work::Window => {
            let size = |partial: &Partial| {
                if let Partial::Size(size) = partial {
                    *size
                } else {
                    (0, 0)
                }
            };
            let sum = |batch: &Vec<Partial>| {
                batch
                    .iter()
                    .map(size)
                    .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
            };
            let last = partials
                .last()
                .map_or_else(Words::default, |batch| counts_of(batch));
            data.expected
                .check_window(&partials.iter().map(sum).collect::<Vec<_>>(), last)
        }
        Work::TopK => {
            let top = |partial| {
                if let Partial::Top(top) = partial {
                    top
                } else {
                    Vec::new()
                }
            };
            let list = |batch: Vec<Partial>| first(batch.into_iter().flat_map(top).collect());
            data.expected
                .check_top(&partials.into_iter().map(list).collect::<Vec<_>>())
        }
    }
}

/// One batch at a time; the answer is checked between batches.
fn small(
    args: &Args,
    data: &Input,
    feed: impl Fn(usize) -> Result<(), String>,
    results: &Receiver<(usize, Partial)>,
) -> Result<Vec<Duration>, String> {
    let mut times = Vec::with_capacity(args.batches);
    for batch in 0..args.batches {
        let start = Instant::now();
        feed(batch)?;
        let mut partials = Vec::with_capacity(args.threads);
        for _ in 0..args.threads {
            partials.push(
                results
                    .recv()
                    .map_err(|_| "the job ended without all results".to_owned())?
                    .1,
            );
        }
        times.push(start.elapsed());
        data.expected.check_batch(batch, counts_of(&partials))?;
    }
    Ok(times)
}
