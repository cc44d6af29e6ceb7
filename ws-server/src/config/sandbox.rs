//! What a command may not do, and how much of the host it may use.

use std::path::PathBuf;
use std::time::Duration;

use super::callback::CallbackSection;
use super::parse;
use super::raw::{RawKind, RawValue};
use super::reader::Reader;
use super::units::{DAY, SECOND};

/// What a command may not do, and how much of the host it may use: settings of `[app]` and of
/// `[validate]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sandbox {
    /// Working directory; `None` is the server's.
    pub dir: Option<PathBuf>,
    /// Permissions that files do not get which it makes; `None` is what the server's umask says.
    pub umask: Option<u32>,
    /// How much it yields to others; `None` is as much as the server.
    pub nice: Option<u8>,
    /// Whether it cannot gain privileges.
    pub no_new_privs: bool,
    /// Processes: of the run with a control group, of the user without; `None` is any number.
    pub max_processes: Option<u64>,
    /// Bytes of memory: of the run with a control group, of each process without.
    pub max_memory: Option<u64>,
    /// Bytes of a file that it writes.
    pub max_file_size: Option<u64>,
    /// Descriptors of each process.
    pub max_open_files: Option<u64>,
    /// CPU time of each process; the system counts it in seconds.
    pub max_cpu_time: Option<Duration>,
    /// Where each run has a control group of its own; `None` is nowhere.
    pub cgroup: Option<CgroupPlace>,
    /// What it may read; with this or one of the next two, it reaches nothing else.
    pub landlock_read: Vec<PathBuf>,
    /// What it may read and execute.
    pub landlock_execute: Vec<PathBuf>,
    /// What it may read and write.
    pub landlock_write: Vec<PathBuf>,
}

impl Sandbox {
    /// Tells whether its files are limited to those that are listed.
    pub fn has_landlock(&self) -> bool {
        let lists = [
            &self.landlock_read,
            &self.landlock_execute,
            &self.landlock_write,
        ];
        lists.into_iter().any(|paths| !paths.is_empty())
    }
}

/// Where control groups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupPlace {
    /// In the server's own, which the service manager has delegated.
    Own,
    /// In this directory.
    Dir(PathBuf),
}

/// More than any host has, and what arithmetic may still be done with.
const MOST_BYTES: usize = 1 << 40;

pub(super) fn read(reader: &mut Reader<'_>, section: CallbackSection) -> Sandbox {
    let whole = |number: usize| u64::try_from(number).expect("no platform has wider addresses");
    let count = |value: &RawValue, min, max| parse::number(value, min, max).map(whole);
    let size = |value: &RawValue, min| parse::size(value, min, MOST_BYTES).map(whole);
    let listed =
        |reader: &mut Reader<'_>, path| reader.list(path, |text, base| Ok(base.join(text)));
    let nice = reader.read(section.path("nice"), |value| {
        let nice = parse::number(value, 0, 19)?;
        Ok(u8::try_from(nice).expect("it is at most 19"))
    });
    let sandbox = Sandbox {
        dir: reader.optional_path(section.path("dir")),
        umask: reader.read_optional(section.path("umask"), parse::mode),
        nice: (nice > 0).then_some(nice),
        no_new_privs: reader.flag(section.path("no_new_privs")),
        max_processes: reader
            .read_optional(section.path("max_processes"), |it| count(it, 1, 1_000_000)),
        max_memory: reader.read_optional(section.path("max_memory"), |it| size(it, 1 << 20)),
        max_file_size: reader.read_optional(section.path("max_file_size"), |it| size(it, 0)),
        max_open_files: reader
            .read_optional(section.path("max_open_files"), |it| count(it, 8, 1_000_000)),
        max_cpu_time: reader.read_optional(section.path("max_cpu_time"), |it| {
            parse::duration(it, SECOND, DAY)
        }),
        cgroup: reader.optional_place(section.path("cgroup")),
        landlock_read: listed(reader, section.path("landlock_read")),
        landlock_execute: listed(reader, section.path("landlock_execute")),
        landlock_write: listed(reader, section.path("landlock_write")),
    };
    if sandbox.has_landlock() && !sandbox.no_new_privs {
        reader.conflict(
            section.path("no_new_privs"),
            "is needed by landlock_read, landlock_execute and landlock_write",
        );
    }
    sandbox
}

impl Reader<'_> {
    /// Reads `own` or a directory.
    fn optional_place(&mut self, path: &'static str) -> Option<CgroupPlace> {
        let is_own =
            |value: &RawValue| matches!(value.kind(), RawKind::Text(text) if text == "own");
        match self.read_optional(path, |value| Ok(is_own(value)))? {
            true => Some(CgroupPlace::Own),
            false => self.optional_path(path).map(CgroupPlace::Dir),
        }
    }
}
