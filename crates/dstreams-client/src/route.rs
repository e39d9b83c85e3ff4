//! Where a sender connects next: pure, masters' answers are arguments.
//!
//! The given addresses are tried in turn. One may be a master, which is asked for workers before each try; its
//! workers are then tried, each once, in this producer's order. A round is over when every given address, and every
//! worker found, was tried. Progress (an acknowledgement) starts a new one.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::address::Addresses;
use crate::protocol::MAX_WORKERS;

#[derive(Debug)]
pub(crate) struct Route {
    given: Addresses,
    producer: String,
    /// Given addresses that have failed in this round.
    left: usize,
    /// The last known workers, in this producer's order.
    workers: Vec<String>,
    /// Workers that failed since the given address last changed.
    tried: Vec<String>,
    /// The worker being tried.
    current: Option<String>,
    /// The master did not answer in this round: known workers are tried without asking it.
    master_silent: bool,
}

impl Route {
    pub(crate) fn new(given: Addresses, producer: &str) -> Self {
        Self {
            given,
            producer: producer.to_string(),
            left: 0,
            workers: Vec::new(),
            tried: Vec::new(),
            current: None,
            master_silent: false,
        }
    }

    /// The address to ask now, if any.
    pub(crate) fn asks(&self) -> Option<&str> {
        (!self.master_silent).then(|| self.given.current())
    }

    /// A master has named the workers that take the stream now, in its order.
    pub(crate) fn found(&mut self, mut workers: Vec<String>) {
        // The worker with the greatest hash of (producer, worker) comes first: the same for a producer whatever the
        // order of the answer, and spread over producers; so are the next workers of a dead one's producers.
        let hash = |worker: &String| {
            BuildHasherDefault::<DefaultHasher>::default().hash_one((&self.producer, worker))
        };
        workers.sort_by_cached_key(|worker| std::cmp::Reverse(hash(worker)));
        self.workers = workers;
        if self.untried().is_none() {
            self.tried.clear(); // all of these have failed: try them again
        }
    }

    /// The master does not answer. Is there a known worker that was not tried yet?
    pub(crate) fn use_known_workers(&mut self) -> bool {
        self.master_silent = self.untried().is_some();
        self.master_silent
    }

    /// The worker to try now.
    pub(crate) fn next_worker(&mut self) -> Option<&str> {
        self.current = self.untried().cloned();
        self.current.as_deref()
    }

    /// This try failed. Is the round over?
    pub(crate) fn failed(&mut self) -> bool {
        if let Some(worker) = self.current.take() {
            self.tried.push(worker);
            if self.tried.len() < MAX_WORKERS && self.untried().is_some() {
                return false;
            }
        }
        self.tried.clear();
        self.master_silent = false;
        self.given.move_on();
        self.left += 1;
        let over = self.left >= self.given.len();
        if over {
            self.left = 0;
        }
        over
    }

    /// An acknowledgement came: what failed before may work now.
    pub(crate) fn progress(&mut self) {
        self.tried.clear();
        self.master_silent = false;
        self.left = 0;
    }

    /// The next try begins a round.
    pub(crate) fn begin_round(&mut self) {
        self.left = 0;
    }

    fn untried(&self) -> Option<&String> {
        self.workers
            .iter()
            .find(|worker| !self.tried.contains(worker))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn route(given: &str, producer: &str) -> Route {
        Route::new(Addresses::new(&given).unwrap(), producer)
    }

    fn workers(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_string).collect()
    }

    fn next_worker(route: &mut Route) -> String {
        route.next_worker().unwrap().to_string()
    }

    #[test]
    fn a_producer_has_its_own_order_whatever_the_order_of_the_answer() {
        let order = |answer: &str| {
            let mut route = route("m:1", "p");
            route.found(workers(answer));
            route.workers
        };
        let all = order("a:1 b:1 c:1 d:1");
        assert_eq!(order("d:1 b:1 a:1 c:1"), all);
        let mut without = all.clone();
        let gone = without.remove(0);
        let rest = workers("a:1 b:1 c:1 d:1").into_iter();
        let rest: Vec<_> = rest.filter(|worker| *worker != gone).collect();
        assert_eq!(
            order(&rest.join(" ")),
            without,
            "the others keep their order"
        );
    }

    #[test]
    fn producers_are_spread_over_workers_and_so_are_those_of_a_worker_that_died() {
        let mut first = BTreeMap::<String, u32>::new();
        let mut second = BTreeMap::<(String, String), u32>::new();
        for producer in 0..1200 {
            let mut route = route("m:1", &producer.to_string());
            route.found(workers("a:1 b:1 c:1 d:1"));
            *first.entry(route.workers[0].clone()).or_default() += 1;
            let pair = (route.workers[0].clone(), route.workers[1].clone());
            *second.entry(pair).or_default() += 1;
        }
        assert_eq!((first.len(), second.len()), (4, 12));
        assert!(first.values().all(|n| (200..400).contains(n)), "{first:?}");
        assert!(second.values().all(|n| (50..150).contains(n)), "{second:?}");
    }

    #[test]
    fn every_worker_is_tried_once_in_a_round_and_the_master_is_asked_before_each() {
        let mut route = route("m:1", "p");
        let mut tried = Vec::new();
        for over in [false, false, true] {
            assert_eq!(route.asks(), Some("m:1"));
            route.found(workers("a:1 b:1 c:1"));
            tried.push(next_worker(&mut route));
            assert_eq!(route.failed(), over);
        }
        tried.sort();
        assert_eq!(tried, ["a:1", "b:1", "c:1"]);
        // The next round begins with this producer's first.
        route.found(workers("a:1 b:1 c:1"));
        assert_eq!(next_worker(&mut route), route.workers[0]);
    }

    /// A master may name other workers each time.
    #[test]
    fn a_round_has_a_bound() {
        let mut route = route("m:1", "p");
        for n in 1..=MAX_WORKERS {
            route.found(workers(&format!("a{n}:1 b{n}:1")));
            next_worker(&mut route);
            assert_eq!(route.failed(), n == MAX_WORKERS, "{n}");
        }
    }

    #[test]
    fn a_new_worker_is_tried_before_one_that_failed() {
        let mut route = route("m:1", "p");
        route.found(workers("a:1 b:1"));
        let failed = next_worker(&mut route);
        assert!(!route.failed());
        route.found(vec![failed.clone(), "new:1".to_string()]);
        assert_eq!(next_worker(&mut route), "new:1");
        route.failed();
        // Only the failed one is left: better than none.
        route.found(vec![failed.clone()]);
        assert_eq!(next_worker(&mut route), failed);
        assert!(route.failed());
    }

    #[test]
    fn without_its_master_the_known_workers_are_tried_and_then_the_master_again() {
        let mut route = route("m:1", "p");
        assert!(!route.use_known_workers(), "none is known");
        route.found(workers("a:1 b:1"));
        let first = next_worker(&mut route);
        assert!(!route.failed());
        assert_eq!(route.asks(), Some("m:1"));
        assert!(route.use_known_workers());
        assert_ne!(next_worker(&mut route), first);
        assert!(route.failed(), "both were tried");
        assert_eq!(route.asks(), Some("m:1"));
        // Both again, with one question in the round.
        assert!(route.use_known_workers());
        next_worker(&mut route);
        assert!(!route.failed());
        assert_eq!(route.asks(), None);
        route.progress();
        assert_eq!(route.asks(), Some("m:1"));
    }

    #[test]
    fn a_master_without_workers_leaves_none_to_try() {
        let mut route = route("m:1", "p");
        route.found(workers("a:1"));
        next_worker(&mut route);
        route.progress();
        route.found(Vec::new());
        assert!(!route.use_known_workers());
        assert!(route.failed());
    }

    #[test]
    fn given_addresses_are_tried_in_turn_and_make_a_round() {
        let mut route = route("m:1,w:1", "p");
        route.found(workers("a:1"));
        next_worker(&mut route);
        assert!(!route.failed(), "w:1 is left");
        assert_eq!(route.asks(), Some("w:1"));
        assert!(route.failed());
        assert_eq!(route.asks(), Some("m:1"));
        // Progress, or new work after a rest, begins a new round.
        assert!(!route.failed());
        route.begin_round();
        assert!(!route.failed());
        assert!(route.failed());
    }
}
