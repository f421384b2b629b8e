//! The address of a client, behind proxies that are trusted to name it.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use ::http::HeaderMap;

/// Header in which each proxy appends the address it was called from.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Bits of an IPv6 address that name a customer: the customer chooses the rest.
const IPV6_PREFIX: u32 = 64;

/// The client's address as a request extension. None: a trusted proxy called by itself, which no limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub Option<IpAddr>);

/// A range of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: u128,
    prefix: u32,
}

/// Proxies whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[Network]>);

/// IPv4 addresses as IPv6 writes them, so that one comparison serves both.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn masked(address: u128, prefix: u32) -> u128 {
    address & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let skipped = if address.is_ipv4() { 96 } else { 0 };
        let prefix = match prefix {
            Some(prefix) => skipped + u32::from(prefix.parse::<u8>().map_err(|_| ())?),
            None => 128,
        };
        if prefix > 128 {
            return Err(());
        }
        Ok(Self { address: masked(bits(address), prefix), prefix })
    }
}

impl FromStr for TrustedProxies {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl TrustedProxies {
    fn contains(&self, address: IpAddr) -> bool {
        let address = bits(address);
        self.0.iter().any(|network| masked(address, network.prefix) == network.address)
    }

    /// The address that limits count for a connection from this peer, before any request. None for a proxy.
    #[must_use]
    pub fn peer(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.contains(peer)).then(|| counted(peer))
    }

    /// The address of the client that sent a request: the last one in the chain that is no trusted proxy.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        if !self.contains(peer) {
            return ClientAddress(Some(counted(peer)));
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|line| line.to_str().ok());
        let hops = lines.flat_map(|line| line.rsplit(',')).map_while(|hop| hop.trim().parse::<IpAddr>().ok());
        ClientAddress(hops.into_iter().find(|hop| !self.contains(*hop)).map(counted))
    }
}

/// One address for all that a customer may choose from.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(masked(address.to_bits(), IPV6_PREFIX))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_is_the_last_hop_that_is_not_trusted() {
        let trusted: TrustedProxies = "127.0.0.0/8, 10.1.0.0/16,::1".parse().unwrap();
        for (peer, forwarded, expected) in [
            ("192.0.2.1", "", Some("192.0.2.1")),
            // A stranger's header is not believed.
            ("192.0.2.1", "198.51.100.7", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", "", Some("192.0.2.1")),
            ("2001:db8::1:2:3:4", "", Some("2001:db8::")),
            ("127.0.0.1", "", None),
            ("::1", "198.51.100.7", Some("198.51.100.7")),
            ("10.1.2.3", "198.51.100.7", Some("198.51.100.7")),
            ("10.2.2.3", "198.51.100.7", Some("10.2.2.3")),
            // The client wrote the first hop itself.
            ("127.0.0.1", "203.0.113.9, 198.51.100.7, 10.1.2.3", Some("198.51.100.7")),
            ("127.0.0.1", "nonsense", None),
        ] {
            let mut headers = HeaderMap::new();
            if !forwarded.is_empty() {
                headers.insert(FORWARDED_FOR, forwarded.parse().unwrap());
            }
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(trusted.client(peer.parse().unwrap(), &headers), ClientAddress(expected), "{peer} {forwarded}");
        }
    }

    #[test]
    fn wrong_networks_are_refused() {
        for wrong in ["proxy", "10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0"] {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
        }
        assert!("0.0.0.0/0".parse::<TrustedProxies>().unwrap().contains("192.0.2.1".parse().unwrap()));
        assert!("".parse::<TrustedProxies>().unwrap().0.is_empty());
    }
}
