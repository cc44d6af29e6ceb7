//! To whom a message goes.

use crate::{ConnectionId, SessionId, UserId};

/// To whom a message goes.
///
/// A target may be made of others: [`AnyOf`](Self::AnyOf) and [`Except`](Self::Except) nest as deep
/// as whoever makes them lets them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every connection.
    All,
    /// Every connection of one user.
    User(UserId),
    /// Every connection of one session.
    Session(SessionId),
    /// One connection.
    Connection(ConnectionId),
    /// Every connection that any of these reaches, each once.
    AnyOf(Vec<Self>),
    /// Every connection that the first reaches and the second does not.
    Except(Box<Self>, Box<Self>),
}

impl Target {
    /// Leaves out what `spared` reaches.
    ///
    /// # Examples
    ///
    /// ```
    /// use ws_session::{Target, UserId};
    ///
    /// let alice = UserId::new("alice")?;
    /// let all_but_alice = Target::All.except(Target::User(alice));
    /// # Ok::<(), ws_session::InvalidUserId>(())
    /// ```
    #[must_use]
    pub fn except(self, spared: Self) -> Self {
        Self::Except(Box::new(self), Box::new(spared))
    }

    /// Tells whether it reaches a connection that acts for this user in this session. Without a
    /// user, it is reached by its session and its id only.
    pub fn contains(
        &self,
        connection: ConnectionId,
        user: Option<&UserId>,
        session: SessionId,
    ) -> bool {
        match self {
            Self::All => true,
            Self::User(own) => user == Some(own),
            Self::Session(own) => *own == session,
            Self::Connection(own) => *own == connection,
            Self::AnyOf(targets) => targets
                .iter()
                .any(|target| target.contains(connection, user, session)),
            Self::Except(whom, spared) => {
                whom.contains(connection, user, session)
                    && !spared.contains(connection, user, session)
            }
        }
    }
}
