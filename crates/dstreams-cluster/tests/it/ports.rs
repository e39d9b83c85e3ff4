//! The ports on which processes listen, from Linux's `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// A socket in `/proc/net/tcp`.
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
}

/// The sockets of a process.
fn sockets(pid: &str) -> Vec<Socket> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let mut all: BTreeMap<&str, Socket> = BTreeMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let socket = Socket {
            local: address(fields[1]),
            remote: address(fields[2]),
            listens: fields[3] == "0A",
        };
        all.insert(fields[9], socket);
    }
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = files.flatten().filter_map(|file| {
        let link = std::fs::read_link(file.path()).ok()?;
        let name = link.to_str()?.to_owned();
        Some(name.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    });
    links
        .filter_map(|inode| all.remove(inode.as_str()))
        .collect()
}

/// `0100007F:1F90` is 127.0.0.1:8080: the address is a number in native byte order.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let ip = u32::from_str_radix(ip, 16).unwrap().to_ne_bytes();
    let port = u16::from_str_radix(port, 16).unwrap();
    SocketAddr::from((Ipv4Addr::from(ip), port))
}

/// All ports of a cluster: those on which its workers listen, and those of this process to which workers
/// are connected.
pub fn of_cluster(workers: &[u32]) -> BTreeSet<SocketAddr> {
    let ours = sockets("self");
    let ours: BTreeSet<_> = ours.iter().filter(|s| s.listens).map(|s| s.local).collect();
    let of_workers: Vec<_> = workers
        .iter()
        .flat_map(|pid| sockets(&pid.to_string()))
        .collect();
    let own = of_workers.iter().filter(|s| s.listens).map(|s| s.local);
    let connected = of_workers.iter().map(|socket| socket.remote);
    own.chain(connected.filter(|remote| ours.contains(remote)))
        .collect()
}
