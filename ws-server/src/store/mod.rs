//! Where sessions are kept beyond the life of the server, and the databases for that.

mod address;
mod connect;

pub use address::{DatabaseKind, DatabaseUrl, StoreAddress};
pub use connect::ConnectError;
