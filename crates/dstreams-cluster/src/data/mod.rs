//! Data: the rows that workers store, over Arrow Flight; and the calls of clients and links.
//!
//! **In**: names of blocks and of cached partitions, records of clients. **Out**: their rows.
//! **Promise**: rows arrive in full or not at all. **On failure**: if a worker does not answer, the next
//! replica is read; if none answers, the error is retryable, since blocks have other replicas.

mod advertised_address;
mod copy;
mod peers;
mod service;

pub use advertised_address::{AdvertisedAddress, check_advertised, check_exposure, host_of};
pub use copy::{CopyHeader, RECORD, Received, decode_copy, serve_parts};
pub use peers::{DataRequest, Peers};
pub use service::{
    CLIENT_MESSAGE, CONNECTIONS, Calls, KEEP_ALIVE, PAUSE, Replies, Token, listen, serve,
};
