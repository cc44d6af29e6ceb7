//! The public behaviour of the crate, seen as the server uses it.

mod push;
mod visit;
