//! What each verb does.

pub(crate) mod bench;
pub(crate) mod carbonphp;
pub(crate) mod cert;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod kick;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod run;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod sessions;
pub(crate) mod shim;
pub(crate) mod status;
mod tls;
pub(crate) mod top;
