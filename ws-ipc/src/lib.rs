//! Other processes: starting and supervising them, and the ways to talk with them.

pub mod cgi;
mod children;
mod environment;
pub mod exec;
mod failure;
pub mod fifo;
pub mod forkserver;
pub mod record;
pub mod scgi;
mod service;
mod socketpair;
pub mod spawner;
mod stderr;
mod supervisor;
mod sys;
mod unix_path;

pub use environment::{Environment, EnvironmentError};
pub use failure::Failure;
pub use fifo::{Fifo, FifoDirectory, FifoError, FifoOptions, encode_name, encode_name_carbonphp};
pub use record::{Framing, InvalidRecord, Record, RecordDecoder};
pub use service::{Service, ServiceCommand, scgi_call};
pub use spawner::{
    Child, HelperCommand, Identity, Job, Signal, Spawners, SpawnersConfig, SpawnersStats,
};
pub use supervisor::{Backoff, BackoffConfig};
