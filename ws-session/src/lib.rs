//! Users, sessions, connections and the bindings between them.
//!
//! A *connection* is one WebSocket; a *user* is who it acts for; a *session* ties the connections
//! of one browser together. The crate answers which connections a push goes to, whether a cookie
//! belongs to a session, and how many bytes may wait for a slow peer:
//!
//! - [`ConnectionId`], [`UserId`], [`SessionId`] name them, [`SessionToken`] is the secret in the
//!   cookie;
//! - [`Sessions`] knows the sessions that were issued, and a [`SessionStore`] keeps them when the
//!   server is gone;
//! - [`Registry`] holds the open connections, finds them by connection, user or session, and knows
//!   since when each user is there;
//! - [`Outbound`] holds what the kernel has not yet taken of one connection's messages.
//!
//! Everything here is plain data owned by one task: no sockets, no clock, no randomness, no locks.
//! Time and random bytes are arguments, so that whatever happens can be repeated in a test.
//!
//! # Examples
//!
//! ```
//! use std::time::SystemTime;
//!
//! use ws_session::{Binding, ConnectionIds, Registry, SessionToken, Target, UserId};
//!
//! let now = SystemTime::now();
//! let mut ids = ConnectionIds::new(7);
//! let mut registry = Registry::new();
//! let alice = UserId::new("alice")?;
//! let session = SessionToken::from_random([1; 32]).id();
//! for tab in ["first tab", "second tab"] {
//!     let binding = Binding { user: alice.clone(), session };
//!     registry.insert_unique(ids.next_id(), binding, tab, now)?;
//! }
//!
//! assert_eq!(registry.presence(&alice).map(|alice| alice.connections), Some(2));
//! let reached: Vec<_> = registry.select(&Target::User(alice)).map(|(_, tab)| *tab).collect();
//! assert_eq!(reached, ["first tab", "second tab"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod hex;
mod id;
mod outbound;
mod packed;
mod registry;
mod sessions;
mod store;
mod target;
mod token;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use id::{
    ConnectionId, ConnectionIds, InvalidConnectionId, InvalidSessionId, InvalidUserId, SessionId,
    UserId,
};
pub use outbound::{Outbound, PushError};
pub use registry::{Binding, Connections, DuplicateConnection, Presence, Registry};
pub use sessions::{Recall, Remembered, Resumed, SessionConfig, Sessions};
pub use store::{
    Changes, InvalidSessionData, MemoryStore, PendingChanges, Purge, SessionData, SessionQuery,
    SessionRecord, SessionStore, StoreError, StoreFuture, from_millis, to_millis,
};
pub use target::Target;
pub use token::{InvalidSessionToken, SessionToken};
