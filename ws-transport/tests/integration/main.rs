//! The public behaviour of the crate, over real sockets on this host.

mod accept;
mod certificates;
mod inherited;
mod proxied;
mod secure;
mod stream;
mod tcp;
mod tls;
mod unix;

use std::path::Path;

use ws_transport::{BindError, BindOptions, ListenAddr, Listener};

fn bind(addr: &str) -> Result<Listener, BindError> {
    bind_with(addr, &BindOptions::default())
}

fn bind_with(addr: &str, options: &BindOptions) -> Result<Listener, BindError> {
    Listener::bind(
        &addr.parse().expect("the tests listen on valid addresses"),
        options,
    )
}

fn bind_unix(path: &Path, options: &BindOptions) -> Result<Listener, BindError> {
    Listener::bind(&ListenAddr::unix(path), options)
}

/// The port a client connects to.
fn port(listener: &Listener) -> u16 {
    listener
        .local_addr()
        .port()
        .expect("the listener is a TCP listener")
}
