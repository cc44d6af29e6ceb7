//! `[fifo]`: named pipes.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::account;
use super::fault::Problem;
use super::parse;
use super::reader::Reader;

/// What a pipe takes whole; longer writes of several writers interleave.
const PIPE_BUF: usize = 4096;

/// `[fifo]`: named pipes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FifoConfig {
    /// Whether there are any.
    pub enabled: bool,
    /// Their directory.
    pub dir: PathBuf,
    /// Whether there are any beside the global one.
    pub user_fifos: bool,
    /// Whose these are.
    pub per: FifoPer,
    /// How they are named.
    pub naming: FifoNaming,
    /// Which records are run.
    pub records: FifoRecords,
    /// What ends a record.
    pub framing: FifoFraming,
    /// Bytes of a record with its end.
    pub max_record: usize,
    /// Records that are taken from each in a second; `None` is any number.
    pub rate: Option<NonZeroU32>,
    /// Permissions of a FIFO.
    pub mode: u32,
    /// Group of the FIFOs; `None` is that of the server.
    pub group: Option<u32>,
}

impl FifoConfig {
    /// Whether each connection has one.
    pub fn has_connections(&self) -> bool {
        self.user_fifos && self.per != FifoPer::User
    }

    /// Whether each user with a connection has one.
    pub fn has_users(&self) -> bool {
        self.user_fifos && self.per != FifoPer::Connection
    }
}

/// Whose FIFOs there are beside the global one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoPer {
    /// One for each connection.
    Connection,
    /// One for each user who has a connection.
    User,
    /// Both.
    Both,
}

/// How FIFOs are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoNaming {
    /// So that different ids have different names.
    Default,
    /// As CarbonPHP names them.
    CarbonPhp,
}

/// Which records of users' and connections' FIFOs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoRecords {
    /// Those that are URIs.
    Uri,
    /// All: what is not a URI is a message as the client may send one.
    Any,
}

/// What ends a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FifoFraming {
    /// A newline.
    Lines,
    /// These bytes, at least one.
    Delimiter(Vec<u8>),
}

pub(super) fn read(reader: &mut Reader<'_>, state_dir: &Path) -> FifoConfig {
    let by_delimiter = reader.choice("fifo.framing", &[("lines", false), ("delimiter", true)]);
    let delimiter = reader.read_optional("fifo.delimiter", |value| {
        let text = parse::text(value)?;
        if (1..=256).contains(&text.len()) {
            return Ok(text.into_bytes());
        }
        Err(Problem::malformed(text, "a delimiter of 1 to 256 bytes"))
    });
    match (by_delimiter, reader.is_given("fifo.delimiter")) {
        (true, false) => {
            reader.conflict("fifo.delimiter", "is needed by framing = \"delimiter\"");
        }
        (false, true) => {
            reader.conflict(
                "fifo.delimiter",
                "has no effect without framing = \"delimiter\"",
            );
        }
        _ => {}
    }
    let longest = if by_delimiter { 16 << 20 } else { PIPE_BUF };
    let mode = reader.read("fifo.mode", parse::mode);
    if !reader.flag("fifo.insecure_world_writable") && mode & 0o002 != 0 {
        reader.conflict(
            "fifo.mode",
            "lets every user of the host push; if that is meant, set insecure_world_writable = true",
        );
    }
    if mode & 0o600 != 0o600 {
        reader.conflict(
            "fifo.mode",
            "the owner, who is the server, needs to read and write",
        );
    }
    FifoConfig {
        enabled: reader.flag("fifo.enabled"),
        dir: reader
            .optional_path("fifo.dir")
            .unwrap_or_else(|| state_dir.join("fifo")),
        user_fifos: reader.flag("fifo.user_fifos"),
        per: reader.choice(
            "fifo.per",
            &[
                ("connection", FifoPer::Connection),
                ("user", FifoPer::User),
                ("both", FifoPer::Both),
            ],
        ),
        naming: reader.choice(
            "fifo.naming",
            &[
                ("default", FifoNaming::Default),
                ("carbonphp", FifoNaming::CarbonPhp),
            ],
        ),
        records: reader.choice(
            "fifo.records",
            &[("uri", FifoRecords::Uri), ("any", FifoRecords::Any)],
        ),
        framing: match (by_delimiter, delimiter) {
            (true, Some(delimiter)) => FifoFraming::Delimiter(delimiter),
            _ => FifoFraming::Lines,
        },
        max_record: reader.size("fifo.max_record", 2, longest),
        rate: reader.rate("fifo.rate"),
        mode,
        group: reader.read_optional("fifo.group", account::group),
    }
}
