//! Which workers take a stream: the question and the answer, in the messages of Arrow Flight.

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Location};

use super::{Malformed, Opening};

/// The most workers read from an answer; the rest is ignored.
pub const MAX_WORKERS: usize = 1024;

/// Prefixes of unencrypted worker locations. Flight itself writes the first.
const SCHEMES: [&str; 3] = ["grpc://", "grpc+tcp://", "http://"];

/// Flight's location for "reuse the connection you have".
const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://";

/// The question: the descriptor of a `GetFlightInfo` about this stream. A server reads it with
/// [`Opening::parse`].
pub fn workers_question(stream: &str) -> FlightDescriptor {
    let opening = Opening {
        stream: stream.to_string(),
        producer: None,
    };
    opening.descriptor()
}

/// The answer: the workers (`host:port`, as the client reaches them) that take the stream now, best first.
///
/// ```
/// use dstreams_client::protocol::{parse_workers, workers_answer, workers_question};
/// let answer = workers_answer(workers_question("lines"), ["worker-1:7001", "worker-2:7001"]);
/// assert_eq!(parse_workers(&answer, "master:7000").unwrap(), ["worker-1:7001", "worker-2:7001"]);
/// ```
pub fn workers_answer(
    question: FlightDescriptor,
    workers: impl IntoIterator<Item = impl AsRef<str>>,
) -> FlightInfo {
    let endpoint = |worker: &str| FlightEndpoint {
        location: vec![Location {
            uri: format!("grpc://{worker}"),
        }],
        ..FlightEndpoint::default()
    };
    FlightInfo {
        flight_descriptor: Some(question),
        endpoint: workers
            .into_iter()
            .map(|worker| endpoint(worker.as_ref()))
            .collect(),
        total_records: -1,
        total_bytes: -1,
        ..FlightInfo::default()
    }
}

/// Reads an answer that came from the address `asked`: the workers, in the order of the answer, each once.
/// An endpoint without a location is the server that was asked, as Flight says.
///
/// # Errors
///
/// [`Malformed`] if there are locations, and none that this protocol can use: the text names the first.
pub fn parse_workers(answer: &FlightInfo, asked: &str) -> Result<Vec<String>, Malformed> {
    let mut workers: Vec<String> = Vec::new();
    let mut unusable = None;
    for endpoint in &answer.endpoint {
        let here = endpoint.location.is_empty().then_some(asked);
        let named = endpoint.location.iter().map(|location| {
            let worker = if location.uri.starts_with(REUSE_CONNECTION) {
                Some(asked)
            } else {
                address_of(&location.uri)
            };
            if worker.is_none() {
                unusable.get_or_insert(&location.uri);
            }
            worker
        });
        for worker in here.map(Some).into_iter().chain(named).flatten() {
            if workers.len() < MAX_WORKERS && !workers.iter().any(|known| known == worker) {
                workers.push(worker.to_string());
            }
        }
    }
    match unusable {
        Some(uri) if workers.is_empty() => Err(Malformed::new(format!(
            "expected workers at grpc://host:port, got {uri:?}"
        ))),
        _ => Ok(workers),
    }
}

/// The `host:port` of a location, if this protocol can reach it.
fn address_of(uri: &str) -> Option<&str> {
    let rest = SCHEMES
        .iter()
        .find_map(|scheme| uri.strip_prefix(scheme))?
        .trim_end_matches('/');
    is_address(rest).then_some(rest)
}

/// Is this `host:port`?
pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(endpoints: &[&[&str]]) -> FlightInfo {
        let endpoint = |uris: &&[&str]| {
            let new = FlightEndpoint::new();
            uris.iter()
                .fold(new, |endpoint, uri| endpoint.with_location(*uri))
        };
        FlightInfo::new().with_endpoints(endpoints.iter().map(endpoint).collect())
    }

    #[test]
    fn all_location_schemes_are_read_in_order_without_duplicates() {
        let info = answer(&[
            &["grpc://b:2", "grpc+tcp://a:1/"],
            &["http://[::1]:3", "grpc://a:1"],
            &[],
            &["arrow-flight-reuse-connection://?"],
            &["grpc+tls://secret:4", "unix:///tmp/socket", "grpc://noport"],
        ]);
        let workers = parse_workers(&info, "m:7").unwrap();
        assert_eq!(workers, ["b:2", "a:1", "[::1]:3", "m:7"]);
        assert!(parse_workers(&answer(&[]), "m:7").unwrap().is_empty());
    }

    #[test]
    fn an_answer_without_usable_locations_is_malformed() {
        let info = answer(&[&["grpc+tls://a:1"], &["unix:///tmp/socket"]]);
        let error = parse_workers(&info, "m:7").unwrap_err().to_string();
        assert!(error.contains("grpc+tls://a:1"), "{error}");
    }

    #[test]
    fn the_number_of_workers_is_bounded() {
        let many = (0..2 * MAX_WORKERS).map(|n| format!("w:{}", n % 60_000));
        let info = workers_answer(workers_question("lines"), many);
        assert_eq!(parse_workers(&info, "m:7").unwrap().len(), MAX_WORKERS);
    }

    /// The bytes of version 1.
    #[test]
    fn question_and_answer_are_standard_flight_messages() {
        let question = workers_question("lines");
        assert_eq!(question, FlightDescriptor::new_path(vec!["lines".into()]));
        let info = workers_answer(question, ["w:1"]);
        assert_eq!(info.endpoint[0].location[0].uri, "grpc://w:1");
    }
}
