//! Workers in network namespaces, as if on separate machines, and one of them cut off.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::process::{How, PATIENT};
use crate::program::block_on;
use crate::scene::{Scene, Setup};

/// Namespaces on one switch, to which this process is connected as well. Removed when dropped.
pub struct Network {
    /// Prefix of the names of namespaces and links, different in each process.
    name: String,
    /// Prefix of the addresses, in 198.18.0.0/15, which is reserved for tests.
    prefix: String,
    machines: usize,
}

/// Creates a network; prints a note and returns `None` if this process may not.
pub fn network(machines: usize) -> Option<Network> {
    match Network::new(machines) {
        Ok(network) => Some(network),
        Err(reason) => {
            // Not by `eprintln!`, whose output is shown for failing tests only.
            let skipped = format!("SKIPPED: no network namespaces on this machine: {reason}\n");
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            None
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("`ip` of iproute2: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`ip {arguments}`: {}", said.trim()))
        }
    }
}

impl Network {
    /// Machines are numbered from 0; the error says what is not permitted.
    fn new(machines: usize) -> Result<Self, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        // For at most four tests: 198.18 and 198.19 are reserved for tests.
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let third = (pid as usize + number / 2 * 128) % 256;
        let network = Network {
            name: format!("ds{pid}{number}"),
            prefix: format!("198.{}.{third}", 18 + number % 2),
            machines,
        };
        // The switch is in a namespace too, out of reach of this machine's firewall.
        let (name, prefix) = (&network.name, &network.prefix);
        ip(&format!("netns add {name}s"))?;
        ip(&format!("-n {name}s link add bridge type bridge"))?;
        ip(&format!("-n {name}s link set bridge up"))?;
        ip(&format!(
            "link add {name}h type veth peer name host netns {name}s"
        ))?;
        ip(&format!("-n {name}s link set host master bridge up"))?;
        ip(&format!("address add {prefix}.1/24 dev {name}h"))?;
        ip(&format!("link set {name}h up"))?;
        for at in 0..machines {
            let (port, address) = (format!("port{at}"), network.address(at));
            ip(&format!("netns add {name}m{at}"))?;
            ip(&format!("-n {name}m{at} link set lo up"))?;
            let veth = "link add net type veth peer name";
            ip(&format!("-n {name}m{at} {veth} {port} netns {name}s"))?;
            ip(&format!("-n {name}s link set {port} master bridge up"))?;
            ip(&format!("-n {name}m{at} address add {address}/24 dev net"))?;
            ip(&format!("-n {name}m{at} link set net up"))?;
        }
        Ok(network)
    }

    fn address(&self, machine: usize) -> String {
        format!("{}.{}", self.prefix, machine + 2)
    }

    /// Pulls the cable of a machine, or puts it back: `down` or `up`.
    fn cable(&self, machine: usize, state: &str) {
        ip(&format!("-n {}s link set port{machine} {state}", self.name)).unwrap();
    }

    /// Drops what a machine sends to the master, or what this one sends to the machine: `add`, or `del` to end it.
    pub fn one_way(&self, machine: usize, to_master: bool, change: &str) {
        let (name, prefix) = (&self.name, &self.prefix);
        let cut = match to_master {
            true => format!("-n {name}m{machine} route {change} blackhole {prefix}.1/32"),
            false => format!("route {change} blackhole {}/32", self.address(machine)),
        };
        ip(&cut).unwrap();
    }

    /// A master here, and a worker on each machine.
    pub fn setup(&self) -> Setup {
        let token = Some("a token of tests".replace(' ', "-"));
        let worker = |machine| How {
            namespace: Some(format!("{}m{machine}", self.name)),
            listen: Some(format!("{}:0", self.address(machine))),
            token: token.clone(),
            ..How::default()
        };
        Setup {
            listen: format!("{}.1:0", self.prefix),
            advertise: None,
            workers: (0..self.machines).map(worker).collect(),
            token: token.clone(),
            asked: false,
            aimed: true,
            silence: PATIENT,
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let name = &self.name;
        let mut all = vec![format!("link del {name}h"), format!("netns del {name}s")];
        all.extend(
            (0..self.machines).map(|at| format!("route del blackhole {}/32", self.address(at))),
        );
        all.extend((0..self.machines).map(|at| format!("netns del {name}m{at}")));
        for arguments in all {
            // After a failure, some of them do not exist.
            let _ = ip(&arguments);
        }
    }
}

#[test]
fn a_worker_that_is_cut_off_rejoins_under_a_new_number() {
    let Some(network) = network(3) else { return };
    block_on(async {
        let mut scene = Scene::open(network.setup()).await;
        scene.batches(4).await;
        let before: BTreeSet<_> = scene.status().workers.iter().map(|w| w.id).collect();
        // The one that the client sends to.
        network.cable(0, "down");
        scene.workers_are(2).await;
        assert!(!scene.workers[0].has_ended(), "it was only cut off");
        scene.batches(4).await;
        scene.acknowledged(50).await;
        network.cable(0, "up");
        scene.is_whole(3).await;
        let status = scene.status();
        let pid = scene.workers[0].pid();
        let back = status.workers.iter().find(|worker| worker.pid == pid);
        let back = back.expect("the one that was cut off");
        assert!(!before.contains(&back.id), "{back:?} is a new one");
        scene.close().await;
    });
}

/// Each advertises the address at which others reach it.
#[test]
fn processes_may_listen_on_every_address_of_their_machine() {
    let Some(network) = network(2) else { return };
    block_on(async {
        let mut setup = network.setup();
        let everywhere = |listen: &mut String| std::mem::replace(listen, "0.0.0.0:0".into());
        setup.advertise = Some(everywhere(&mut setup.listen));
        for how in &mut setup.workers {
            how.advertise = how.listen.replace("0.0.0.0:0".into());
        }
        let scene = Scene::open(setup).await;
        scene.batches(4).await;
        scene.acknowledged(50).await;
        scene.close().await;
    });
}
