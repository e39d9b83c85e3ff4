//! [`Cost`]: what a piece of work took: processor time of this thread, allocations, commands, messages.
//!
//! Processor time instead of wall time, so that other work on the machine disturbs little. Includes the counting of
//! allocations, some nanoseconds each; reading the clock costs some 300 ns per measured piece.

use std::alloc::System;
use std::collections::BTreeMap;
use std::time::Duration;

use cpu_time::ThreadTime;
use dstreams_control::cluster::WorkerId;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Clone, Default)]
pub struct Cost {
    pub cpu: Duration,
    /// Of the slowest piece.
    pub worst: Duration,
    pub steps: usize,
    pub allocations: usize,
    pub bytes: usize,
    pub commands: usize,
    pub messages: BTreeMap<WorkerId, usize>,
}

impl Cost {
    /// Runs `work`, which is so many steps.
    pub fn measure<T>(&mut self, steps: usize, work: impl FnOnce() -> T) -> T {
        let heap = Region::new(ALLOCATOR);
        let began = ThreadTime::now();
        let result = work();
        let took = began.elapsed();
        let heap = heap.change();
        self.cpu += took;
        self.worst = self.worst.max(took);
        self.steps += steps;
        self.allocations += heap.allocations + heap.reallocations;
        self.bytes += heap.bytes_allocated;
        result
    }

    pub fn message(&mut self, to: WorkerId) {
        *self.messages.entry(to).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.worst = self.worst.max(other.worst);
        self.steps += other.steps;
        self.allocations += other.allocations;
        self.bytes += other.bytes;
        self.commands += other.commands;
        for (&worker, count) in &other.messages {
            *self.messages.entry(worker).or_default() += count;
        }
    }
}

/// The bytes freed with `it`.
pub fn held_by<T>(it: T) -> usize {
    let heap = Region::new(ALLOCATOR);
    drop(it);
    heap.change().bytes_deallocated
}
