//! The calls that a master answers: links of workers, clients that look for workers, and status.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Location, PutResult, Ticket,
};
use async_trait::async_trait;
use dstreams_control::cluster::WorkerId;
use futures::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use super::cluster_workers::ClusterWorkers;
use super::hub::Hub;
use super::link_watch::LinkWatch;
use super::losses::{LossReason, LostWorker};
use super::roster::Worker;
use super::status::{BatchWatch, ClusterStatus};
use crate::data::{Calls, DataRequest, Replies, serve_parts};
use crate::link::{
    Directory, LinkReceiver, Sender, ToMaster, ToWorker, VERSION, WorkerUsage, build_id, channel,
};
use crate::worker::engine_name;

/// How long a worker may take to send its first message.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The data that links share.
pub struct MasterCalls {
    pub hub: Arc<Hub>,
    pub fingerprint: String,
    /// The state directory of the program, if there is one.
    pub directory: Option<Directory>,
    pub arguments: Vec<String>,
    /// How long a worker may be silent.
    pub silence: Duration,
    /// Whether batches run: not while the master waits for workers, or resumes the program.
    pub runs: AtomicBool,
    /// Set once workers may join the program.
    pub begun: tokio::sync::watch::Sender<Option<Arc<ClusterWorkers>>>,
    pub watch: Arc<BatchWatch>,
    pub this: OnceLock<std::sync::Weak<MasterCalls>>,
}

impl MasterCalls {
    /// The status of the cluster.
    pub fn cluster_status(&self) -> ClusterStatus {
        let mut status = self.watch.status(&self.hub);
        status.runs = self.runs.load(Ordering::Relaxed);
        if let Some(remote) = &*self.begun.borrow() {
            let engine = &remote.batches.engine;
            status.jobs = engine.jobs();
            (status.task_copies, status.task_copies_won) = engine.copies();
        }
        status
    }

    /// Welcomes a worker, and handles its messages until its link breaks.
    async fn serve(&self, link: Sender<ToWorker>, mut incoming: LinkReceiver<ToMaster>) {
        let refuse = |reason: String| link.send(&ToWorker::Refused { reason });
        let greeting = timeout(GREETING_TIMEOUT, incoming.next()).await;
        let late = |_| Err(Status::deadline_exceeded("no greeting came"));
        let (pid, cores) = match greeting.unwrap_or_else(late) {
            Ok(Some(ToMaster::Hello {
                version,
                build,
                pid,
                cores,
            })) => {
                let ours = build_id();
                if version != VERSION || *build != *ours {
                    return refuse(format!(
                        "it is build {build} (protocol {version}), the master build {ours} \
                         (protocol {VERSION}); start the same program everywhere"
                    ));
                }
                (pid, cores)
            }
            Err(status) => return refuse(status.message().to_owned()),
            Ok(_) => return refuse("the first message must be a greeting".into()),
        };
        let id = self.hub.lock().roster.number();
        link.send(&ToWorker::Welcome {
            worker: id.0,
            arguments: self.arguments.clone(),
        });
        let address = match incoming.next().await {
            Ok(Some(ToMaster::Join {
                fingerprint,
                address,
                directory,
            })) => {
                if fingerprint != self.fingerprint {
                    let ours = &self.fingerprint;
                    return refuse(format!(
                        "its program is {fingerprint}, the master's {ours}: they build different graphs"
                    ));
                }
                let ours = self.directory.as_ref();
                if let Some(why) = Directory::differs(ours, directory.as_ref()) {
                    tracing::warn!(worker = %id, pid, why, "refusing a worker");
                    return refuse(why);
                }
                address
            }
            Err(status) => return refuse(status.message().to_owned()),
            Ok(_) => return refuse("the second message must be a join".into()),
        };
        tracing::info!(worker = %id, pid, cores, address, "worker");
        let ingest = address.clone();
        let worker = Worker {
            link: link.clone(),
            address,
            pid,
            cores,
            usage: WorkerUsage::default(),
            joined: false,
        };
        self.hub.change(|state| state.roster.add(id, worker));
        let mut joining = None;
        let lost = self.attend(id, &link, &mut incoming, &mut joining).await;
        let lost = self.report_loss(id, (pid, &ingest), lost);
        if let Some(joining) = joining {
            // It has joined by now or never will; the steps below undo all of joining.
            joining.abort();
            let _ = joining.await;
        }
        let remote = self.begun.borrow().clone();
        if let Some(remote) = remote {
            // The engine first, so that it sends nothing more to the worker.
            remote.batches.engine.lost(&engine_name(id.0)).await;
            let address = self.hub.lock().roster.address(id);
            if let Some(address) = address {
                remote.batches.rows.peers.forget(&address);
            }
        }
        self.hub.change(|state| {
            lost.into_iter().for_each(|lost| state.losses.add(lost));
            state.lose(id);
        });
    }

    /// Logs the loss of a worker; returns it for the status. Workers of a program that has ended just leave.
    fn report_loss(
        &self,
        id: WorkerId,
        process: (u32, &str),
        (mut why, after): (LossReason, Duration),
    ) -> Option<LostWorker> {
        let (ended, drained) = {
            let state = self.hub.lock();
            (state.has_ended(), state.roster.is_drained(id))
        };
        if ended {
            return None;
        }
        if why == LossReason::Ended && drained {
            why = LossReason::Drained;
        }
        let lost = LostWorker::new(id.0, process, (why, after));
        let (pid, after_ms) = (lost.pid, lost.after_ms);
        match why {
            LossReason::Drained => tracing::info!(worker = %id, pid, "worker left: {why}"),
            _ => tracing::warn!(worker = %id, pid, after_ms, "worker lost: {why}"),
        }
        Some(lost)
    }

    /// Handles the messages of a worker; returns why it is lost, and how long after its last sign of life.
    async fn attend(
        &self,
        id: WorkerId,
        link: &Sender<ToWorker>,
        incoming: &mut LinkReceiver<ToMaster>,
        joining: &mut Option<JoinHandle<()>>,
    ) -> (LossReason, Duration) {
        let mut begun = self.begun.subscribe();
        let mut begin_sent = false;
        let mut watch = LinkWatch::new(self.silence);
        let mut ticks = watch.ticks();
        loop {
            // What has come is read before the worker's silence is judged.
            let message = tokio::select! {
                biased;
                begun = begun.wait_for(Option::is_some), if !begin_sent => {
                    begin_sent = true;
                    let Ok(remote) = begun.map(|remote| remote.clone()) else {
                        return (LossReason::Ended, watch.silent());
                    };
                    if let Some(remote) = remote {
                        let engine = &remote.batches.engine;
                        engine.admit(&engine_name(id.0));
                        link.send(&ToWorker::Begin {
                            partitions: remote.batches.plans.tasks,
                            engine: engine.address.clone(),
                            incarnation: remote.incarnation,
                            silence_ms: self.silence.as_millis() as u64,
                        });
                    }
                    continue;
                }
                () = link.is_full() => return (LossReason::Unread, watch.silent()),
                message = incoming.next() => message,
                // Before it is ready it may be silent.
                _ = ticks.tick(), if joining.is_some() => {
                    match watch.look(link) {
                        Some(lost) => return lost,
                        None => continue,
                    }
                }
            };
            match message {
                Ok(Some(ToMaster::Ready)) => {
                    watch = LinkWatch::new(self.silence);
                    joining.get_or_insert_with(|| self.join_when_registered(id));
                }
                Ok(Some(message)) => {
                    watch.heard(&message);
                    self.hub.handle(id, message);
                }
                Ok(None) => return (LossReason::Ended, watch.silent()),
                Err(status) => {
                    tracing::debug!(worker = %id, %status, "a link broke");
                    return (broken_by(&status), watch.silent());
                }
            }
        }
    }

    /// The worker joins once the engine knows its executor.
    fn join_when_registered(&self, id: WorkerId) -> JoinHandle<()> {
        let (hub, remote) = (Arc::clone(&self.hub), self.begun.borrow().clone());
        tokio::spawn(async move {
            let Some(remote) = remote else { return };
            let name = engine_name(id.0);
            loop {
                let worker = hub.lock().roster.get(id).cloned();
                let Some(worker) = worker else { return };
                let (cores, address) = (worker.cores, &worker.address);
                if remote.batches.engine.add(&name, cores, address).await {
                    return hub.change(|state| state.join(id));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }
}

/// A message that cannot be read, or else the end of the connection.
fn broken_by(status: &Status) -> LossReason {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => LossReason::Garbled,
        _ => LossReason::Ended,
    }
}

#[async_trait]
impl Calls for MasterCalls {
    async fn records(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Replies<PutResult>, Status> {
        Err(Status::unimplemented(
            "this is a master: ask it with GetFlightInfo which workers accept the stream",
        ))
    }

    async fn copy(&self, _: Streaming<FlightData>) -> Result<(), Status> {
        Err(Status::unimplemented("this is a master, not a worker"))
    }

    async fn rows(&self, ticket: Ticket) -> Result<Replies<FlightData>, Status> {
        let remote = self.begun.borrow().clone();
        let (Some(remote), DataRequest::Rows(parts)) = (remote, DataRequest::parse(&ticket)?)
        else {
            return Err(Status::not_found("a master stores its own blocks only"));
        };
        let here = move |source| std::future::ready(Ok(remote.batches.rows.local_rows(&source)));
        Ok(serve_parts(parts, here))
    }

    async fn link(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Replies<FlightData>, Status> {
        let this = self.this.get().and_then(std::sync::Weak::upgrade);
        let this = this.ok_or_else(|| Status::unavailable("the master has ended"))?;
        let (link, outgoing) = channel();
        let incoming = LinkReceiver::new(request.into_inner());
        tokio::spawn(async move { this.serve(link, incoming).await });
        Ok(Box::pin(outgoing.map(Ok)))
    }

    async fn info(&self, of: FlightDescriptor) -> Result<FlightInfo, Status> {
        let name = of.path.first().map(String::as_str).unwrap_or_default();
        let takes = |input: &&super::inputs::InputOf| input.clients;
        if !self
            .hub
            .inputs
            .iter()
            .filter(takes)
            .any(|input| input.name == name)
        {
            let known = self.hub.inputs.iter().filter(takes);
            let known: Vec<_> = known.map(|input| format!("`{}`", input.name)).collect();
            let known = known.join(", ");
            return Err(Status::not_found(format!(
                "no stream `{name}` for clients; there are: {known}"
            )));
        }
        let endpoint = |address: &str| FlightEndpoint {
            location: vec![Location {
                uri: format!("grpc://{address}"),
            }],
            ..FlightEndpoint::default()
        };
        let state = self.hub.lock();
        let workers = state.roster.joined();
        let info = FlightInfo {
            endpoint: workers
                .map(|(_, worker)| endpoint(&worker.address))
                .collect(),
            flight_descriptor: Some(of),
            total_records: -1,
            total_bytes: -1,
            ..FlightInfo::default()
        };
        match info.endpoint.is_empty() {
            true => Err(Status::unavailable("there is no worker yet")),
            false => Ok(info),
        }
    }

    async fn drain(&self, worker: u32) -> Result<(), Status> {
        self.hub.drain(WorkerId(worker)).await
    }

    async fn status(&self) -> Result<Vec<u8>, Status> {
        let status = self.cluster_status();
        serde_json::to_vec(&status).map_err(|error| Status::internal(error.to_string()))
    }
}
