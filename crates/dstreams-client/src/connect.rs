//! One HTTP/2 connection to one address, and the headers of every call on it.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;
use crate::options::Options;
use crate::protocol::{TOKEN_HEADER, VERSION, VERSION_HEADER, token_metadata};

/// Opens a connection, within [`Options::connect_timeout`].
pub(crate) async fn connect(address: &str, options: &Options) -> Result<Channel, Error> {
    let failed = |cause| Error::Connect {
        address: address.to_string(),
        cause: Arc::new(cause),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(failed)?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(options.keep_alive)
        .keep_alive_while_idle(true);
    match timeout(options.connect_timeout, endpoint.connect()).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => {
            let after = options.connect_timeout;
            Err(Error::NoAnswer {
                address: address.to_string(),
                after,
            })
        }
    }
}

/// A call with its headers: the protocol version, and the token if there is one.
pub(crate) fn request<T>(message: T, options: &Options) -> Result<Request<T>, Error> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert(VERSION_HEADER, VERSION.into());
    if let Some(token) = &options.token {
        let value: Result<MetadataValue<Ascii>, _> = token_metadata(token).parse();
        let mut value = value.map_err(|_| options.wrong_token())?;
        value.set_sensitive(true); // not logged, and kept out of the tables of compressed headers
        headers.insert(TOKEN_HEADER, value);
    }
    Ok(request)
}
