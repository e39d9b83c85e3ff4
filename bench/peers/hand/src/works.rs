//! The works that count words, over any table of counts.

use bench_input::{Args, Input, Report, TOP, WINDOW, Words, Work, input};
use std::collections::VecDeque;
use std::sync::{Barrier, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A table from words, which stay in the input, to counts.
pub trait Counts<'a>: Send + Sized {
    fn with_capacity(words: usize) -> Self;
    fn len(&self) -> usize;
    /// Counts the words of `text`, each in the table of its partition.
    fn count(tables: &mut [Self], text: &'a [u8]);
    /// Adds the counts of `other` and empties it; returns the sum of them.
    fn merge(&mut self, other: &mut Self);
    /// Adds the counts of `other`; returns their sum.
    fn add(&mut self, other: &Self) -> u64;
    /// Adds the counts of `other`, and puts the sums in their place there.
    fn run(&mut self, other: &mut Self);
    /// Subtracts the counts of `other` and drops words without any; returns the sum of what was subtracted.
    fn subtract(&mut self, other: &Self) -> u64;
    fn each(&self, f: impl FnMut(&[u8], u64));
}

/// What one thread has after the last batch.
struct Results<T> {
    tables: Vec<T>,
    state: T,
    sizes: Vec<(u64, u64)>,
    tops: Vec<Vec<(Vec<u8>, u64)>>,
    times: Vec<Duration>,
}

struct Shared<'a, 'i, T> {
    args: &'a Args,
    input: &'i Input,
    barrier: Barrier,
    /// By parity of the batch, writing thread and partition: one barrier per batch is enough.
    slots: [Vec<Vec<Mutex<T>>>; 2],
    tops: Vec<Mutex<Vec<(Vec<u8>, u64)>>>,
    small: Mutex<Words>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread has panicked")
}

pub fn run<'a, T>(args: &'a Args, input: &Input) -> Result<Report<'a>, String>
where
    T: for<'x> Family<'x>,
{
    run_typed::<<T as Family>::Of>(args, input)
}

/// The table type for input that lives for `'x`.
pub trait Family<'x> {
    type Of: Counts<'x>;
}

fn run_typed<'i, 'a, T: Counts<'i>>(
    args: &'a Args,
    input: &'i Input,
) -> Result<Report<'a>, String> {
    let slot = || {
        (0..args.threads)
            .map(|_| Mutex::new(T::with_capacity(1024)))
            .collect()
    };
    let slots = || (0..args.threads).map(|_| slot()).collect();
    let shared = Shared {
        args,
        input,
        barrier: Barrier::new(args.threads),
        slots: [slots(), slots()],
        tops: (0..args.threads).map(|_| Mutex::default()).collect(),
        small: Mutex::default(),
    };
    let ready = Barrier::new(args.threads + 1);
    let (time, parts) = std::thread::scope(|scope| {
        let worker = |me| {
            let (shared, ready) = (&shared, &ready);
            scope.spawn(move || {
                ready.wait();
                if args.work == Work::Small {
                    shared.small(me)
                } else {
                    Ok(shared.throughput(me))
                }
            })
        };
        let workers: Vec<_> = (0..args.threads).map(worker).collect();
        ready.wait();
        let start = Instant::now();
        let parts: Result<Vec<_>, String> = workers
            .into_iter()
            .map(|w| w.join().expect("a worker"))
            .collect();
        (start.elapsed(), parts)
    });
    let parts = parts?;
    let words = |tables: &mut dyn Iterator<Item = &T>| {
        let mut words = Words::default();
        tables.for_each(|table| table.each(|word, count| words.add(word, count)));
        words
    };
    match args.work {
        Work::WordCount | Work::Running => {
            let all: Vec<Words> = (0..args.batches)
                .map(|b| words(&mut parts.iter().map(|part| &part.tables[b])))
                .collect();
            input.expected.check_words(&all)?;
        }
        Work::Window => {
            let sum = |b: usize| {
                parts.iter().fold((0, 0), |s, part| {
                    (s.0 + part.sizes[b].0, s.1 + part.sizes[b].1)
                })
            };
            let sizes: Vec<(u64, u64)> = (0..args.batches).map(sum).collect();
            input
                .expected
                .check_window(&sizes, words(&mut parts.iter().map(|part| &part.state)))?;
        }
        Work::TopK => {
            let text = |(word, count): &(Vec<u8>, u64)| {
                (String::from_utf8_lossy(word).into_owned(), *count)
            };
            let tops: Vec<Vec<_>> = parts[0]
                .tops
                .iter()
                .map(|top| top.iter().map(text).collect())
                .collect();
            input.expected.check_top(&tops)?;
        }
        Work::Small => {
            return Ok(Report::small(
                "hand",
                super::VERSION,
                args,
                &args.variant,
                &parts[0].times,
            ));
        }
        Work::Grep => return Err("grep does not count words".into()),
    }
    Ok(super::throughput(args, time))
}

impl<'i, T: Counts<'i>> Shared<'_, 'i, T> {
    /// Counts this thread's part of a batch, then merges its partition of what all threads counted.
    fn batch(&self, me: usize, batch: usize, local: &mut Vec<T>, last: usize) -> T {
        T::count(
            local,
            input::part(&self.input.batches[batch], me, self.args.threads),
        );
        let slots = &self.slots[batch % 2];
        for (slot, table) in slots[me].iter().zip(local.iter_mut()) {
            std::mem::swap(&mut *lock(slot), table);
        }
        self.barrier.wait();
        let mut merged = std::mem::replace(&mut *lock(&slots[me][me]), T::with_capacity(last));
        for other in (0..self.args.threads).filter(|other| *other != me) {
            merged.merge(&mut lock(&slots[other][me]));
        }
        merged
    }

    fn throughput(&self, me: usize) -> Results<T> {
        let mut local: Vec<T> = (0..self.args.threads)
            .map(|_| T::with_capacity(1024))
            .collect();
        let mut results = Results {
            tables: Vec::new(),
            state: T::with_capacity(1024),
            sizes: Vec::new(),
            tops: Vec::new(),
            times: Vec::new(),
        };
        let (mut window, mut total, mut last) = (VecDeque::new(), 0, 1024);
        for batch in 0..self.args.batches {
            let mut table = self.batch(me, batch, &mut local, last);
            last = table.len();
            if self.args.work == Work::WordCount {
                results.tables.push(table);
                continue;
            }
            if self.args.work == Work::Running {
                results.state.run(&mut table);
                results.tables.push(table);
                continue;
            }
            total += results.state.add(&table);
            window.push_back(table);
            if window.len() > WINDOW
                && let Some(old) = window.pop_front()
            {
                total -= results.state.subtract(&old);
            }
            results.sizes.push((results.state.len() as u64, total));
            if self.args.work == Work::TopK {
                *lock(&self.tops[me]) = top(&results.state);
                self.barrier.wait();
                if me == 0 {
                    let mut all: Vec<_> =
                        self.tops.iter().flat_map(|top| lock(top).clone()).collect();
                    all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                    all.truncate(TOP);
                    results.tops.push(all);
                }
                self.barrier.wait();
            }
        }
        self.barrier.wait();
        results
    }

    /// One batch at a time; the answer is checked between batches, when the clock of the batch has stopped.
    fn small(&self, me: usize) -> Result<Results<T>, String> {
        let mut local: Vec<T> = (0..self.args.threads)
            .map(|_| T::with_capacity(4096))
            .collect();
        let mut times = Vec::new();
        for batch in 0..self.args.batches {
            if me == 0 {
                *lock(&self.small) = Words::default();
            }
            self.barrier.wait();
            let start = Instant::now();
            let table = self.batch(me, batch, &mut local, 4096);
            self.barrier.wait();
            times.push(start.elapsed());
            let mut words = Words::default();
            table.each(|word, count| words.add(word, count));
            let mut sum = lock(&self.small);
            sum.distinct += words.distinct;
            sum.total += words.total;
            sum.checksum = sum.checksum.wrapping_add(words.checksum);
            drop(sum);
            self.barrier.wait();
            if me == 0 {
                self.input
                    .expected
                    .check_batch(batch, *lock(&self.small))
                    .unwrap_or_else(|why| {
                        eprintln!("Error: {why}");
                        std::process::exit(1);
                    });
            }
        }
        let state = T::with_capacity(0);
        Ok(Results {
            tables: Vec::new(),
            state,
            sizes: Vec::new(),
            tops: Vec::new(),
            times,
        })
    }
}

/// The most frequent words of a table by a scan, unsorted ties broken by the word.
fn top<'i, T: Counts<'i>>(table: &T) -> Vec<(Vec<u8>, u64)> {
    let mut top: Vec<(Vec<u8>, u64)> = Vec::with_capacity(TOP + 1);
    let mut least = 0;
    table.each(|word, count| {
        if count < least {
            return;
        }
        let at = top.partition_point(|(w, c)| *c > count || *c == count && w.as_slice() < word);
        if at < TOP {
            top.insert(at, (word.to_vec(), count));
            top.truncate(TOP);
            if top.len() == TOP {
                least = top[TOP - 1].1;
            }
        }
    });
    top
}
