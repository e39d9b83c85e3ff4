//! Who should hold which partition of state: as even as it can be, by as few moves as that takes.
//!
//! A move goes by way of the standby: the state is copied to where it should be, which is then the standby, and when
//! that is complete the two change places. So the first thing is that everything has a standby, then that holders are
//! spread evenly, then that standbys are. A standby is only replaced when the copy to the new one can begin.

use std::collections::BTreeMap;

use super::WorkerId;
use super::partitions::{Part, Partition, Partitions};
use super::roster::Roster;

/// Decides all that can be decided now; returns the partitions whose standby must be sent the state, and whether
/// holders are where they should be.
pub(super) fn spread(partitions: &mut Partitions, roster: &Roster) -> (Vec<u32>, bool) {
    let under_way = partitions.all.values().filter(|it| it.copying).count();
    let mut spread = Spread {
        free: partitions.max_copying.saturating_sub(under_way),
        partitions,
        roster,
        freed: false,
        copies: Vec::new(),
    };
    loop {
        spread.freed = false;
        spread.give_holders();
        spread.give_standbys();
        // A standby that needed no copy can take over from a holder that drains, which is replaced as standby then.
        spread.give_holders();
        spread.give_standbys();
        spread.move_holders();
        spread.move_standbys();
        if !spread.freed {
            break;
        }
    }
    let even = uneven(&spread.load(|holder, _| holder)).is_none() && spread.holders_are_open();
    (spread.copies, even)
}

struct Spread<'a> {
    partitions: &'a mut Partitions,
    roster: &'a Roster,
    /// Copies that may be started.
    free: usize,
    copies: Vec<u32>,
    /// A copy was given up: one more may be started.
    freed: bool,
}

impl Spread<'_> {
    /// A holder for each partition without one; and none that drains, if its standby can take over.
    fn give_holders(&mut self) {
        let mut load = self.load(|holder, _| holder);
        for it in self.partitions.all.values_mut() {
            let standby_open = it
                .standby
                .is_some_and(|part| self.roster.is_open(part.worker));
            if it
                .holder
                .is_some_and(|part| !self.roster.is_open(part.worker))
                && standby_open
                && it.is_complete()
            {
                std::mem::swap(&mut it.holder, &mut it.standby);
            } else if it.holder.is_none() {
                it.holder = least(&load).map(|worker| Part {
                    worker,
                    copy: it.to_remake.unwrap_or_default(),
                    version: None,
                });
            } else {
                continue;
            }
            if let Some(holder) = it.holder {
                *load.entry(holder.worker).or_default() += 1;
            }
        }
    }

    /// An open standby for each partition, if there is a worker for it.
    fn give_standbys(&mut self) {
        let mut load = self.load(|_, standby| standby);
        let partitions: Vec<u32> = self.partitions.all.keys().copied().collect();
        for partition in partitions {
            let Some(it) = self.partitions.all.get_mut(&partition) else {
                continue;
            };
            let Some(holder) = it.holder.filter(|_| it.to_remake.is_none()) else {
                continue;
            };
            let open = it.standby.filter(|part| self.roster.is_open(part.worker));
            if let Some(standby) = open {
                if it.stale {
                    self.replace_standby(partition, standby.worker);
                }
                continue;
            }
            let others = || load.iter().filter(|&(&worker, _)| worker != holder.worker);
            if others().next().is_none() {
                // Alone: a standby that drains must go, unless the holder drains too.
                if self.roster.is_open(holder.worker)
                    && let Some(leaver) = it.standby.take()
                {
                    it.before.insert(leaver.worker);
                    if std::mem::take(&mut it.copying) {
                        self.free += 1;
                        self.freed = true;
                    }
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

    /// From those that hold most to those that hold least, while that makes it more even.
    fn move_holders(&mut self) {
        let mut load = self.load(|holder, _| holder);
        // Where each is, or is on its way to.
        let mut at: BTreeMap<u32, WorkerId> = BTreeMap::new();
        for (&partition, it) in &self.partitions.all {
            at.extend(it.holder.map(|part| (partition, part.worker)));
        }
        while let Some((from, to)) = uneven(&load) {
            let Some(partition) = self.move_one(&at, from, to) else {
                return;
            };
            at.insert(partition, to);
            *load.entry(from).or_default() -= 1;
            *load.entry(to).or_default() += 1;
        }
    }

    /// Moves a partition at once, or waits for its copy, or starts one; in this order, as it costs more each time.
    fn move_one(
        &mut self,
        at: &BTreeMap<u32, WorkerId>,
        from: WorkerId,
        to: WorkerId,
    ) -> Option<u32> {
        let of_from = || {
            at.iter()
                .filter(|&(_, &worker)| worker == from)
                .map(|(&partition, _)| partition)
        };
        let standby_is = |partition: u32, complete: bool| {
            self.partitions.all.get(&partition).is_some_and(|it| {
                it.standby.is_some_and(|part| part.worker == to) && it.is_complete() == complete
            })
        };
        if let Some(ready) = of_from().find(|&partition| standby_is(partition, true)) {
            let it = self.partitions.all.get_mut(&ready)?;
            std::mem::swap(&mut it.holder, &mut it.standby);
            return Some(ready);
        }
        if let Some(coming) = of_from().find(|&partition| standby_is(partition, false)) {
            return Some(coming);
        }
        let standbys = self.load(|_, standby| standby);
        let cost = |&partition: &u32| {
            let it = self.partitions.all.get(&partition);
            let standby = it.and_then(|it| it.standby).map(|part| part.worker);
            let spare = standby.and_then(|worker| standbys.get(&worker)).copied();
            (
                it.is_some_and(|it| it.is_complete()),
                std::cmp::Reverse(spare),
            )
        };
        let movable = |&partition: &u32| {
            self.partitions
                .all
                .get(&partition)
                .is_some_and(|it| !it.copying && it.to_remake.is_none())
        };
        let cheapest = of_from().filter(movable).min_by_key(cost)?;
        if !self.replace_standby(cheapest, to) {
            return None;
        }
        let it = self.partitions.all.get_mut(&cheapest)?;
        if it.is_complete() {
            std::mem::swap(&mut it.holder, &mut it.standby);
        }
        Some(cheapest)
    }

    /// The same for standbys, once nothing moves otherwise.
    fn move_standbys(&mut self) {
        if self
            .partitions
            .all
            .values()
            .any(|it| it.copying || it.standby.is_none())
        {
            return;
        }
        let mut load = self.load(|_, standby| standby);
        while let Some((partition, from, to)) = self.standby_to_move(&load) {
            if !self.replace_standby(partition, to) {
                return;
            }
            *load.entry(from).or_default() -= 1;
            *load.entry(to).or_default() += 1;
        }
    }

    /// A partition whose standby may go from one that has many to one that has few, and is not its holder.
    fn standby_to_move(
        &self,
        load: &BTreeMap<WorkerId, usize>,
    ) -> Option<(u32, WorkerId, WorkerId)> {
        let mut few: Vec<_> = load
            .iter()
            .map(|(&worker, &count)| (worker, count))
            .collect();
        few.sort_by_key(|&(_, count)| count);
        for &(from, most) in few.iter().rev() {
            for &(to, _) in few.iter().take_while(|&&(_, least)| least + 2 <= most) {
                let suits = |it: &Partition| {
                    it.standby.is_some_and(|part| part.worker == from)
                        && it.holder.is_some_and(|part| part.worker != to)
                        && !it.copying
                };
                let mut all = self.partitions.all.iter();
                if let Some((&partition, _)) = all.find(|(_, it)| suits(it)) {
                    return Some((partition, from, to));
                }
            }
        }
        None
    }

    /// Makes a worker the standby, and has it sent the state if there is any; if that can begin now.
    fn replace_standby(&mut self, partition: u32, worker: WorkerId) -> bool {
        let Some(it) = self.partitions.all.get_mut(&partition) else {
            return false;
        };
        let version = it.holder.and_then(|holder| holder.version).or(it.newest);
        let state = version.is_some() || it.stale || it.before.contains(&worker);
        if state && (self.free == 0 || it.copying) {
            return false;
        }
        it.before.extend(
            it.standby
                .map(|part| part.worker)
                .filter(|&before| before != worker),
        );
        it.stale = false;
        if std::mem::replace(&mut it.copying, state) {
            self.free += 1;
            self.freed = true;
        }
        let mut copy = 0;
        if state {
            self.free -= 1;
            self.partitions.copies = self.partitions.copies.saturating_add(1);
            copy = self.partitions.copies;
            self.copies.push(partition);
        }
        it.standby = Some(Part {
            worker,
            copy,
            version: None,
        });
        true
    }

    fn holders_are_open(&self) -> bool {
        let open = |part: Part| self.roster.is_open(part.worker);
        let mut holders = self.partitions.all.values().filter_map(|it| it.holder);
        holders.all(open)
    }

    /// How many partitions each open worker has, in the part that `of` picks.
    fn load(
        &self,
        of: impl Fn(Option<WorkerId>, Option<WorkerId>) -> Option<WorkerId>,
    ) -> BTreeMap<WorkerId, usize> {
        let mut load: BTreeMap<_, _> = self
            .roster
            .open()
            .iter()
            .map(|&worker| (worker, 0))
            .collect();
        for it in self.partitions.all.values() {
            let worker = |part: Option<Part>| part.map(|part| part.worker);
            let picked = of(worker(it.holder), worker(it.standby));
            if let Some(count) = picked.and_then(|worker| load.get_mut(&worker)) {
                *count += 1;
            }
        }
        load
    }
}

/// Who has least.
fn least(load: &BTreeMap<WorkerId, usize>) -> Option<WorkerId> {
    load.iter()
        .min_by_key(|&(_, &count)| count)
        .map(|(&worker, _)| worker)
}

/// Who has most and who has least, if moving one makes it more even.
fn uneven(load: &BTreeMap<WorkerId, usize>) -> Option<(WorkerId, WorkerId)> {
    let least = least(load)?;
    let (&most, &count) = load.iter().rev().max_by_key(|&(_, &count)| count)?;
    (count >= load.get(&least)? + 2).then_some((most, least))
}
