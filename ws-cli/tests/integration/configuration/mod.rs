//! The configuration of a running server, and input that cannot be used.

mod input;
mod reload;
