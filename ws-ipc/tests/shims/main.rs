//! The shims, each with its own interpreter, run as the server runs them.
//!
//! What an interpreter lacks here is skipped, and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod forking;
mod own;
mod setup;
#[path = "../integration/support.rs"]
#[expect(dead_code, reason = "the other tests use the rest of it")]
mod support;
mod working;
