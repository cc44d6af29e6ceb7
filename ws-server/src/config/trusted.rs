//! Peers whose word about a visitor is believed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A proxy, or a network of them (`server.proxy.trusted`).
///
/// ```
/// use ws_server::config::TrustedPeer;
///
/// let network: TrustedPeer = "10.0.0.0/8".parse()?;
/// assert_eq!(network.to_string(), "10.0.0.0/8");
/// assert_eq!("127.0.0.1".parse::<TrustedPeer>()?.to_string(), "127.0.0.1/32");
/// assert!("10.0.0.1/8".parse::<TrustedPeer>().is_err());
/// # Ok::<(), ws_server::config::InvalidTrustedPeer>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustedPeer {
    /// Whoever connects to a Unix socket; who can is said by the socket's mode.
    Unix,
    /// The addresses that begin with the first `prefix_len` bits of `address`.
    Network {
        /// The network's address; the bits behind the prefix are zero.
        address: IpAddr,
        /// The number of bits that count.
        prefix_len: u8,
    },
}

/// Not an address, a network or `unix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an address nor a network")]
pub struct InvalidTrustedPeer;

impl FromStr for TrustedPeer {
    type Err = InvalidTrustedPeer;

    /// Reads `unix`, an address, or a network with the number of its bits. A network with bits
    /// behind its prefix is refused: one of the two is not what was meant.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidTrustedPeer)?;
        let (bits, width) = bits(address);
        let prefix_len = match prefix_len {
            // `parse` alone would take a sign.
            Some(len) if len.bytes().all(|byte| byte.is_ascii_digit()) => {
                len.parse().map_err(|_| InvalidTrustedPeer)?
            }
            Some(_) => return Err(InvalidTrustedPeer),
            None => width,
        };
        if prefix_len > width || bits != masked(bits, prefix_len, width) {
            return Err(InvalidTrustedPeer);
        }
        Ok(Self::Network {
            address,
            prefix_len,
        })
    }
}

impl fmt::Display for TrustedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Network {
                address,
                prefix_len,
            } => write!(f, "{address}/{prefix_len}"),
        }
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedPeers(Vec<TrustedPeer>);

impl TrustedPeers {
    /// Gathers them.
    pub fn new(peers: Vec<TrustedPeer>) -> Self {
        Self(peers)
    }

    /// Tells whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether a peer is believed; `None` is one on a Unix socket.
    ///
    /// An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.5`) is the IPv4 address.
    pub fn contain(&self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
            return self.0.contains(&TrustedPeer::Unix);
        };
        let (peer_bits, peer_width) = bits(peer);
        self.0.iter().any(|trusted| match *trusted {
            TrustedPeer::Unix => false,
            TrustedPeer::Network {
                address,
                prefix_len,
            } => {
                let (bits, width) = bits(address);
                width == peer_width && masked(peer_bits, prefix_len, width) == bits
            }
        })
    }
}

/// The bits of an address, right-aligned, and how many they are.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn masked(bits: u128, prefix_len: u8, width: u8) -> u128 {
    let behind = u32::from(width - prefix_len);
    let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
    bits & mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted(peers: &[&str]) -> TrustedPeers {
        TrustedPeers::new(peers.iter().map(|peer| peer.parse().unwrap()).collect())
    }

    #[test]
    fn networks_contain_what_begins_with_their_bits() {
        let peers = trusted(&["10.0.0.0/8", "192.168.1.7", "2001:db8::/32", "::1"]);
        for (peer, is_trusted) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::1", true),
            ("::2", false),
            ("::ffff:10.1.2.3", true),
            ("0.0.0.1", false),
        ] {
            let peer = peer.parse().unwrap();
            assert_eq!(peers.contain(Some(peer)), is_trusted, "{peer}");
        }
        assert!(!peers.contain(None));
        assert!(trusted(&["unix"]).contain(None));
        assert!(trusted(&["0.0.0.0/0"]).contain(Some([1, 2, 3, 4].into())));
        assert!(trusted(&["::/0"]).contain(Some("fe80::1".parse().unwrap())));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "x",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "::1/64",
            "::/129",
            "10.0.0.0/8/8",
            "localhost",
            "Unix",
            "10.0.0.1:80",
            "fe80::1%eth0",
            "010.0.0.1",
        ] {
            assert_eq!(
                text.parse::<TrustedPeer>(),
                Err(InvalidTrustedPeer),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn prop_network_of_an_address_contains_it(address: u32, prefix_len in 0_u8..=32) {
            let network = masked(address.into(), prefix_len, 32) as u32;
            let text = format!("{}/{prefix_len}", std::net::Ipv4Addr::from_bits(network));
            let peers = trusted(&[&text]);
            prop_assert!(peers.contain(Some(std::net::Ipv4Addr::from_bits(address).into())));
            let other = address ^ 1_u32.checked_shl(u32::from(32 - prefix_len)).unwrap_or(0);
            let other_is_in = peers.contain(Some(std::net::Ipv4Addr::from_bits(other).into()));
            prop_assert_eq!(other_is_in, prefix_len == 0);
        }
    }
}
