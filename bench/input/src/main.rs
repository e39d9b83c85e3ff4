//! `bench-input`: writes the input and its expected answers to files, for programs that are not in Rust.
//!
//! `bench-input --work W --out DIR [--lines N] [--batches N] [--seed N]` writes `DIR/input` (all lines) and
//! `DIR/expected` (see `bench/peers/README.md` for its lines). Without `--out` it says what it made and how long it took.

use bench_input::{Args, Input};
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse(std::env::args().skip(1))?;
    let start = Instant::now();
    let input = Input::generate(&args);
    let seconds = start.elapsed().as_secs_f64();
    match args.others.iter().find(|(name, _)| name == "out") {
        Some((_, out)) => write(&args, &input, Path::new(out))?,
        None => println!(
            "{} lines in {} batches in {seconds:.3} s",
            args.lines, args.batches
        ),
    }
    Ok(())
}

fn write(args: &Args, input: &Input, out: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out)?;
    let mut file = File::create(out.join("input"))?;
    input
        .batches
        .iter()
        .try_for_each(|batch| file.write_all(batch))?;
    let mut file = BufWriter::new(File::create(out.join("expected"))?);
    writeln!(file, "lines {}", args.lines)?;
    writeln!(file, "batches {}", args.batches)?;
    writeln!(file, "needle {}", bench_input::NEEDLE)?;
    writeln!(file, "warm_up {}", args.warm_up())?;
    for count in &input.expected.grep {
        writeln!(file, "grep {count}")?;
    }
    // Checksums are signed here: other languages have no unsigned 64 bits.
    for words in input.expected.words.iter().chain(&input.expected.window) {
        writeln!(
            file,
            "words {} {} {}",
            words.distinct,
            words.total,
            words.checksum.cast_signed()
        )?;
    }
    for list in &input.expected.top {
        write!(file, "top")?;
        list.iter()
            .try_for_each(|(word, count)| write!(file, " {word} {count}"))?;
        writeln!(file)?;
    }
    file.flush()?;
    Ok(())
}
