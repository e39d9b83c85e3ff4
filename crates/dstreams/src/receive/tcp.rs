//! Lines of text over TCP: the engine listens, producers connect.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::budget::Share;
use super::ingest::{Ingest, Intake, OpenBuffer};
use super::lines::{BadLine, Lines};
use super::source::{Closing, Source};
use crate::error::{BoxError, Error, Result};
use crate::stream::record::Record;

/// Times that a connection is read without a pause before others get a turn.
const READS_IN_A_ROW: usize = 16;

/// Lines of UTF-8 text over TCP. The engine listens, any number of producers connect.
///
/// A line ends with a line feed; a carriage return before it is dropped. An empty line is a record.
/// The last line of a producer that closes its connection cleanly counts without a line feed; if
/// the connection breaks, it is a dead letter, as are invalid UTF-8 and lines over
/// [`Config::line_bytes`](crate::Config::line_bytes). Lines of one connection keep their order.
///
/// A record is an Arrow view into the buffer that the bytes were received into: nothing is copied
/// for each line. When the memory for received records is full, the sockets are not read, so that
/// TCP slows the producers down.
///
/// Not promised: text over TCP has no acknowledgements, so what was sent and not yet received when
/// the engine stops is lost; use the client library where that matters.
pub struct TcpText {
    address: String,
    listener: Option<TcpListener>,
}

impl TcpText {
    /// Listens on `address` (host and port; port 0 for a free one) when the context starts.
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

    async fn run(self: Box<Self>, ingest: Ingest, closing: Closing) -> Result<(), BoxError> {
        let Some(listener) = self.listener else { return Ok(()) };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = closing.requested() => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => {
                        let connection = Connection::new(socket, peer, &ingest);
                        connections.spawn(connection.run(closing.clone()));
                    }
                    // Too many open files and the like: the connections there are go on.
                    Err(error) => {
                        tracing::warn!(stream = ingest.stream(), %error, "cannot accept");
                        tokio::task::yield_now().await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        // Connections that wait in the backlog have sent what they sent.
        while let Some(Ok((socket, peer))) = now(listener.accept()).await {
            let connection = Connection::new(socket, peer, &ingest);
            connections.spawn(connection.run(closing.clone()));
        }
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// The future's result if it is there at once.
async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        result = future => Some(result),
        () = std::future::ready(()) => None,
    }
}

struct Connection {
    socket: TcpStream,
    peer: SocketAddr,
    intake: Arc<Intake>,
    ingest: Ingest,
    lines: Arc<Shared>,
}

/// The lines of a connection, which the receiver flushes when it seals a block.
struct Shared(Mutex<Lines>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenBuffer for Shared {
    fn flush(&self, intake: &Intake) -> Result<()> {
        let mut lines = self.lock();
        let taken = lines.take()?;
        add(intake, taken)
    }
}

fn add(intake: &Intake, taken: Option<(RecordBatch, usize, Share)>) -> Result<()> {
    match taken {
        Some((records, bytes, memory)) => intake.add(records, bytes, memory),
        None => Ok(()),
    }
}

/// How a connection ended.
enum End {
    Closed,
    Broken(std::io::Error),
    /// The context closes; nothing more was there to read.
    Drained,
}

impl Connection {
    fn new(socket: TcpStream, peer: SocketAddr, ingest: &Ingest) -> Self {
        let intake = Arc::clone(&ingest.0);
        let lines = Lines::new(Arc::clone(&intake.schema), intake.line_bytes);
        let lines = Arc::new(Shared(Mutex::new(lines)));
        let buffer: Weak<Shared> = Arc::downgrade(&lines);
        intake.register(buffer);
        Connection {
            socket,
            peer,
            intake,
            ingest: ingest.clone(),
            lines,
        }
    }

    async fn run(self, closing: Closing) {
        let ended = self.read(&closing).await;
        let mut bad = Vec::new();
        let flushed = {
            let mut lines = self.lines.lock();
            let clean = matches!(ended, Ok(End::Closed));
            lines.finish(clean, &mut bad);
            lines.take().and_then(|taken| add(&self.intake, taken))
        };
        self.bury(bad).await;
        let stream = self.ingest.stream();
        match (ended, flushed) {
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(stream, peer = %self.peer, %error, "connection given up");
            }
            (Ok(End::Broken(error)), _) => {
                tracing::warn!(stream, peer = %self.peer, %error, "connection broke");
            }
            _ => tracing::debug!(stream, peer = %self.peer, "connection closed"),
        }
    }

    async fn read(&self, closing: &Closing) -> Result<End> {
        let mut bad = Vec::new();
        let mut draining = false;
        let mut reads = 0;
        loop {
            if !draining {
                tokio::select! {
                    biased;
                    () = closing.requested() => draining = true,
                    ready = self.socket.readable() => if let Err(error) = ready {
                        return Ok(End::Broken(error));
                    },
                }
            }
            self.make_room().await?;
            let read = {
                let mut lines = self.lines.lock();
                let read = self.socket.try_read_buf(&mut lines.room());
                if matches!(read, Ok(1..)) {
                    lines.scan(&mut bad);
                }
                read
            };
            match read {
                Ok(0) => return Ok(End::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => match draining {
                    true => return Ok(End::Drained),
                    false => continue,
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(End::Broken(error)),
            }
            self.bury(std::mem::take(&mut bad)).await;
            reads += 1;
            if reads % READS_IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for memory if there is no room to read into: this is what slows a producer down.
    async fn make_room(&self) -> Result<()> {
        let Some(bytes) = self.lines.lock().needs() else { return Ok(()) };
        // The lines so far must not wait for the memory that they hold themselves.
        self.lines.flush(&self.intake)?;
        let memory = self.intake.budget.take(bytes).await;
        let mut lines = self.lines.lock();
        let taken = lines.grow(bytes, memory)?;
        add(&self.intake, taken)
    }

    async fn bury(&self, bad: Vec<BadLine>) {
        let dead = &self.intake.dead_letters;
        for line in bad {
            let producer = self.peer.to_string();
            let stream = self.ingest.stream();
            dead.add(stream, &producer, &line.bytes, line.length, &line.reason).await;
        }
    }
}
