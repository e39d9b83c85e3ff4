//! The program `dstreams` of the comparison: the works on D-Streams, one line of JSON on standard output.
//!
//! Lines are Arrow views into the generated text, made before the clock starts: as receiving would leave them. Then
//! each batch is pushed, its interval ended by hand, and its result awaited. `--variant closures` splits lines by
//! `dstreams::text::words` in a closure, `split` by the standard library's `split(' ')`, and `dataframes` describes
//! everything that is stateless in SQL.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_input::{Args, Input, LINE_BYTES, NEEDLE, Report, WINDOW, Words, Work};
use dstreams::agg::count;
use dstreams::arrow::array::{AsArray, RecordBatch, StringViewArray, StringViewBuilder};
use dstreams::arrow::buffer::Buffer;
use dstreams::arrow::datatypes::Int64Type;
use dstreams::text::words;
use dstreams::{
    Clock, Config, DStream, Keyed, ManualClock, Queue, Rdd, RddReceiver, Record, StreamContext,
};

const INTERVAL: Duration = Duration::from_secs(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs one work with the flags that every program understands.
pub fn run(flags: impl Iterator<Item = String>) -> Outcome<()> {
    let mut args = Args::parse(flags)?;
    if args.variant.is_empty() {
        args.variant = "closures".into();
    }
    let mut input = Input::generate(&args);
    let batches = std::mem::take(&mut input.batches).into_iter().map(lines);
    let batches: Vec<RecordBatch> = batches.collect::<Outcome<_>>()?;
    // The context's own threads run the tasks; this one only waits.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let json = runtime.block_on(async {
        match args.work {
            Work::Grep => grep(&args, &input, batches).await,
            Work::WordCount => word_count(&args, &input, batches).await,
            Work::Running => running(&args, &input, batches).await,
            Work::Window => window(&args, &input, batches).await,
            Work::TopK => top(&args, &input, batches).await,
            Work::Small => small(&args, &input, batches).await,
        }
    })?;
    println!("{json}");
    Ok(())
}

/// The lines of a batch, as views into its text.
pub fn lines(text: Vec<u8>) -> Outcome<RecordBatch> {
    let count = text.len() / LINE_BYTES;
    let mut views = StringViewBuilder::with_capacity(count);
    let block = views.append_block(Buffer::from_vec(text));
    for line in 0..count {
        views.try_append_view(block, (line * LINE_BYTES) as u32, LINE_BYTES as u32 - 1)?;
    }
    let column: StringViewArray = views.finish();
    Ok(RecordBatch::try_new(
        String::schema(),
        vec![Arc::new(column)],
    )?)
}

/// A context whose intervals end by hand.
struct Program {
    ctx: StreamContext,
    clock: ManualClock,
    queue: Queue<String>,
    lines: DStream<String>,
}

impl Program {
    fn new(args: &Args) -> Outcome<Self> {
        let mut config = Config::new(INTERVAL);
        config.threads = args.threads;
        config.block_memory = 4 << 30;
        let mut ctx = StreamContext::with_config(config)?;
        let (clock, time) = Clock::manual(Duration::ZERO);
        ctx.set_clock(time);
        let (queue, lines) = ctx.queue::<String>("lines");
        Ok(Program {
            ctx,
            clock,
            queue,
            lines,
        })
    }

    fn words(&self, args: &Args) -> Outcome<DStream<String>> {
        match args.variant.as_str() {
            "closures" => Ok(self.lines.flat_map::<String>(|line, out| {
                for word in words(line) {
                    out.push(word)
                }
            })),
            "split" => Ok(self.lines.flat_map::<String>(|line, out| {
                for word in line.split(' ') {
                    out.push(word)
                }
            })),
            "dataframes" => Ok(self
                .lines
                .sql("select unnest(words(value)) as value from this")?),
            other => {
                Err(format!("unknown variant {other:?}: closures, split or dataframes").into())
            }
        }
    }

    fn counts(&self, args: &Args) -> Outcome<DStream<(String, i64)>> {
        if args.variant == "dataframes" {
            let query = "select word as key, count(*) as value \
                         from (select unnest(words(value)) as word from this) group by word";
            return Ok(self.lines.sql(query)?);
        }
        Ok(self.words(args)?.keyed().agg(count())?.pairs())
    }

    fn windowed(&self, args: &Args) -> Outcome<Keyed<String, i64>> {
        let length = INTERVAL * window_of(args)? as u32;
        Ok(self
            .words(args)?
            .keyed()
            .window_agg(length, INTERVAL, count())?)
    }
}

/// Batches of the window: `--window N` for other lengths than the comparison's.
fn window_of(args: &Args) -> Outcome<usize> {
    let given = args.others.iter().find(|(name, _)| name == "window");
    Ok(given.map_or(Ok(WINDOW), |(_, value)| value.parse())?)
}

/// Pushes the batches one after the other, each after the result of the previous one.
async fn drive<T: Record>(
    program: Program,
    mut results: RddReceiver<T>,
    batches: Vec<RecordBatch>,
    mut take: impl FnMut(usize, Rdd<T>) -> Outcome<()>,
) -> Outcome<(Duration, Vec<Duration>)> {
    let Program {
        ctx, clock, queue, ..
    } = program;
    let running = ctx.start().await?;
    let mut times = Vec::with_capacity(batches.len());
    let start = Instant::now();
    for (at, batch) in batches.into_iter().enumerate() {
        let pushed = Instant::now();
        queue.push_batch(batch).await?;
        clock.advance(INTERVAL);
        let Some(rdd) = results.recv().await else {
            running.await_termination(None).await?;
            return Err("the program stopped before its last batch".into());
        };
        times.push(pushed.elapsed());
        take(at, rdd)?;
    }
    let time = start.elapsed();
    running.abort().await?;
    Ok((time, times))
}

async fn grep(args: &Args, input: &Input, batches: Vec<RecordBatch>) -> Outcome<String> {
    let program = Program::new(args)?;
    let found = match args.variant.as_str() {
        "dataframes" => program.lines.sql::<i64>(&format!(
            "select count(*) as value from this where value like '%{NEEDLE}%'"
        ))?,
        _ => {
            let needle = memchr::memmem::Finder::new(NEEDLE).into_owned();
            let found = program
                .lines
                .filter(move |line| needle.find(line.as_bytes()).is_some());
            found.count()?
        }
    };
    let results = found.collect();
    let mut counts = Vec::new();
    let (time, _) = drive(program, results, batches, |_, rdd| {
        counts.push(rdd.collect()?[0] as u64);
        Ok(())
    })
    .await?;
    input.expected.check_grep(&counts)?;
    Ok(throughput(args, time))
}

/// Counts of words, by batch.
async fn counted(
    args: &Args,
    input: &Input,
    program: Program,
    results: RddReceiver<(String, i64)>,
    batches: Vec<RecordBatch>,
) -> Outcome<String> {
    let mut rdds = Vec::new();
    let (time, _) = drive(program, results, batches, |_, rdd| {
        rdds.push(rdd);
        Ok(())
    })
    .await?;
    let counts: Vec<Words> = rdds.iter().map(words_of).collect();
    input.expected.check_words(&counts)?;
    Ok(throughput(args, time))
}

async fn word_count(args: &Args, input: &Input, batches: Vec<RecordBatch>) -> Outcome<String> {
    let program = Program::new(args)?;
    let results = program.counts(args)?.collect();
    counted(args, input, program, results, batches).await
}

async fn running(args: &Args, input: &Input, batches: Vec<RecordBatch>) -> Outcome<String> {
    let program = Program::new(args)?;
    let counts = program
        .words(args)?
        .keyed()
        .running_agg("counts", count())?;
    let results = counts.changes().collect();
    counted(args, input, program, results, batches).await
}

async fn window(args: &Args, input: &Input, batches: Vec<RecordBatch>) -> Outcome<String> {
    let program = Program::new(args)?;
    let results = program.windowed(args)?.collect();
    let mut sizes = Vec::new();
    let mut last = None;
    let (time, _) = drive(program, results, batches, |_, rdd| {
        let totals = rdd.partitions().iter().flatten();
        let totals = totals.map(|rows| rows.column(1).as_primitive::<Int64Type>().values());
        let total: i64 = totals.flat_map(|values| values.iter()).sum();
        sizes.push((rdd.num_rows() as u64, total as u64));
        last = Some(rdd);
        Ok(())
    })
    .await?;
    if window_of(args)? == WINDOW {
        let last = last.as_ref().map(words_of).unwrap_or_default();
        input.expected.check_window(&sizes, last)?;
    }
    Ok(throughput(args, time))
}

async fn top(args: &Args, input: &Input, batches: Vec<RecordBatch>) -> Outcome<String> {
    let program = Program::new(args)?;
    let results = program.windowed(args)?.top(bench_input::TOP).collect();
    let mut tops = Vec::new();
    let (time, _) = drive(program, results, batches, |_, rdd| {
        let ranked = rdd.collect()?.into_iter();
        tops.push(ranked.map(|(word, count)| (word, count as u64)).collect());
        Ok(())
    })
    .await?;
    input.expected.check_top(&tops)?;
    Ok(throughput(args, time))
}

async fn small(args: &Args, input: &Input, batches: Vec<RecordBatch>) -> Outcome<String> {
    let program = Program::new(args)?;
    let results = program.counts(args)?.collect();
    let (_, times) = drive(program, results, batches, |at, rdd| {
        Ok(input.expected.check_batch(at, words_of(&rdd))?)
    })
    .await?;
    Ok(Report::small("dstreams", VERSION, args, &args.variant, &times).json())
}

/// The words of a result.
pub fn words_of(rdd: &Rdd<(String, i64)>) -> Words {
    let mut counts = Words::default();
    for rows in rdd.partitions().iter().flatten() {
        let words = rows.column(0).as_string_view();
        let values = rows.column(1).as_primitive::<Int64Type>().values();
        for (word, count) in words.iter().zip(values) {
            counts.add(word.unwrap_or_default().as_bytes(), *count as u64);
        }
    }
    counts
}

fn throughput(args: &Args, time: Duration) -> String {
    Report::throughput("dstreams", VERSION, args, &args.variant, time).json()
}
