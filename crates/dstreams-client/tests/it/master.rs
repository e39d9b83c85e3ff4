//! A master's knowledge, and its answers to questions for workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo};
use dstreams_client::protocol::{Opening, workers_answer};
use tonic::{Request, Result, Status};

use crate::server::{Places, check_token, check_version};

#[derive(Default)]
pub struct Directory {
    /// By stream.
    workers: Mutex<BTreeMap<String, Vec<String>>>,
    /// Answers these locations, regardless of the workers.
    pub locations: Mutex<Option<Vec<&'static str>>>,
    /// Answers that it is unavailable, with this text.
    pub unavailable: Mutex<Option<&'static str>>,
    /// The token every call must have.
    pub token: Mutex<Option<&'static str>>,
    /// Questions so far.
    pub asked: AtomicU64,
    pub places: Places,
}

impl Directory {
    /// With one stream, "lines", and these workers.
    pub fn lines(workers: impl IntoIterator<Item = impl ToString>) -> Arc<Self> {
        let directory = Self::default();
        directory.names(workers);
        Arc::new(directory)
    }

    /// From now on these workers take "lines".
    pub fn names(&self, workers: impl IntoIterator<Item = impl ToString>) {
        let workers = workers.into_iter().map(|worker| worker.to_string());
        let mut streams = self.workers.lock().unwrap();
        streams.insert("lines".to_string(), workers.collect());
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    pub fn answer(&self, request: Request<FlightDescriptor>) -> Result<FlightInfo> {
        self.asked.fetch_add(1, Relaxed);
        check_version(request.metadata())?;
        check_token(request.metadata(), *self.token.lock().unwrap())?;
        let question = request.into_inner();
        let opening = Opening::parse(Some(&question))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(text) = *self.unavailable.lock().unwrap() {
            return Err(Status::unavailable(text));
        }
        let streams = self.workers.lock().unwrap();
        let Some(workers) = streams.get(&opening.stream) else {
            let known: Vec<_> = streams.keys().map(String::as_str).collect();
            return Err(Status::not_found(format!(
                "no stream {:?}, there are: {}",
                opening.stream,
                known.join(", ")
            )));
        };
        if let Some(locations) = &*self.locations.lock().unwrap() {
            let endpoints = locations
                .iter()
                .map(|location| FlightEndpoint::new().with_location(*location));
            return Ok(FlightInfo::new().with_endpoints(endpoints.collect()));
        }
        Ok(workers_answer(question, workers))
    }
}
