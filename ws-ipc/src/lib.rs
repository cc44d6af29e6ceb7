//! Other processes: starting and supervising them, and the ways to talk with them.

pub mod cgi;
mod environment;
pub mod fifo;
pub mod record;
pub mod scgi;

pub use environment::{Environment, EnvironmentError};
pub use fifo::{Fifo, FifoDirectory, FifoError, FifoOptions, encode_name, encode_name_carbonphp};
pub use record::{Framing, InvalidRecord, Record, RecordDecoder};
