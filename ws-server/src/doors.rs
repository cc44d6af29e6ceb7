//! The doors through which other programs on this host reach connections: FIFOs and the control
//! socket.

mod control;
mod fifo;

pub(crate) use control::{ControlDoors, METRICS_CONNECTIONS, check_tokens, serve_control};
pub(crate) use fifo::{FifoWatch, GLOBAL_FIFO, serve_connection, serve_global, serve_user};
