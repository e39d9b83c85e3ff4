//! Lines of text over TCP: the engine listens, producers connect.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use bytes::BufMut;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::accept::{Accepted, Acceptor};
use super::dead_letter::Letter;
use super::ingest::Ingest;
use super::intake::{Intake, OpenBuffer};
use super::lines::{BadLine, LineBuffer};
use super::source::{Source, StopSignal};
use crate::blocks::BudgetShare;
use crate::debug::debug_as;
use crate::error::{BoxError, Error, Result};
use crate::stream::record::Record;

/// Reads of a connection in a row before others get a turn.
const READS_IN_A_ROW: usize = 16;
/// Bytes of one read while a connection is drained.
const DRAIN_READ: usize = 64 << 10;
/// Most bytes drained of one connection: more than the kernels of both ends buffer, so later bytes were sent later,
/// by a producer that does not stop.
const DRAIN_LIMIT: usize = 32 << 20;

/// Sent to a producer that is refused because there are too many connections.
const REFUSAL: &str = "too many connections; try again later\n";

/// Lines of UTF-8 text over TCP. The engine listens, any number of producers connect.
///
/// A line ends with a line feed; a carriage return before it is dropped. An empty line is a record. The last line
/// of a producer that closes its connection cleanly counts without a line feed; if the connection breaks, it is a
/// dead letter, as are invalid UTF-8 and lines over [`Config::line_bytes`](crate::Config::line_bytes). Lines of one
/// connection keep their order. A byte order mark at the beginning is not part of the first line; a connection that
/// begins like UTF-16, UTF-32 or compressed data (gzip and the like) is one dead letter, and the rest of it is not
/// read.
///
/// A record is an Arrow view into the receive buffer: lines are not copied one by one. Backpressure: when the
/// memory for received records is full, the sockets are not read, so TCP slows the producers down.
///
/// An idle connection is probed after a minute, and closed if its host does not answer. Beyond
/// [`Config::connections`](crate::Config::connections) a producer gets a line that says so, and its connection is
/// closed.
///
/// Not promised: text over TCP has no acknowledgements, so what was sent and not yet received when
/// the engine stops is lost; use the client library where that matters.
#[must_use = "text is received where a context has it as a source"]
pub struct TcpText {
    address: String,
    listener: Option<TcpListener>,
}

debug_as!(TcpText { address });

impl TcpText {
    /// Listens on `address` (host and port; port 0 for a free one) when the context starts.
    ///
    /// ```
    /// # use dstreams::{StreamContext, TcpText};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let lines = ctx.source::<String>("lines", TcpText::new("0.0.0.0:7000"))?; // as `ctx.tcp_text`
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn new(address: &str) -> Self {
        TcpText {
            address: address.to_owned(),
            listener: None,
        }
    }
}

#[async_trait]
impl Source for TcpText {
    fn schema(&self) -> SchemaRef {
        String::schema()
    }

    async fn open(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        let opened = TcpListener::bind(&self.address).await;
        let listener = opened.map_err(|source| Error::Listen {
            address: self.address.clone(),
            source: Arc::new(source),
        })?;
        let address = listener.local_addr()?;
        self.listener = Some(listener);
        Ok(Some(address))
    }

    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let Some(listener) = self.listener else {
            return Ok(());
        };
        let most = ingest.0.connections;
        let mut acceptor = Acceptor::new(listener, most, REFUSAL)?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = closing.requested() => break,
                (accepted, peer) = acceptor.accept() => {
                    let Accepted { socket, place, .. } = accepted;
                    let connection = Connection::new(socket, peer, &ingest);
                    let run = connection.run(closing.clone());
                    connections.spawn(async move {
                        run.await;
                        drop(place);
                    });
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        // Connections in the backlog may have sent bytes already. Ask the kernel directly, as in `drain`.
        let listener = acceptor.into_std();
        let accept = || {
            listener
                .as_ref()
                .ok()
                .and_then(|listener| listener.accept().ok())
        };
        while let Some((socket, peer)) = accept() {
            let socket = socket
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(socket));
            let Ok(socket) = socket else { continue };
            let connection = Connection::new(socket, peer, &ingest);
            connections.spawn(connection.run(closing.clone()));
        }
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

struct Connection {
    /// `None` once it is drained.
    socket: Option<TcpStream>,
    peer: SocketAddr,
    intake: Arc<Intake>,
    ingest: Ingest,
    lines: Arc<SharedLines>,
}

// Lock order L3 in ARCHITECTURE.md: before `Intake`'s.
/// The lines of a connection, which the receiver flushes when it seals a block.
struct SharedLines(Mutex<LineBuffer>);

impl SharedLines {
    fn lock(&self) -> MutexGuard<'_, LineBuffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenBuffer for SharedLines {
    fn flush(&self, intake: &Intake) -> Result<()> {
        let mut lines = self.lock();
        let give_up = intake.budget.has_waiters();
        let taken = lines.take(give_up)?;
        if give_up {
            lines.pause(&intake.budget);
        }
        add(intake, taken)
    }
}

fn add(intake: &Intake, taken: Option<(RecordBatch, usize, BudgetShare)>) -> Result<()> {
    match taken {
        Some((records, bytes, memory)) => intake.add(records, bytes, memory, None).map(drop),
        None => Ok(()),
    }
}

/// How a connection ended.
enum Disconnect {
    Closed,
    Broken(std::io::Error),
    /// The context closes, and nothing is left to read.
    Drained,
}

impl Connection {
    fn new(socket: TcpStream, peer: SocketAddr, ingest: &Ingest) -> Self {
        let intake = Arc::clone(&ingest.0);
        let lines = LineBuffer::new(Arc::clone(&intake.schema), intake.line_bytes);
        let lines = Arc::new(SharedLines(Mutex::new(lines)));
        let buffer: Weak<SharedLines> = Arc::downgrade(&lines);
        intake.register(buffer);
        Connection {
            socket: Some(socket),
            peer,
            intake,
            ingest: ingest.clone(),
            lines,
        }
    }

    async fn run(mut self, closing: StopSignal) {
        let ended = match self.read(&closing).await {
            Ok(None) => self.drain().await,
            Ok(Some(end)) => Ok(end),
            Err(error) => Err(error),
        };
        let mut bad = Vec::new();
        let flushed = {
            let mut lines = self.lines.lock();
            // After a clean close, `read` has done this already.
            lines.finish(false, &mut bad);
            lines.take(true).and_then(|taken| add(&self.intake, taken))
        };
        self.add_dead_letters(bad).await;
        let stream = self.ingest.stream();
        match (ended, flushed) {
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(stream, peer = %self.peer, %error, "connection failed");
            }
            (Ok(Disconnect::Broken(error)), _) => {
                tracing::warn!(stream, peer = %self.peer, %error, "connection broke");
            }
            _ => tracing::debug!(stream, peer = %self.peer, "connection closed"),
        }
    }

    /// Reads until the producer closes; `None` if the context closes first.
    async fn read(&self, closing: &StopSignal) -> Result<Option<Disconnect>> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        let mut bad = Vec::new();
        let mut reads = 0;
        loop {
            tokio::select! {
                biased;
                () = closing.requested() => return Ok(None),
                ready = socket.readable() => if let Err(error) = ready {
                    return Ok(Some(Disconnect::Broken(error)));
                },
            }
            self.make_room().await?;
            let (read, found) = {
                let mut lines = self.lines.lock();
                if !lines.has_room() {
                    continue;
                }
                let read = socket.try_read_buf(&mut lines.room());
                match read {
                    Ok(0) => lines.finish(true, &mut bad),
                    Ok(_) => lines.scan(&mut bad),
                    Err(_) => {}
                }
                (read, lines.found())
            };
            if found {
                self.has_lines();
            }
            self.add_dead_letters(std::mem::take(&mut bad)).await;
            match read {
                Ok(0) => return Ok(Some(Disconnect::Closed)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(Disconnect::Broken(error))),
            }
            reads += 1;
            if reads % READS_IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads what the kernel has buffered. Bypasses tokio, which reports no data until it has polled for events:
    /// bytes that just arrived would be lost.
    async fn drain(&mut self) -> Result<Disconnect> {
        let mut socket = match self.socket.take().map(TcpStream::into_std) {
            Some(Ok(socket)) => socket,
            Some(Err(error)) => return Ok(Disconnect::Broken(error)),
            None => return Ok(Disconnect::Drained),
        };
        let mut bad = Vec::new();
        let mut buffer = vec![0; DRAIN_READ];
        let mut drained = 0;
        while drained < DRAIN_LIMIT {
            self.make_room().await?;
            let read = {
                let mut lines = self.lines.lock();
                if !lines.has_room() {
                    continue;
                }
                let most = lines.room().remaining_mut().min(DRAIN_READ);
                let read = socket.read(&mut buffer[..most]);
                match read {
                    Ok(0) => lines.finish(true, &mut bad),
                    Ok(read) => {
                        lines.room().put_slice(&buffer[..read]);
                        lines.scan(&mut bad);
                    }
                    Err(_) => {}
                }
                if lines.found() {
                    self.has_lines();
                }
                read
            };
            self.add_dead_letters(std::mem::take(&mut bad)).await;
            match read {
                Ok(0) => return Ok(Disconnect::Closed),
                Ok(read) => drained += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Disconnect::Broken(error)),
            }
            tokio::task::yield_now().await;
        }
        Ok(Disconnect::Drained)
    }

    /// Waits for memory if the chunk has no room: this is the backpressure on the producer.
    async fn make_room(&self) -> Result<()> {
        let Some(bytes) = self.lines.lock().needs() else {
            return Ok(());
        };
        // The lines so far must not occupy the memory that is waited for.
        {
            let mut lines = self.lines.lock();
            let taken = lines.take(true)?;
            lines.release();
            add(&self.intake, taken)?;
        }
        let memory = self.intake.budget.take(bytes).await;
        self.lines.lock().grow(bytes, memory);
        Ok(())
    }

    /// Tells the receiver to take the lines with its next block.
    fn has_lines(&self) {
        let buffer: Weak<SharedLines> = Arc::downgrade(&self.lines);
        self.intake.has_records(buffer);
    }

    /// Does not wait until the letters are safe, since TCP has no acknowledgements.
    async fn add_dead_letters(&self, bad: Vec<BadLine>) {
        if bad.is_empty() {
            return;
        }
        let letters = bad.into_iter().map(|line| Letter {
            bytes: line.bytes,
            length: line.length,
            reason: line.reason,
            at: None,
        });
        let (stream, producer) = (self.ingest.stream(), self.peer.to_string());
        let dead = &self.intake.dead_letters;
        dead.add(stream, &producer, None, letters.collect()).await;
    }
}
