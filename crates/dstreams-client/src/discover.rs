//! Asks an address which workers take a stream.

use arrow_flight::flight_service_client::FlightServiceClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::connect::{connect, request};
use crate::error::Error;
use crate::options::Options;
use crate::protocol::{parse_workers, workers_question};

/// The kind of server at the asked address.
pub(crate) enum ServerKind {
    /// It takes the records itself, over this connection.
    Itself(Channel),
    /// A master, with the workers that take the stream now, best first. May be empty.
    Workers(Vec<String>),
}

/// Asks `address` for the workers of `stream`, within [`Options::open_timeout`].
///
/// A master that cannot answer now (`UNAVAILABLE`) is [`Error::NoWorker`].
pub(crate) async fn discover(
    stream: &str,
    address: &str,
    options: &Options,
) -> Result<ServerKind, Error> {
    let channel = connect(address, options).await?;
    let mut client = FlightServiceClient::new(channel.clone());
    let question = request(workers_question(stream), options)?;
    let after = options.open_timeout;
    let answer = timeout(after, client.get_flight_info(question)).await;
    let answer = answer.map_err(|_| Error::NoAnswer {
        address: address.to_string(),
        after,
    })?;
    match answer {
        Ok(info) => {
            let workers = parse_workers(info.get_ref(), address);
            workers
                .map(ServerKind::Workers)
                .map_err(|error| Error::Protocol {
                    address: address.to_string(),
                    detail: error.detail,
                })
        }
        Err(status) if status.code() == Code::Unimplemented => Ok(ServerKind::Itself(channel)),
        Err(status) if is_server_unavailable(&status) => Err(Error::NoWorker {
            stream: stream.to_string(),
            address: address.to_string(),
            message: status.message().to_string(),
        }),
        Err(status) => {
            let token_given = options.token.is_some();
            Err(Error::from_status(stream, address, token_given, status))
        }
    }
}

/// Did the server answer this, or did the transport fail?
fn is_server_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable && std::error::Error::source(status).is_none()
}
