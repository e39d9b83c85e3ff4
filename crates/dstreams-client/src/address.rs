//! Addresses of a program: one, or several to try in turn.
//!
//! An address is `host:port`, of a cluster's master, of one of its workers, or of a program that runs alone. One
//! string may contain several, separated by commas, as on a command line.

use crate::error::Error;
use crate::protocol::is_address;

/// One address or several: `"host:port"`, `"a:1,b:2"`, a slice, an array or a `Vec` of those.
pub trait ToAddresses {
    /// The addresses, in the order in which they are tried.
    fn to_addresses(&self) -> Vec<String>;
}

impl ToAddresses for str {
    fn to_addresses(&self) -> Vec<String> {
        let parts = self
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts.map(str::to_string).collect()
    }
}

impl ToAddresses for String {
    fn to_addresses(&self) -> Vec<String> {
        self.as_str().to_addresses()
    }
}

impl ToAddresses for std::net::SocketAddr {
    fn to_addresses(&self) -> Vec<String> {
        vec![self.to_string()]
    }
}

impl<A: ToAddresses> ToAddresses for [A] {
    fn to_addresses(&self) -> Vec<String> {
        self.iter().flat_map(ToAddresses::to_addresses).collect()
    }
}

impl<A: ToAddresses, const N: usize> ToAddresses for [A; N] {
    fn to_addresses(&self) -> Vec<String> {
        self.as_slice().to_addresses()
    }
}

impl<A: ToAddresses> ToAddresses for Vec<A> {
    fn to_addresses(&self) -> Vec<String> {
        self.as_slice().to_addresses()
    }
}

impl<A: ToAddresses + ?Sized> ToAddresses for &A {
    fn to_addresses(&self) -> Vec<String> {
        (**self).to_addresses()
    }
}

/// The addresses given to a client, and the one to try now.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    all: Vec<String>,
    current: usize,
}

impl Addresses {
    pub(crate) fn new(addresses: &impl ToAddresses) -> Result<Self, Error> {
        let all = addresses.to_addresses();
        if all.is_empty() {
            return Err(Error::Options {
                detail: "no address is given".to_string(),
            });
        }
        for address in &all {
            if !is_address(address) {
                let detail = format!("{address:?} is not an address, host:port is needed");
                return Err(Error::Options { detail });
            }
        }
        Ok(Self { all, current: 0 })
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn current(&self) -> &str {
        self.all.get(self.current).map_or("", String::as_str)
    }

    pub(crate) fn move_on(&mut self) {
        self.current = (self.current + 1) % self.all.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_written_in_many_ways() {
        assert_eq!("a:1, b:2,".to_addresses(), ["a:1", "b:2"]);
        assert_eq!(["a:1", "b:2,c:3"].to_addresses(), ["a:1", "b:2", "c:3"]);
        assert_eq!(vec!["a:1".to_string()].to_addresses(), ["a:1"]);
        let socket: std::net::SocketAddr = "[::1]:80".parse().unwrap();
        assert_eq!(Addresses::new(&socket).unwrap().current(), "[::1]:80");
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for wrong in ["", ",", "host", "host:", "host:70000", "http://host"] {
            assert!(Addresses::new(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_are_tried_in_turn() {
        let mut addresses = Addresses::new(&"a:1,b:2").unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(addresses.current().to_string());
            addresses.move_on();
        }
        assert_eq!(seen, ["a:1", "b:2", "a:1"]);
    }
}
