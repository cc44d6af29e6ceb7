//! The public behaviour of the crate, seen as the server uses it.

mod flooding;
mod push;
mod visit;
