//! Notice of removed and replaced names in a directory.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::place::Place;

/// An inotify instance.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

/// What may no longer be as it was.
#[derive(Debug)]
pub(super) enum Affected {
    Names(BTreeSet<String>),
    /// The directory was moved or removed, or events were lost.
    Everything,
}

impl Watch {
    pub(super) fn new(place: &Place) -> io::Result<Self> {
        let watch = Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        watch.add(place)?;
        Ok(watch)
    }

    /// Watches a directory, besides the ones watched before.
    pub(super) fn add(&self, place: &Place) -> io::Result<()> {
        // A name that appears is of no interest: it was free, so its loss was told before.
        let flags = WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // By descriptor, so that this is the directory that was checked.
        let by_descriptor = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
        match inotify::add_watch(&self.0, by_descriptor, flags) {
            Err(Errno::NOENT) => inotify::add_watch(&self.0, place.path(), flags)?,
            result => result?,
        };
        Ok(())
    }

    /// Registers with the current runtime, to know when there are events.
    #[expect(
        deprecated,
        reason = "a borrowed descriptor stays open, which is what `register` asks"
    )]
    pub(super) fn register(&self) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
        AsyncFd::with_interest(self.0.as_fd(), Interest::READABLE)
    }

    /// Takes all events that are there.
    pub(super) fn drain(&self) -> io::Result<Affected> {
        let mut buf = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(&self.0, &mut buf);
        let mut names = BTreeSet::new();
        let mut everything = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if everything => return Ok(Affected::Everything),
                Err(Errno::AGAIN) => return Ok(Affected::Names(names)),
                Err(error) => return Err(error.into()),
            };
            let of_directory =
                ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::QUEUE_OVERFLOW;
            everything |= event.events().intersects(of_directory);
            // Names that are not UTF-8 are none of ours.
            if let Some(Ok(name)) = event.file_name().map(|name| name.to_str()) {
                names.insert(name.to_owned());
            }
        }
    }
}
