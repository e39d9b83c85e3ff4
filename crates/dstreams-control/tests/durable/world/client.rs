//! [`Client`]: a producer that numbers its records and sends them to one receiver of its input, and to another when
//! nothing is acknowledged; it learns what is safe, and sends the rest again.

use dstreams_control::ReceiverId;

use super::{Item, World};
use crate::plan::INTERVAL_US;

/// Turns without progress after which a client breaks its connection.
const TURNS_UNTIL_DISCONNECT: u32 = 4;

#[derive(Clone, Debug)]
pub enum Request {
    Hello {
        client: usize,
        connection: u64,
    },
    Record {
        client: usize,
        connection: u64,
        number: u64,
    },
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// Everything up to this number is safe: resume after it.
    Ready { connection: u64, last: u64 },
    /// The same, later.
    Safe { connection: u64, last: u64 },
}

pub struct Client {
    pub total: u64,
    pub input: u32,
    pub safe: u64,
    sent: u64,
    pub connection: u64,
    at: Option<ReceiverId>,
    ready: bool,
    idle: u32,
}

impl Client {
    pub const fn new(total: u64, input: u32) -> Self {
        Self {
            total,
            input,
            safe: 0,
            sent: 0,
            connection: 0,
            at: None,
            ready: false,
            idle: 0,
        }
    }

    pub fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Ready { connection, last } if connection == self.connection && !self.ready => {
                self.ready = true;
                self.safe = self.safe.max(last);
                self.sent = self.safe;
                self.idle = 0;
            }
            Answer::Safe { connection, last } if connection == self.connection => {
                self.safe = self.safe.max(last);
                self.idle = 0;
            }
            _ => {}
        }
    }
}

impl World {
    pub(super) fn client_turn(&mut self, at: usize) {
        let over = self.time >= self.plan.chaos_us;
        let client = &self.clients[at];
        if over && client.safe == client.total {
            return;
        }
        self.push(INTERVAL_US / 6, Item::Client(at));
        let end_with_error = self.rng.chance(self.rates.disconnect);
        let client = &mut self.clients[at];
        // It has records as long as there is trouble.
        let there = client.total * (self.time + INTERVAL_US) / self.plan.chaos_us;
        let there = client.total.min(there);
        if client.safe >= there && !end_with_error {
            return;
        }
        client.idle += 1;
        match client.at {
            Some(_) if end_with_error || client.idle > TURNS_UNTIL_DISCONNECT => {
                (client.at, client.ready, client.connection) = (None, false, 0);
                self.tally.add("client broke off");
            }
            Some(receiver) if client.ready => {
                let last = there.min(client.sent + 1 + self.rng.below(3));
                let (first, connection) = (client.sent + 1, client.connection);
                client.sent = last;
                for number in first..=last {
                    let client = at;
                    let record = Request::Record {
                        client,
                        connection,
                        number,
                    };
                    self.send(Item::ToReceiver(receiver, record));
                }
            }
            Some(_) => {}
            None => self.connect(at),
        }
    }

    /// Connects to any receiver of its input, perhaps to one that was given up without knowing it.
    fn connect(&mut self, at: usize) {
        let input = self.clients[at].input;
        let receivers = self.receivers.values().filter(|it| it.input == input);
        let receivers: Vec<_> = receivers.map(|receiver| receiver.id).collect();
        if receivers.is_empty() {
            return;
        }
        let receiver = self.rng.pick(&receivers);
        self.connections += 1;
        let (connection, client) = (self.connections, &mut self.clients[at]);
        (client.at, client.connection, client.idle) = (Some(receiver), connection, 0);
        let hello = Request::Hello {
            client: at,
            connection,
        };
        self.send(Item::ToReceiver(receiver, hello));
    }
}
