//! Other processes: starting and supervising them, and the ways to talk with them.
//!
//! - [`Spawners`] start programs, so that the server itself never forks. [`exec::run`] runs one for
//!   one message, [`stream::run`] one for a whole conversation; a [`Service`] keeps one running, and
//!   [`scgi_call`] asks it; a [`Pool`] keeps several.
//! - [`shims`] make scripts in other languages such services.
//! - [`forkserver::run`] makes a program a fork server: a closure answers each message in a process
//!   of its own; [`worker::run`] makes it one that answers them all.
//! - [`fastcgi::FastCgi`] and [`scgi::ScgiServer`] ask servers that others run, at an [`Address`].
//! - [`Confinement`] is what such programs may not do and how much of the host they may use;
//!   [`cgroup`] finds a place for control groups of their own.
//! - [`FifoDirectory`] makes named pipes that any program may write to, and [`RecordDecoder`] cuts
//!   what they write into records.
//! - [`Environment`], [`cgi`], [`scgi`] and [`fastcgi`] are the contract with the application: pure
//!   codecs.
//!
//! It knows nothing of WebSocket, users or sessions: payloads are bytes here, ids are opaque.
//!
//! Whatever is started here ends here. A program has a process group of its own, which is killed
//! before its leader's number may be given to others; what leaves the group is found as an orphan
//! and killed too; every child is waited for by its own id. A process that dies takes with it what
//! it was answerable for, and whoever waits for that is told.
//!
//! # Examples
//!
//! A program that starts its own executable again as its helper must lead there before it does
//! anything else:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ws_ipc::exec::{self, AnswerChannel, Exec};
//! use ws_ipc::{Confinement, HelperCommand, Spawners, SpawnersConfig};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! if std::env::args().nth(1).as_deref() == Some("__spawner") {
//!     ws_ipc::spawner::main();
//! }
//! let helper = HelperCommand {
//!     program: "/proc/self/exe".into(),
//!     args: vec!["__spawner".into()],
//! };
//! let spawners = Spawners::start(helper, SpawnersConfig::default())?;
//! let run = Exec {
//!     argv: vec!["/usr/bin/rev".into()],
//!     env: vec![],
//!     dir: None,
//!     identity: None,
//!     confinement: Confinement::default(),
//!     payload: "hello".into(),
//!     answer: AnswerChannel::Pipe,
//!     timeout: Duration::from_secs(30),
//!     max_output: 1 << 20,
//! };
//! let answer = exec::run(&spawners, run, &mut |line| tracing::warn!(line, "stderr")).await?;
//! assert_eq!(answer, b"olleh");
//! spawners.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod address;
pub mod cgi;
pub mod cgroup;
mod channel;
mod children;
mod connector;
mod environment;
pub mod exec;
mod failure;
pub mod fastcgi;
pub mod fifo;
pub mod forkserver;
mod lines;
mod pool;
pub mod record;
pub mod scgi;
mod service;
pub mod shims;
mod socketpair;
pub mod spawner;
mod stderr;
pub mod stream;
mod supervisor;
mod sys;
mod unix_path;
pub mod worker;

pub use address::{Address, InvalidAddress};
pub use environment::{Environment, EnvironmentError};
pub use failure::Failure;
pub use fifo::{Fifo, FifoDirectory, FifoError, FifoOptions, encode_name, encode_name_carbonphp};
pub use lines::{LineDecoder, LineTooLong};
pub use pool::{Pool, PoolConfig, PoolKind, PoolStats, Recycling};
pub use record::{Framing, InvalidRecord, Record, RecordDecoder};
pub use service::{Service, ServiceCommand, scgi_call};
pub use spawner::{
    Cgroup, Child, Confinement, HelperCommand, Identity, Job, Landlock, Limits, Signal, Spawners,
    SpawnersConfig, SpawnersStats,
};
pub use supervisor::{Backoff, BackoffConfig};
