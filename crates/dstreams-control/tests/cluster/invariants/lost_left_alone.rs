//! Every command is for live workers.

use dstreams_control::cluster::{ClusterCommand, WorkerId};

use super::{Invariant, Scene, Verdict, ensure};

pub struct LostLeftAlone;

impl Invariant for LostLeftAlone {
    fn name(&self) -> &'static str {
        "lost-left-alone"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let absent = named(command)
            .into_iter()
            .find(|worker| !scene.ledger.live.contains(worker));
        ensure(absent.is_none(), || {
            format!("{command:?}: {absent:?} is not live")
        })?;
        match command {
            ClusterCommand::Fence { lost, .. } => ensure(scene.ledger.gone.contains(lost), || {
                format!("{lost} is not lost")
            }),
            _ => Ok(()),
        }
    }
}

fn named(command: &ClusterCommand) -> Vec<WorkerId> {
    match command {
        ClusterCommand::Receive { worker, .. }
        | ClusterCommand::Drop { worker, .. }
        | ClusterCommand::Grant { worker, .. }
        | ClusterCommand::Refuse { worker, .. }
        | ClusterCommand::Revoke { worker, .. }
        | ClusterCommand::Retire { worker }
        | ClusterCommand::Drained { worker } => vec![*worker],
        ClusterCommand::Peer { worker, to } => [*worker].into_iter().chain(*to).collect(),
        ClusterCommand::Fence { at, .. } => vec![*at],
        ClusterCommand::Copy { from, to, .. } | ClusterCommand::CopyState { from, to, .. } => {
            vec![*from, *to]
        }
        ClusterCommand::Assign {
            primary,
            standby,
            next,
            ..
        } => [Some(*primary), *standby, *next]
            .into_iter()
            .flatten()
            .collect(),
        ClusterCommand::ReceiverLost { .. }
        | ClusterCommand::SurvivorsUnknown { .. }
        | ClusterCommand::BlockLost { .. }
        | ClusterCommand::Adopt { .. }
        | ClusterCommand::StateLost { .. } => vec![],
    }
}
