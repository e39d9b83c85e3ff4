//! Measures one size of cluster: a [`Row`] for each kind of work.

use std::error::Error;
use std::time::Duration;

use serde_json::{Value, json};

use crate::BLOCKS;
use crate::meter::Cost;
use crate::world::World;

/// How often each thing is measured.
#[derive(Copy, Clone)]
pub struct Rounds {
    pub batches: usize,
    pub events: usize,
}

/// One kind of work on one size of cluster: medians, unless it says otherwise.
pub struct Row {
    pub round: usize,
    pub kind: &'static str,
    pub workers: usize,
    pub partitions: u32,
    /// The numbers by name.
    pub numbers: Vec<(&'static str, f64)>,
}

impl Row {
    pub fn json(&self) -> Value {
        let mut json = json!({
            "round": self.round,
            "kind": self.kind,
            "workers": self.workers,
            "partitions": self.partitions,
            "blocks_per_worker": BLOCKS,
        });
        for (name, number) in &self.numbers {
            json[name] = json!((number * 1_000.0).round() / 1_000.0);
        }
        json
    }
}

pub fn sample(size: (usize, usize, u32), rounds: Rounds) -> Result<Vec<Row>, Box<dyn Error>> {
    let (round, workers, partitions) = size;
    let row = |kind, numbers| Row {
        round,
        kind,
        workers,
        partitions,
        numbers,
    };
    let mut world = World::new(workers, partitions, BLOCKS)?;
    let (mut batches, mut stored, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.batches {
        let batch = world.batch();
        batches.push(batch.all);
        stored.push(batch.stored);
        commits.push(batch.commit);
    }
    let (mut joins, mut moving, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.events {
        let mut join = Cost::default();
        world.join(&mut join);
        moving.push(world.batch().all);
        world.settle(&mut join);
        joins.push(join);
        check(&world, "joined", size)?;
        world.batch();
        // With blocks that are in no batch yet.
        world.store();
        let mut loss = Cost::default();
        world.lose(&mut loss);
        world.settle(&mut loss);
        losses.push(loss);
        check(&world, "was lost", size)?;
        world.batch();
    }
    world.store();
    let (cluster, controller) = world.held_bytes();
    let of_blocks: Vec<_> = stored.iter().map(per_step).collect();
    let held = vec![
        ("cluster_bytes", cluster as f64),
        ("controller_bytes", controller as f64),
    ];
    Ok(vec![
        row("batch", numbers(&batches)),
        row("stored", of_blocks_numbers(&of_blocks)),
        row("commit", numbers(&commits)),
        row("join", numbers(&joins)),
        row("batch while state moves", numbers(&moving)),
        row("loss", numbers(&losses)),
        row("held", held),
    ])
}

fn check(world: &World, what: &str, size: (usize, usize, u32)) -> Result<(), String> {
    let (_, workers, partitions) = size;
    world.is_settled().then_some(()).ok_or_else(|| {
        format!("{workers} workers, {partitions} partitions: not settled after one {what}")
    })
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn per_step(cost: &Cost) -> f64 {
    us(cost.cpu) / cost.steps.max(1) as f64
}

fn of_blocks_numbers(us: &[f64]) -> Vec<(&'static str, f64)> {
    vec![
        ("cpu_us", percentile(us.to_vec(), 0.5)),
        ("cpu_us_p99", percentile(us.to_vec(), 0.99)),
    ]
}

fn numbers(costs: &[Cost]) -> Vec<(&'static str, f64)> {
    let of = |number: fn(&Cost) -> f64, at| percentile(costs.iter().map(number).collect(), at);
    vec![
        ("cpu_us", of(|it| us(it.cpu), 0.5)),
        ("cpu_us_p99", of(|it| us(it.cpu), 0.99)),
        ("longest_us", of(|it| us(it.worst), 0.5)),
        ("steps", of(|it| it.steps as f64, 0.5)),
        ("commands", of(|it| it.commands as f64, 0.5)),
        (
            "messages",
            of(|it| it.messages.values().sum::<usize>() as f64, 0.5),
        ),
        (
            "most_messages_of_a_worker",
            of(
                |it| it.messages.values().max().copied().unwrap_or(0) as f64,
                0.5,
            ),
        ),
        ("allocations", of(|it| it.allocations as f64, 0.5)),
        ("allocated_bytes", of(|it| it.bytes as f64, 0.5)),
    ]
}

/// `at` 0.5: the median.
pub fn percentile(mut numbers: Vec<f64>, at: f64) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let last = numbers.len().saturating_sub(1);
    let at = (last as f64 * at).round() as usize;
    numbers.get(at).copied().unwrap_or(f64::NAN)
}
