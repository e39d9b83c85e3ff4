//! Data: what workers hold, over Arrow Flight; and the calls that clients and links come in by.
//!
//! **In**: names of blocks and of kept partitions, records of clients. **Out**: their rows.
//! **Promise**: rows arrive whole or not at all. **On failure**: a holder that does not answer is left
//! for the next one; when none is left the error is worth a retry, since blocks have other copies.

mod copy;
mod peers;
mod reached;
mod service;

pub use copy::{CopyHeader, RECORD, Received, decode_copy, serve_parts};
pub use peers::{Ask, Peers};
pub use reached::{Reached, check_exposed, check_reached, host_of};
pub use service::{
    CLIENT_MESSAGE, CONNECTIONS, Calls, KEEP_ALIVE, PAUSE, Replies, Token, listen, serve,
};
