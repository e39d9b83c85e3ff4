//! [`AdvertisedAddress`]: the address at which other processes reach this one.

use std::net::{SocketAddr, ToSocketAddrs};

use dstreams::{Error, Result};

/// The addresses at which other processes reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedAddress {
    /// Also the host of the engine's ports.
    pub host: String,
    pub address: String,
}

impl AdvertisedAddress {
    /// The address in `advertise`, where port 0 means the bound port; without it, the bound address.
    pub fn at(bound: SocketAddr, advertise: Option<&str>) -> Self {
        let (host, port) = match advertise.and_then(|advertise| advertise.rsplit_once(':')) {
            Some((host, port)) => (host.to_owned(), port.parse().unwrap_or_default()),
            None => (host_of(bound), 0),
        };
        let port = if port == 0 { bound.port() } else { port };
        let address = format!("{host}:{port}");
        AdvertisedAddress { host, address }
    }
}

/// The host of an address, as it is written before a port.
pub fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

/// Whether `address` is the wildcard, which other machines cannot connect to.
fn is_any(address: &str) -> bool {
    let resolved = address.to_socket_addrs();
    resolved.is_ok_and(|mut all| all.any(|address| address.ip().is_unspecified()))
}

/// Checks that a process that listens on every address advertises one that others can reach.
pub fn check_advertised(
    setting: &'static str,
    listen: &str,
    advertise: Option<&str>,
) -> Result<()> {
    let wrong = |message| Err(Error::Config { setting, message });
    match advertise {
        None if is_any(listen) => wrong(format!(
            "{listen} is every address of this machine, but other machines need one that they can reach; add \
             it as --advertise HOST:0, or listen on it"
        )),
        Some(advertise) if is_any(advertise) => wrong(format!(
            "other machines cannot reach {advertise}; give --advertise HOST:PORT with an address of \
             this machine"
        )),
        Some(advertise)
            if !advertise
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
        {
            wrong(format!(
                "{advertise} is not an address; give --advertise HOST:PORT, where port 0 is the port it listens on"
            ))
        }
        _ => Ok(()),
    }
}

/// Checks that there is a token if `listen` is more than loopback.
pub fn check_exposure(setting: &'static str, listen: &str, token: Option<&str>) -> Result<()> {
    let resolved = listen.to_socket_addrs();
    let mut addresses = resolved.map_err(|error| Error::Config {
        setting,
        message: format!("cannot listen on {listen}: {error}; give HOST:PORT"),
    })?;
    let exposed = addresses.any(|address: SocketAddr| !address.ip().is_loopback());
    match (exposed, token) {
        (true, None | Some("")) => Err(Error::Config {
            setting,
            message: format!(
                "{listen} can be reached from other machines, and there is no token; set \
                 DSTREAMS_TOKEN (or --token-file) to the same secret on master, workers and clients"
            ),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_or_bound_address_is_used() {
        let at = |bound: &str, advertise| AdvertisedAddress::at(bound.parse().unwrap(), advertise);
        let advertised = at("127.0.0.1:7077", None);
        assert_eq!(
            (&*advertised.host, &*advertised.address),
            ("127.0.0.1", "127.0.0.1:7077")
        );
        let advertised = at("[::1]:7077", None);
        assert_eq!(
            (&*advertised.host, &*advertised.address),
            ("[::1]", "[::1]:7077")
        );
        let advertised = at("0.0.0.0:7077", Some("master:0"));
        assert_eq!(
            (&*advertised.host, &*advertised.address),
            ("master", "master:7077")
        );
        assert_eq!(
            at("0.0.0.0:7077", Some("10.0.0.1:80")).address,
            "10.0.0.1:80"
        );
    }

    #[test]
    fn a_wildcard_address_cannot_be_advertised() {
        let check = |listen, advertise| check_advertised("master", listen, advertise);
        assert!(check("127.0.0.1:0", None).is_ok());
        assert!(check("0.0.0.0:7077", Some("127.0.0.1:0")).is_ok());
        for (listen, advertise) in [
            ("0.0.0.0:7077", None),
            ("[::]:7077", None),
            ("127.0.0.1:0", Some("0.0.0.0:1")),
            ("0.0.0.0:7077", Some("127.0.0.1")),
        ] {
            let error = check(listen, advertise).unwrap_err().to_string();
            assert!(error.contains("--advertise HOST:"), "{error}");
        }
    }
}
