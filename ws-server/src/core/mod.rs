//! Decisions without I/O: given what happened and what time it is, what should be done.
//!
//! Nothing in here knows a socket, a clock or a task; everything can be replayed in a test.

pub(crate) mod alarms;
pub(crate) mod answer;
pub(crate) mod awaited;
pub(crate) mod changes;
pub(crate) mod complaints;
pub(crate) mod cookie;
pub(crate) mod credential;
pub(crate) mod descriptors;
pub(crate) mod failure;
pub(crate) mod feed;
pub(crate) mod foreign;
pub(crate) mod forwarded;
pub(crate) mod handshakes;
pub(crate) mod ledger;
pub(crate) mod origin;
pub(crate) mod pace;
pub(crate) mod php;
pub(crate) mod question;
pub(crate) mod rate;
pub(crate) mod repeats;
pub(crate) mod span;
pub(crate) mod stall;
pub(crate) mod token;
pub(crate) mod trace;
pub(crate) mod turns;
pub(crate) mod uri;
