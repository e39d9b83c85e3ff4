//! The target placement of partitions of state: as even as possible, with as few moves as possible.
//!
//! A move goes through the standby: the state is copied to the new worker, which becomes the standby when it has
//! all of it, and then swaps roles with the primary. So first every partition gets a standby, then primaries are
//! spread evenly, then standbys. The previous standby stays until the copy is complete. Where partitions have no
//! standbys, one is there only for a move.
//!
//! A steady worker is an open one that is not slow. A slow worker has state only if no other worker can have it: a slow
//! standby is better than none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::WorkerId;
use super::groups::Groups;
use super::partitions::{Part, Partition, Partitions};
use super::roster::Roster;
use crate::BatchTime;

/// Decides all that can be decided now; returns the partitions whose state must be copied to a new standby, and
/// whether all primaries are in place.
pub(super) fn spread(partitions: &mut Partitions, roster: &Roster) -> (Vec<u32>, bool) {
    let under_way = partitions.all.values().filter(|it| it.next.is_some());
    let under_way = under_way.count();
    let mut spread = Spread {
        free: partitions.max_concurrent_copies.saturating_sub(under_way),
        partitions,
        roster,
        freed: false,
        copies: Vec::new(),
        moving: BTreeSet::new(),
    };
    loop {
        spread.freed = false;
        spread.moving.clear();
        spread.assign_primaries();
        spread.assign_standbys();
        // A standby that needed no copy can now take over from a draining primary, and is then replaced as standby.
        spread.assign_primaries();
        spread.assign_standbys();
        spread.move_primaries();
        spread.move_standbys();
        spread.release_standbys();
        if !spread.freed {
            break;
        }
    }
    let even = uneven(&spread.load(|it| it.primary)).is_none() && spread.primaries_are_steady();
    (spread.copies, even)
}

struct Spread<'a> {
    partitions: &'a mut Partitions,
    roster: &'a Roster,
    /// Copies that may still start.
    free: usize,
    copies: Vec<u32>,
    /// A copy was given up: one more may start.
    freed: bool,
    /// Partitions whose standby, or next one, is to become primary.
    moving: BTreeSet<u32>,
}

impl Spread<'_> {
    /// A primary for each partition without one. Draining and slow primaries give way to standbys that can take over.
    fn assign_primaries(&mut self) {
        // A worker that is a primary is live: no lost one is left here.
        let all_held = || self.partitions.all.values().all(|it| it.primary.is_some());
        if self.roster.all_are_steady() && all_held() {
            return;
        }
        let mut load = self.load(|it| it.primary);
        for it in self.partitions.all.values_mut() {
            let steady = |part: Part| self.roster.is_steady(part.worker);
            let open = |part: Part| self.roster.is_open(part.worker);
            // One that drains does not wait for a copy of its state if a slow worker has one.
            let gives_way = it.primary.is_some_and(|part| !steady(part));
            let drains = it.primary.is_some_and(|part| !open(part));
            if gives_way
                && it
                    .standby
                    .is_some_and(|part| steady(part) || drains && open(part))
                && it.can_move()
            {
                std::mem::swap(&mut it.primary, &mut it.standby);
            } else if it.primary.is_none() {
                it.primary = least(&load).map(|worker| Part {
                    worker,
                    copy: it.recovering.unwrap_or_default(),
                    version: None,
                });
            } else {
                continue;
            }
            // A slow one that took over is not in the list, and must not be chosen for others.
            if let Some(count) = it.primary.and_then(|part| load.get_mut(&part.worker)) {
                *count += 1;
            }
        }
    }

    /// A steady standby for each partition, if there is a worker for it; else an open one.
    fn assign_standbys(&mut self) {
        // Usually few, even during many moves.
        let is_open = |part: Option<Part>| part.is_some_and(|it| self.roster.is_open(it.worker));
        let is_steady =
            |part: Option<Part>| part.is_some_and(|it| self.roster.is_steady(it.worker));
        let standbys = self.partitions.standbys;
        let wanting = |it: &Partition| {
            (standbys || !is_steady(it.primary))
                && it.recovering.is_none()
                && !is_open(it.next)
                && (it.stale || !is_steady(it.standby))
        };
        let gone = |it: &Partition| it.next.is_some() && !is_open(it.next);
        let wanting = |&(_, it): &(&u32, &Partition)| wanting(it) || gone(it);
        let wanting = self.partitions.all.iter().filter(wanting);
        let wanting: Vec<u32> = wanting.map(|(&partition, _)| partition).collect();
        if wanting.is_empty() {
            return;
        }
        let mut load = load_of(self.partitions, self.roster.open(), going);
        for partition in wanting {
            let Some(it) = self.partitions.all.get_mut(&partition) else {
                continue;
            };
            let Some(primary) = it.primary else {
                continue;
            };
            // The new standby itself drains.
            if let Some(next) = it.next.take() {
                it.before.insert(next.worker);
                self.free += 1;
                self.freed = true;
            }
            let steady =
                |worker: WorkerId| self.roster.is_steady(worker) && worker != primary.worker;
            let any_steady = load.keys().any(|&worker| steady(worker));
            let stays = |part: &Part| match any_steady {
                true => steady(part.worker),
                false => self.roster.is_open(part.worker),
            };
            if let Some(standby) = it.standby.filter(stays) {
                if it.stale {
                    self.replace_standby(partition, standby.worker);
                }
                continue;
            }
            let fits = |worker| steady(worker) || !any_steady && worker != primary.worker;
            let others = || load.iter().filter(|&(&worker, _)| fits(worker));
            if others().next().is_none() {
                // With one worker: a draining standby must go, unless the primary drains too.
                if self.roster.is_open(primary.worker)
                    && let Some(leaver) = it.standby.take()
                {
                    it.before.insert(leaver.worker);
                    it.stale = false;
                }
                continue;
            }
            if others().all(|(worker, _)| it.failed.contains(worker)) {
                it.failed.clear();
            }
            let fresh = others().filter(|&(worker, _)| !it.failed.contains(worker));
            let chosen = fresh.min_by_key(|&(&worker, &load)| (load, worker));
            if let Some(worker) = chosen.map(|(&worker, _)| worker)
                && self.replace_standby(partition, worker)
            {
                *load.entry(worker).or_default() += 1;
            }
        }
    }

    /// Moves primaries from the most to the least loaded worker, while that improves the balance.
    fn move_primaries(&mut self) {
        let mut load = self.load(|it| it.primary);
        if uneven(&load).is_none() {
            return;
        }
        let mut standbys = self.load(going);
        // By the worker where each is or will be.
        let mut at = Groups::new();
        for (&partition, it) in &self.partitions.all {
            if let Some(primary) = it.primary {
                at.insert(primary.worker, Kind::of(it), partition);
            }
        }
        while let Some((from, to)) = uneven(&load) {
            let Some(partition) = self.to_move(&at, &standbys, from, to) else {
                return;
            };
            let Some(before) = self.partitions.all.get(&partition).map(Kind::of) else {
                return;
            };
            if !self.move_one(partition, to) {
                return;
            }
            let Some(after) = self.partitions.all.get(&partition).map(Kind::of) else {
                return;
            };
            at.remove(from, &before, partition);
            at.insert(to, after, partition);
            if let Some(count) = before.going().and_then(|worker| standbys.get_mut(&worker)) {
                *count -= 1;
            }
            if let Some(count) = after.going().and_then(|worker| standbys.get_mut(&worker)) {
                *count += 1;
            }
            *load.entry(from).or_default() -= 1;
            *load.entry(to).or_default() += 1;
        }
    }

    /// A partition that can move at once, else one whose copy is in progress, else one that needs a copy: by rising
    /// cost.
    fn to_move(
        &self,
        at: &Groups<Kind>,
        standbys: &BTreeMap<WorkerId, usize>,
        from: WorkerId,
        to: WorkerId,
    ) -> Option<u32> {
        let to = Some(to);
        let there = |(kind, group): (&Kind, &BTreeSet<u32>)| {
            let (at_once, on_its_way) = (kind.standby == to && kind.moves, kind.going() == to);
            (at_once || on_its_way).then_some((!at_once, *group.first()?))
        };
        if let Some((_, partition)) = at.of(from).filter_map(there).min() {
            return Some(partition);
        }
        let movable = |partition: &&u32| {
            let it = self.partitions.all.get(partition);
            it.is_some_and(|it| it.next.is_none() && it.recovering.is_none())
        };
        let cheapest = |(kind, group): (&Kind, &BTreeSet<u32>)| {
            let spare = kind.standby.and_then(|worker| standbys.get(&worker));
            let first = group.iter().find(movable)?;
            Some((kind.complete, Reverse(spare.copied()), *first))
        };
        let (_, _, partition) = at.of(from).filter_map(cheapest).min()?;
        Some(partition)
    }

    /// Moves a partition at once, waits for its copy, or starts one. Returns whether it can.
    fn move_one(&mut self, partition: u32, to: WorkerId) -> bool {
        let is = |part: Option<Part>| part.is_some_and(|part| part.worker == to);
        let there = |it: &Partition| is(it.standby) || is(it.next);
        if !self.partitions.all.get(&partition).is_some_and(there)
            && !self.replace_standby(partition, to)
        {
            return false;
        }
        if let Some(it) = self.partitions.all.get_mut(&partition)
            && is(it.standby)
            && it.can_move()
        {
            std::mem::swap(&mut it.primary, &mut it.standby);
        } else {
            self.moving.insert(partition);
        }
        true
    }

    /// The same for standbys, once no primary moves.
    fn move_standbys(&mut self) {
        if self
            .partitions
            .all
            .values()
            .any(|it| it.next.is_some() || it.standby.is_none())
        {
            return;
        }
        if !self.partitions.standbys {
            return;
        }
        let mut load = self.load(going);
        if uneven(&load).is_none() {
            return;
        }
        // By standby, then by primary.
        let mut at = Groups::new();
        for (&partition, it) in &self.partitions.all {
            if let (Some(primary), Some(standby)) = (it.primary, it.standby) {
                at.insert(standby.worker, primary.worker, partition);
            }
        }
        while let Some((partition, primary, from, to)) = standby_to_move(&at, &load) {
            if !self.replace_standby(partition, to) {
                return;
            }
            at.remove(from, &primary, partition);
            let copying = |it: &Partition| it.next.is_some();
            if !self.partitions.all.get(&partition).is_some_and(copying) {
                at.insert(to, primary, partition);
            }
            *load.entry(from).or_default() -= 1;
            *load.entry(to).or_default() += 1;
        }
    }

    /// Where partitions have no standbys: releases those that no move needs.
    fn release_standbys(&mut self) {
        if self.partitions.standbys {
            return;
        }
        for (partition, it) in &mut self.partitions.all {
            let stays = it
                .primary
                .is_some_and(|part| self.roster.is_steady(part.worker));
            let moves = self.moving.contains(partition);
            if stays && it.next.is_none() && (!moves || it.stale) {
                it.before.extend(it.standby.take().map(|part| part.worker));
                it.stale = false;
                // It needs another copy.
                self.freed |= moves;
            }
        }
    }

    /// Copies the state to a worker, which will become the standby; if that can start now. At once where there is
    /// no state.
    fn replace_standby(&mut self, partition: u32, worker: WorkerId) -> bool {
        let Some(it) = self.partitions.all.get_mut(&partition) else {
            return false;
        };
        let version = it.primary.and_then(|primary| primary.version).or(it.newest);
        let state = version.is_some() || it.stale || it.before.contains(&worker);
        if state && (self.free == 0 || it.next.is_some()) {
            return false;
        }
        let mut part = Part {
            worker,
            copy: 0,
            version: None,
        };
        // A standby that gets the state again starts from nothing.
        let again = it.standby.take_if(|part| part.worker == worker);
        if state {
            self.free -= 1;
            self.partitions.copies = self.partitions.copies.saturating_add(1);
            part.copy = self.partitions.copies;
            it.next = Some(part);
            it.since = self.partitions.committed.unwrap_or(BatchTime(0));
            self.copies.push(partition);
        } else {
            let leaver = it.standby.replace(part);
            it.before.extend(leaver.map(|part| part.worker));
        }
        it.stale &= again.is_none();
        true
    }

    fn primaries_are_steady(&self) -> bool {
        let steady = |part: Part| self.roster.is_steady(part.worker);
        let mut primaries = self.partitions.all.values().filter_map(|it| it.primary);
        primaries.all(steady)
    }

    /// The number of partitions of each steady worker, in the role that `of` picks.
    fn load(&self, of: impl Fn(&Partition) -> Option<Part>) -> BTreeMap<WorkerId, usize> {
        load_of(self.partitions, self.roster.steady(), of)
    }
}

/// The number of partitions of each of these workers, in the role that `of` picks.
fn load_of(
    partitions: &Partitions,
    workers: &BTreeSet<WorkerId>,
    of: impl Fn(&Partition) -> Option<Part>,
) -> BTreeMap<WorkerId, usize> {
    let mut load: BTreeMap<_, _> = workers.iter().map(|&worker| (worker, 0)).collect();
    for it in partitions.all.values() {
        let picked = of(it).map(|part| part.worker);
        if let Some(count) = picked.and_then(|worker| load.get_mut(&worker)) {
            *count += 1;
        }
    }
    load
}

/// The standby, or the worker that will become it.
fn going(it: &Partition) -> Option<Part> {
    it.next.or(it.standby)
}

/// How a partition can move, and the cost.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct Kind {
    standby: Option<WorkerId>,
    next: Option<WorkerId>,
    complete: bool,
    /// Standby and primary can swap.
    moves: bool,
}

impl Kind {
    fn of(it: &Partition) -> Self {
        Self {
            standby: it.standby.map(|part| part.worker),
            next: it.next.map(|part| part.worker),
            complete: it.is_complete(),
            moves: it.can_move(),
        }
    }

    fn going(&self) -> Option<WorkerId> {
        self.next.or(self.standby)
    }
}

/// A partition whose standby can move from a loaded worker to a less loaded one that is not its primary; with its
/// primary, and both.
fn standby_to_move(
    at: &Groups<WorkerId>,
    load: &BTreeMap<WorkerId, usize>,
) -> Option<(u32, WorkerId, WorkerId, WorkerId)> {
    let mut few: Vec<_> = load
        .iter()
        .map(|(&worker, &count)| (worker, count))
        .collect();
    few.sort_by_key(|&(_, count)| count);
    for &(from, most) in few.iter().rev() {
        // At most one does not fit, the primary of all of them, so this ends soon.
        for &(to, _) in few.iter().take_while(|&&(_, least)| least + 2 <= most) {
            let firsts = at.of(from).filter(|&(&primary, _)| primary != to);
            let first = firsts.filter_map(|(&primary, group)| Some((*group.first()?, primary)));
            if let Some((partition, primary)) = first.min() {
                return Some((partition, primary, from, to));
            }
        }
    }
    None
}

/// The least loaded worker.
fn least(load: &BTreeMap<WorkerId, usize>) -> Option<WorkerId> {
    load.iter()
        .min_by_key(|&(_, &count)| count)
        .map(|(&worker, _)| worker)
}

/// The most and the least loaded worker, if moving one improves the balance.
fn uneven(load: &BTreeMap<WorkerId, usize>) -> Option<(WorkerId, WorkerId)> {
    let least = least(load)?;
    let (&most, &count) = load.iter().rev().max_by_key(|&(_, &count)| count)?;
    (count >= load.get(&least)? + 2).then_some((most, least))
}
