//! Addresses to listen at.

use std::net::IpAddr;
use std::path::Path;

use ws_transport::{ListenAddr, ListenSocket};

use super::fault::Problem;
use super::parse;
use super::raw::RawValue;

pub(super) fn listen_addr(text: &str, base: &Path) -> Result<ListenAddr, Problem> {
    let addr: ListenAddr = text.parse().map_err(|fault| Problem::Address {
        given: text.to_owned(),
        fault,
    })?;
    Ok(match addr.socket() {
        ListenSocket::Unix(path) => {
            let socket = ListenSocket::Unix(base.join(path));
            addr.with_socket(socket)
        }
        _ => addr,
    })
}

/// An address for HTTP in clear text.
pub(super) fn plain_tcp(value: &RawValue) -> Result<ListenAddr, Problem> {
    let text = parse::text(value)?;
    let addr = listen_addr(&text, Path::new(""))?;
    let is_tcp = matches!(addr.socket(), ListenSocket::Tcp { .. });
    if is_tcp && !addr.is_tls() && !addr.is_proxied() {
        return Ok(addr);
    }
    Err(Problem::malformed(text, "\"HOST:PORT\""))
}

/// Whether only this host reaches it.
pub(super) fn is_local(addr: &ListenAddr) -> bool {
    match addr.socket() {
        ListenSocket::Tcp { host, .. } => {
            let address = host.parse::<IpAddr>();
            host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
        }
        ListenSocket::Unix(_) => true,
        // What an inherited socket is bound to is not known here.
        _ => false,
    }
}
