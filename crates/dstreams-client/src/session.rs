//! One connection of a link: find the server that takes the stream, open the call, learn its offset, send again
//! what it lacks, then send what fits the window and process acknowledgements until something ends.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, PutResult};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::connect::{connect, request};
use crate::discover::{ServerKind, discover};
use crate::error::Error;
use crate::link::Link;
use crate::protocol::{Answer, Malformed};

type Answers = Streaming<PutResult>;

impl Link {
    /// Sends over one connection. Ok: the sender has finished and everything is acknowledged.
    pub(crate) async fn session(&mut self) -> Result<(), Error> {
        let channel = self.reach().await?;
        // Never full: a session puts each message of the window in once, after the schema.
        let (wire, body) = mpsc::channel(self.options.window_messages + 1);
        self.put(&wire, self.first.clone())?;
        let request = request(ReceiverStream::new(body), &self.options)?;
        let mut client = FlightServiceClient::new(channel);
        let opened = timeout(self.options.open_timeout, client.do_put(request)).await;
        let opened = opened.map_err(|_| self.no_answer())?;
        let mut answers = opened.map_err(|status| self.broken(status))?.into_inner();
        let ack = self.first_ack(&mut answers).await?;
        self.resume(ack, &wire)?;
        self.exchange(&wire, &mut answers).await?;

        drop(wire);
        // Everything is safe: how the call ends does not matter any more.
        let _ = timeout(self.options.open_timeout, answers.message()).await;
        Ok(())
    }

    /// Connects to the server that takes the stream: the current address, or a worker that it names.
    async fn reach(&mut self) -> Result<Channel, Error> {
        if let Some(asked) = self.route.asks() {
            self.peer = asked.to_string();
            match discover(&self.stream, &self.peer, &self.options).await {
                Ok(ServerKind::Itself(channel)) => return Ok(channel),
                Ok(ServerKind::Workers(workers)) => self.route.found(workers),
                Err(error) if error.is_retryable() && self.route.use_known_workers() => {
                    let (stream, master) = (&self.stream, &self.peer);
                    tracing::debug!(stream, master, %error, "using the known workers");
                    self.failures.note(error);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(worker) = self.route.next_worker() else {
            return Err(Error::NoWorker {
                stream: self.stream.clone(),
                address: self.peer.clone(),
                message: "it named none".to_string(),
            });
        };
        self.peer = worker.to_string();
        connect(&self.peer, &self.options).await
    }

    async fn first_ack(&self, answers: &mut Answers) -> Result<u64, Error> {
        loop {
            let answer = timeout(self.options.open_timeout, answers.message()).await;
            let answer = answer.map_err(|_| self.no_answer())?;
            if let Answer::Ack(ack) = self.answer(answer)? {
                return Ok(ack);
            }
        }
    }

    /// Resumes at the server's offset: what it has is acknowledged, the rest is sent again.
    fn resume(&mut self, ack: u64, wire: &mpsc::Sender<FlightData>) -> Result<(), Error> {
        let first_time = !self.progress.borrow().opened;
        if first_time {
            self.flow.window.start_after(ack);
            self.progress.send_modify(|progress| progress.opened = true);
        }
        let before = self.flow.window.acknowledged();
        if ack < before {
            let (stream, address) = (&self.stream, &self.peer);
            tracing::warn!(
                stream,
                address,
                ack,
                before,
                "the server has forgotten this producer"
            );
        }
        self.acknowledge(ack)?;
        let mut resends = 0;
        for message in self.flow.window.unacknowledged() {
            self.put(wire, message)?;
            resends += 1;
        }
        if resends > 0 {
            self.progress
                .send_modify(|progress| progress.resends += resends);
        }
        Ok(())
    }

    async fn exchange(
        &mut self,
        wire: &mpsc::Sender<FlightData>,
        answers: &mut Answers,
    ) -> Result<(), Error> {
        let mut heard = Instant::now();
        loop {
            let waits = !self.flow.window.is_empty();
            let mut bytes = 0;
            let mut messages = 0;
            while let Some(message) = self.flow.admit_next() {
                bytes += (message.data_header.len() + message.data_body.len()) as u64;
                messages += 1;
                self.put(wire, message)?;
            }
            if messages > 0 {
                self.progress.send_modify(|progress| {
                    progress.bytes += bytes;
                    progress.messages += messages;
                });
            }
            if self.flow.closed && self.flow.is_idle() {
                return Ok(());
            }
            if !waits {
                heard = Instant::now();
            }
            let wants_input = self.flow.wants_input();
            tokio::select! {
                answer = answers.message() => {
                    heard = Instant::now();
                    if let Answer::Ack(ack) = self.answer(answer)? {
                        self.acknowledge(ack)?;
                    }
                }
                taken = self.flow.take_input(), if wants_input => taken?,
                () = sleep_until(heard + self.options.ack_timeout), if !self.flow.window.is_empty() => {
                    let address = self.peer.clone();
                    return Err(Error::NoAck { address, after: self.options.ack_timeout });
                }
            }
        }
    }

    fn acknowledge(&mut self, ack: u64) -> Result<(), Error> {
        let freed = self
            .flow
            .window
            .acknowledge(ack)
            .map_err(|error| self.protocol(error))?;
        if freed.messages > 0 {
            self.backoff.progress();
            self.route.progress();
            self.failures.forget();
            self.progress
                .send_modify(|progress| progress.acknowledged += freed.records);
        }
        Ok(())
    }

    fn answer(&self, answer: Result<Option<PutResult>, Status>) -> Result<Answer, Error> {
        match answer {
            Ok(Some(result)) => Answer::parse(&result).map_err(|error| self.protocol(error)),
            Ok(None) => Err(self.broken(Status::unavailable("the server ended the call"))),
            Err(status) => Err(self.broken(status)),
        }
    }

    /// Hands a message to the connection. A broken one shows in its answers.
    fn put(&self, wire: &mpsc::Sender<FlightData>, message: FlightData) -> Result<(), Error> {
        match wire.try_send(message) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => {
                let detail = "acknowledged messages that it never received".to_string();
                Err(self.protocol(Malformed { detail }))
            }
        }
    }

    fn no_answer(&self) -> Error {
        Error::NoAnswer {
            address: self.peer.clone(),
            after: self.options.open_timeout,
        }
    }

    fn broken(&self, status: Status) -> Error {
        let token_given = self.options.token.is_some();
        Error::from_status(&self.stream, &self.peer, token_given, status)
    }

    fn protocol(&self, error: Malformed) -> Error {
        Error::Protocol {
            address: self.peer.clone(),
            detail: error.detail,
        }
    }
}
