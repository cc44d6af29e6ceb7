//! The program as its users meet it: a real `ws` process, real sockets, real callbacks.
//!
//! Names begin with the number of what they prove: a threat (`t`), an invariant that is promised
//! (`inv`), or a defect of CarbonPHP's server that this one does not have (`b`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod revoked;
mod secure;
mod support;
mod wire;

mod admin;
mod bench;
mod callbacks;
mod carbonphp;
mod carbonphp_app;
mod certificates;
mod compression;
mod configuration;
mod control;
mod crowd;
mod doctor;
mod documented;
mod echo;
mod examples;
mod exhaustion;
mod fifo;
mod frames;
mod handshake;
mod helpers;
mod identity;
mod life;
mod limits;
mod metrics;
mod newcomers;
mod places;
mod presence;
mod proxied;
mod push;
mod sessions;
mod sockets;
mod stalled;
mod stream;
mod supervised;
mod terminal;
mod throttled;
mod tls;
#[cfg(feature = "otel")]
mod traces;
mod validation;
mod vanished;
mod verbs;
