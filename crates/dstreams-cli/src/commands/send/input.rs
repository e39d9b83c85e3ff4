//! The input, read by a separate thread in pieces of whole lines.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::thread;

use memchr::memrchr;
use tokio::sync::mpsc;

use crate::error::Error;

/// Bytes per read: about a message of the client.
const READ_BYTES: usize = 256 << 10;
/// The longest line in bytes; longer ones do not fit into a message.
const MAX_LINE_BYTES: usize = 8 << 20;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;

/// A file or standard input.
pub struct Pieces {
    /// Its name in messages.
    pub name: String,
    /// Its size in bytes, if that is known.
    pub size: Option<u64>,
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
}

impl Pieces {
    /// Opens `file` (- is standard input) and starts to read.
    pub fn open(file: &str) -> Result<Self, Error> {
        if file == "-" {
            let name = "standard input".to_owned();
            return Self::read(name, None, io::stdin());
        }
        let open = || {
            let opened = File::open(file)?;
            let about = opened.metadata()?;
            Ok((about.is_file().then_some(about.len()), opened))
        };
        let (size, opened) = open().map_err(|source| Error::Input {
            name: file.to_owned(),
            source,
        })?;
        Self::read(file.to_owned(), size, opened)
    }

    fn read(
        name: String,
        size: Option<u64>,
        input: impl Read + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let reader = thread::Builder::new().name("read".to_owned());
        let started = reader.spawn(move || read_pieces(input, &sender));
        started.map_err(Error::Start)?;
        Ok(Pieces { name, size, pieces })
    }

    /// The next piece, whole lines; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, Error>> {
        let piece = self.pieces.recv().await?;
        Some(piece.map_err(|source| Error::Input {
            name: self.name.clone(),
            source,
        }))
    }
}

/// `text` up to its last line end.
pub fn whole_lines(text: &[u8]) -> &[u8] {
    let end = memrchr(b'\n', text).map_or(0, |at| at + 1);
    text.get(..end).unwrap_or_default()
}

fn read_pieces(mut input: impl Read, to: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut rest = Vec::new();
    loop {
        let start = rest.len();
        rest.resize(start + READ_BYTES, 0);
        let read = match input.read(&mut rest[start..]) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                rest.truncate(start);
                continue;
            }
            Err(error) => return drop(to.blocking_send(Err(error))),
        };
        rest.truncate(start + read);
        let ended = read == 0;
        let whole = match ended {
            true => rest.len(),
            false => memrchr(b'\n', &rest[start..]).map_or(0, |at| start + at + 1),
        };
        let tail = rest.split_off(whole);
        let piece = std::mem::replace(&mut rest, tail);
        // An error means that the receiver is gone.
        if !piece.is_empty() && to.blocking_send(Ok(piece)).is_err() || ended {
            return;
        }
        if rest.len() > MAX_LINE_BYTES {
            let long = io::Error::other(format!("a line has more than {MAX_LINE_BYTES} bytes"));
            return drop(to.blocking_send(Err(long)));
        }
    }
}
