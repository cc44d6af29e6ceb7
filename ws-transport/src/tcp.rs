//! Binding TCP ports.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, getsockname, listen, socket_with,
    sockopt,
};

use crate::{BindError, BindOptions, ListenAddr, ListenSocket};

/// How many connections the kernel completes ahead of us. It silently lowers the number to
/// `net.core.somaxconn`, by default 4096 as well.
pub(crate) const BACKLOG: i32 = 4096;

/// How far `auto_port` seeks.
const AUTO_PORT_RANGE: u16 = 1000;

/// Listens on the first address of `host` that works and returns it with its real port. Errors name
/// `addr`, with the port that failed.
pub(crate) fn bind(
    addr: &ListenAddr,
    host: &str,
    port: u16,
    options: &BindOptions,
) -> Result<(OwnedFd, SocketAddr), BindError> {
    let hosts = resolve(host)?;
    let last = match port {
        0 => 0,
        _ if options.auto_port => port.saturating_add(AUTO_PORT_RANGE),
        _ => port,
    };
    for port in port..=last {
        match bind_first(&hosts, port, options) {
            Ok(bound) => return Ok(bound),
            Err(error) if options.auto_port && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                let host = host.to_owned();
                let addr = addr.clone().with_socket(ListenSocket::Tcp { host, port });
                return Err(BindError::Listen { addr, error });
            }
        }
    }
    let addr = addr.clone();
    Err(BindError::NoFreePort { addr, last })
}

fn resolve(host: &str) -> Result<Vec<SocketAddr>, BindError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, 0)]);
    }
    let fail = |error| BindError::Resolve {
        host: host.to_owned(),
        error,
    };
    let mut hosts: Vec<_> = (host, 0).to_socket_addrs().map_err(fail)?.collect();
    if hosts.is_empty() {
        return Err(fail(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )));
    }
    // IPv4 first: what `localhost` means must not depend on the order in /etc/hosts.
    hosts.sort_by_key(SocketAddr::is_ipv6);
    Ok(hosts)
}

/// Binds the first of several addresses that this machine has.
///
/// A taken port ends the search: if `127.0.0.1` is another server's, then listening on `::1` would
/// leave clients of `localhost` with either.
fn bind_first(
    hosts: &[SocketAddr],
    port: u16,
    options: &BindOptions,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut first_error = None;
    for host in hosts {
        let mut addr = *host;
        addr.set_port(port);
        match bind_one(addr, options) {
            Ok(bound) => return Ok(bound),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.expect("a resolved host has at least one address"))
}

fn bind_one(addr: SocketAddr, options: &BindOptions) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // A restarted server takes its port back while old connections are in TIME_WAIT. On Linux
    // this does not let two listeners share a port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit it, which saves a system call for each. Frames leave in whole
    // writes, so Nagle's algorithm could only delay them.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if options.reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if let Some(timeout) = options.user_timeout {
        set_user_timeout(&socket, timeout)?;
    }
    bind_socket(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// Sets `TCP_USER_TIMEOUT` (tcp(7)), which accepted sockets inherit as well.
pub(crate) fn set_user_timeout(socket: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, milliseconds)?)
}
