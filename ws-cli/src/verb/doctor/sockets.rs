//! Where a process listens, by what the kernel tells of it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ws_server::config::{Config, ListenAddr, ListenSocket};

/// Finds the address of the one listener whose port the configuration does not say: any free one,
/// or one of systemd's. `None` if there is none, or several, or if the process is somebody else's.
pub(super) fn unnamed(config: &Config, pid: u32) -> Option<SocketAddr> {
    let listeners = &config.server().listen;
    if listeners.iter().filter(|it| !is_named(it)).count() != 1 {
        return None;
    }
    let control = config.control().tcp.as_ref().map(|tcp| &tcp.listen);
    let others = control.into_iter().chain(&config.metrics().listen);
    let named: Vec<u16> = listeners.iter().chain(others).filter_map(port).collect();
    only_other(&listening(pid), &named)
}

/// Whether the configuration says where a listener is.
pub(super) fn is_named(addr: &ListenAddr) -> bool {
    match addr.socket() {
        ListenSocket::Tcp { port, .. } => *port != 0,
        ListenSocket::Unix(_) => true,
        _ => false,
    }
}

fn port(addr: &ListenAddr) -> Option<u16> {
    match addr.socket() {
        ListenSocket::Tcp { port, .. } => Some(*port),
        _ => None,
    }
}

/// The one address with a port that is not among those.
fn only_other(listening: &BTreeSet<SocketAddr>, named: &[u16]) -> Option<SocketAddr> {
    let mut others = listening.iter().filter(|it| !named.contains(&it.port()));
    match (others.next(), others.next()) {
        (Some(only), None) => Some(*only),
        _ => None,
    }
}

fn listening(pid: u32) -> BTreeSet<SocketAddr> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeSet::new();
    };
    let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| listeners_in(&table, &inodes))
        .collect()
}

/// Reads a table of the kernel: the listening sockets among these.
fn listeners_in(table: &str, inodes: &BTreeSet<String>) -> Vec<SocketAddr> {
    /// TCP_LISTEN.
    const LISTEN: &str = "0A";
    let rows = table.lines().skip(1);
    rows.filter_map(|row| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_meant = *state == LISTEN && inodes.contains(*inode);
        is_meant.then(|| address(local)).flatten()
    })
    .collect()
}

/// Reads `0100007F:22B8`: words of the network's bytes, as numbers of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn listeners_of_this_process_are_found() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let addr = listener.local_addr().unwrap();
            assert!(listening(std::process::id()).contains(&addr), "{addr}");
        }
        assert!(listening(u32::MAX).is_empty());
    }

    #[test]
    fn one_that_is_not_named_is_told_from_several() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b) = (addr("127.0.0.1:1000"), addr("[::1]:2000"));
        assert_eq!(only_other(&BTreeSet::from([a, b]), &[2000]), Some(a));
        assert_eq!(only_other(&BTreeSet::from([a, b]), &[]), None);
        assert_eq!(only_other(&BTreeSet::new(), &[]), None);
    }

    proptest! {
        #[test]
        fn prop_any_text_is_a_table(text in "[0-9A-F: \n]{0,200}") {
            let inodes = BTreeSet::from(["1".to_owned()]);
            listeners_in(&text, &inodes);
        }
    }
}
