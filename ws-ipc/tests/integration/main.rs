//! The crate from outside: real spawners, real programs.

mod exec;
mod support;
