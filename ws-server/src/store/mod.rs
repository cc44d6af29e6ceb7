//! Where sessions are kept beyond the life of the server, and the databases for that.

mod address;
mod connect;
mod keeper;
mod open;
mod outage;
mod redis;
mod sql;
#[cfg(test)]
mod tests;

pub(crate) use address::EXPECTED;
pub use address::{DatabaseKind, DatabaseUrl, StoreAddress, without_secrets};
pub use connect::ConnectError;
pub(crate) use connect::{Client, ConnectSettings, open_sqlite_to_read};
pub(crate) use keeper::{Keeper, NoAnswer};
pub use open::StoreOpenError;
pub(crate) use open::open;
pub(crate) use outage::Outage;
