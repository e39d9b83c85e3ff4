//! Where a sender goes next: pure, the answers of masters come in.
//!
//! The addresses given are taken in turn. One may be a master, which is asked for workers before each try;
//! its workers are then tried, each once, in the order of this producer. A round is over when every address
//! given, and every worker found, was tried. Progress (an acknowledgement) starts a new one.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::address::Addresses;
use crate::protocol::MAX_WORKERS;

#[derive(Debug)]
pub(crate) struct Route {
    given: Addresses,
    producer: String,
    /// Addresses given that were left behind in this round.
    left: usize,
    /// The workers last heard of, in the order of this producer.
    workers: Vec<String>,
    /// Workers tried in vain since the address given was last changed.
    tried: Vec<String>,
    /// The worker of the try that is going on.
    going_to: Option<String>,
    /// The master did not answer in this round: workers known from before are tried without asking it.
    asked_in_vain: bool,
}

impl Route {
    pub(crate) fn new(given: Addresses, producer: &str) -> Self {
        Self {
            given,
            producer: producer.to_string(),
            left: 0,
            workers: Vec::new(),
            tried: Vec::new(),
            going_to: None,
            asked_in_vain: false,
        }
    }

    /// The address to ask now, if one is to be asked.
    pub(crate) fn asks(&self) -> Option<&str> {
        (!self.asked_in_vain).then(|| self.given.current())
    }

    /// A master has named the workers that take the stream now, in its order.
    pub(crate) fn found(&mut self, mut workers: Vec<String>) {
        // The worker with the greatest hash of (producer, worker) comes first: the same for a producer
        // whatever the order of the answer, spread over producers, and so is where those of a worker that
        // died go next.
        let hash = |worker: &String| {
            BuildHasherDefault::<DefaultHasher>::default().hash_one((&self.producer, worker))
        };
        workers.sort_by_cached_key(|worker| std::cmp::Reverse(hash(worker)));
        self.workers = workers;
        if self.untried().is_none() {
            self.tried.clear(); // those that are left were tried in vain: again, then
        }
    }

    /// The master does not answer. Is there a worker known from before that was not tried yet?
    pub(crate) fn goes_on_without(&mut self) -> bool {
        self.asked_in_vain = self.untried().is_some();
        self.asked_in_vain
    }

    /// The worker of this try.
    pub(crate) fn go(&mut self) -> Option<&str> {
        self.going_to = self.untried().cloned();
        self.going_to.as_deref()
    }

    /// This try was in vain. Is the round over?
    pub(crate) fn failed(&mut self) -> bool {
        if let Some(worker) = self.going_to.take() {
            self.tried.push(worker);
            if self.tried.len() < MAX_WORKERS && self.untried().is_some() {
                return false;
            }
        }
        self.tried.clear();
        self.asked_in_vain = false;
        self.given.move_on();
        self.left += 1;
        let over = self.left >= self.given.len();
        if over {
            self.left = 0;
        }
        over
    }

    /// An acknowledgement came: what was tried in vain before may be better now.
    pub(crate) fn progress(&mut self) {
        self.tried.clear();
        self.asked_in_vain = false;
        self.left = 0;
    }

    /// Whatever comes next is the beginning of a round.
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

    fn go(route: &mut Route) -> String {
        route.go().unwrap().to_string()
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
            tried.push(go(&mut route));
            assert_eq!(route.failed(), over);
        }
        tried.sort();
        assert_eq!(tried, ["a:1", "b:1", "c:1"]);
        // The next round begins with this producer's first.
        route.found(workers("a:1 b:1 c:1"));
        assert_eq!(go(&mut route), route.workers[0]);
    }

    #[test]
    fn a_new_worker_is_tried_before_one_that_failed() {
        let mut route = route("m:1", "p");
        route.found(workers("a:1 b:1"));
        let failed = go(&mut route);
        assert!(!route.failed());
        route.found(vec![failed.clone(), "new:1".to_string()]);
        assert_eq!(go(&mut route), "new:1");
        route.failed();
        // Only one that failed is left: better than none.
        route.found(vec![failed.clone()]);
        assert_eq!(go(&mut route), failed);
        assert!(route.failed());
    }

    #[test]
    fn without_its_master_the_known_workers_are_tried_and_then_the_master_again() {
        let mut route = route("m:1", "p");
        assert!(!route.goes_on_without(), "none is known");
        route.found(workers("a:1 b:1"));
        let first = go(&mut route);
        assert!(!route.failed());
        assert_eq!(route.asks(), Some("m:1"));
        assert!(route.goes_on_without());
        assert_ne!(go(&mut route), first);
        assert!(route.failed(), "both were tried");
        assert_eq!(route.asks(), Some("m:1"));
        // Both again, asking once for the round.
        assert!(route.goes_on_without());
        go(&mut route);
        assert!(!route.failed());
        assert_eq!(route.asks(), None);
        route.progress();
        assert_eq!(route.asks(), Some("m:1"));
    }

    #[test]
    fn a_master_that_says_there_is_none_leaves_none_to_try() {
        let mut route = route("m:1", "p");
        route.found(workers("a:1"));
        go(&mut route);
        route.progress();
        route.found(Vec::new());
        assert!(!route.goes_on_without());
        assert!(route.failed());
    }

    #[test]
    fn all_addresses_given_are_taken_in_turn_and_make_a_round() {
        let mut route = route("m:1,w:1", "p");
        route.found(workers("a:1"));
        go(&mut route);
        assert!(!route.failed(), "w:1 is left");
        assert_eq!(route.asks(), Some("w:1"));
        assert!(route.failed());
        assert_eq!(route.asks(), Some("m:1"));
        // Progress, or new work after a rest, begins a round anew.
        assert!(!route.failed());
        route.begin_round();
        assert!(!route.failed());
        assert!(route.failed());
    }
}
