//! Whom a message, a run or a close is for.

/// Whom a message is for.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// To the connections of this user
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) user: Option<String>,

    /// To the connections of this session
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) session: Option<String>,

    /// To this connection
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) connection: Option<String>,
}

/// Whom a message is for: several of one kind, or without any of them everybody.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Targets {
    /// To the connections of this user; may be repeated
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) user: Vec<String>,

    /// To the connections of this session; may be repeated
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) session: Vec<String>,

    /// To this connection; may be repeated
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) connection: Vec<String>,

    /// But not to the connections of this user
    #[arg(long, value_name = "ID", group = "except")]
    pub(crate) except_user: Option<String>,

    /// But not to the connections of this session
    #[arg(long, value_name = "ID", group = "except")]
    pub(crate) except_session: Option<String>,

    /// But not to this connection
    #[arg(long, value_name = "ID", group = "except")]
    pub(crate) except_connection: Option<String>,
}

impl Targets {
    /// The kind of those that are named, and their ids, at least one.
    pub(crate) fn named(&self) -> Option<(&'static str, &[String])> {
        let kinds = [
            ("user", &self.user[..]),
            ("session", &self.session),
            ("connection", &self.connection),
        ];
        kinds.into_iter().find(|(_, ids)| !ids.is_empty())
    }
}
