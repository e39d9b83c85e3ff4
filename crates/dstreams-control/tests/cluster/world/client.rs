//! [`Client`]: a producer that sends numbered batches to one worker, and to another when the connection breaks.
//!
//! It retains batches until they are acknowledged; when it is told the safe offset, it sends the rest again.

use dstreams_control::cluster::WorkerId;

use super::{End, Item, Letter, World};
use crate::plan::INTERVAL_US;

/// Turns without progress after which a client disconnects.
const MAX_IDLE_TURNS: u32 = 10;

pub struct Client {
    /// The number of batches it will send.
    pub total: u64,
    /// All batches up to this number are acknowledged.
    pub acked: u64,
    sent: u64,
    connection: u64,
    at: Option<WorkerId>,
    ready: bool,
    idle: u32,
}

impl Client {
    pub const fn new(total: u64) -> Self {
        Self {
            total,
            acked: 0,
            sent: 0,
            connection: 0,
            at: None,
            ready: false,
            idle: 0,
        }
    }

    pub const fn is_done(&self) -> bool {
        self.acked == self.total
    }

    pub const fn is_at(&self) -> Option<WorkerId> {
        self.at
    }

    pub const fn closed(&self) -> Letter {
        let connection = self.connection;
        Letter::Closed { connection }
    }

    pub fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Ready { connection, ack } if connection == self.connection => {
                self.ready = true;
                self.acked = self.acked.max(ack);
                self.sent = self.acked;
                self.idle = 0;
            }
            Letter::Ack { connection, number } if connection == self.connection => {
                self.acked = self.acked.max(number);
                self.idle = 0;
            }
            Letter::Closed { connection } if connection == self.connection => self.close(),
            _ => {}
        }
    }

    fn close(&mut self) {
        (self.at, self.ready, self.connection) = (None, false, 0);
    }
}

impl World<'_> {
    pub(super) fn client_turn(&mut self, number: usize) {
        self.push(INTERVAL_US / 4, Item::Client(number));
        let end_with_error = self.rng.chance(self.rates.disconnect);
        let client = &mut self.clients[number];
        if client.is_done() && !end_with_error {
            return;
        }
        client.idle += 1;
        match client.at {
            Some(_) if end_with_error || client.idle > MAX_IDLE_TURNS => {
                client.close();
                self.tally.add("client disconnected");
            }
            Some(worker) if client.ready => {
                let last = client.total.min(client.sent + 1 + self.rng.below(3));
                let (first, connection) = (client.sent + 1, client.connection);
                client.sent = last;
                for number_of in first..=last {
                    let batch = Letter::Batch {
                        connection,
                        number: number_of,
                    };
                    self.send(End::Client(number), End::Worker(worker), batch);
                }
            }
            Some(_) => {}
            None => self.connect(number),
        }
    }

    /// Connects to any worker, even one that is given up and does not know.
    fn connect(&mut self, number: usize) {
        let alive: Vec<_> = self
            .workers
            .values()
            .filter(|worker| worker.alive)
            .collect();
        let Some(worker) = alive.get(usize::try_from(self.rng.below(alive.len() as u64)).unwrap())
        else {
            return;
        };
        let worker = worker.id;
        self.connections += 1;
        let (connection, client) = (self.connections, &mut self.clients[number]);
        if client.acked > 0 {
            self.tally.add("client moved to another worker");
        }
        (client.at, client.connection, client.idle) = (Some(worker), connection, 0);
        self.send(
            End::Client(number),
            End::Worker(worker),
            Letter::Hello { connection },
        );
    }
}
