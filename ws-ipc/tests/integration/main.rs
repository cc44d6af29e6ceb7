//! The crate from outside: real spawners, real programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

mod codecs;
mod confinement;
mod cut;
mod exec;
mod fastcgi;
mod fifo;
mod pool;
mod record;
mod scgi;
mod service;
mod spawner;
mod stream;
mod support;
