//! The WebSocket application server: accept, identify, dispatch, push, drain.
//!
//! [`run`] takes a checked [`Config`](config::Config) and serves until a signal ends it. Beside
//! the server run its helpers, which are this same program started again: the spawners, the only
//! processes that start others, and for the demo the fork server. A program that embeds the server
//! calls [`helper_main`] first thing in `main` if its first argument names one of them
//! ([`HELPERS`]).
//!
//! What happens is decided in plain machines (`ws_proto`, `ws_session` and the `core` module); the
//! rest carries it out. Each worker thread owns its connections; the hub knows which of them owns
//! whose.
//!
//! The crate reads no command line, no environment and no files of configuration, and it sets up
//! no log subscriber.

mod accept;
mod application;
mod assembly;
mod bell;
mod bridge;
mod certificates;
mod command;
pub mod config;
mod confinement;
mod connection;
mod core;
mod counters;
mod demo;
mod doors;
mod drain;
mod error;
mod files;
mod gate;
mod heartbeat;
mod helpers;
mod hub;
mod identify;
mod log_tail;
mod metrics;
mod observer;
mod opening;
mod page;
mod places;
mod presence;
mod randomness;
mod rates;
mod readiness;
mod reconfigure;
mod reload;
mod revalidation;
mod rota;
mod server;
mod shard;
mod shared;
mod signals;
mod sockets;
mod spans;
mod status;
mod store;
mod tending;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod user_fifos;
mod visitor;
mod workers;

pub use error::{ServeError, ServeErrorKind};
pub use files::{check_files, unusable_programs};
pub use helpers::{HELPERS, HelperProgram, helper_main};
pub use log_tail::LogTail;
pub use observer::Observer;
pub use page::BROWSER_LIBRARY;
pub use reconfigure::ConfigSource;
pub use server::{Host, run};
pub use store::{ConnectError, StoreOpenError};
/// Where programs are found, unless the configuration says otherwise.
pub use visitor::DEFAULT_PATH;
/// Programs that run scripts as fork servers and workers.
pub use ws_ipc::shims;
/// Certificates: those of a configuration, checked as the server does, and those for development.
pub use ws_transport::{CertificateWarning, SelfSigned, TlsAcceptor, TlsError};
