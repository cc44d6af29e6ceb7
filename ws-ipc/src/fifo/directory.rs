//! The directory of FIFOs as the server uses it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe::Receiver;

use super::error::FifoError;
use super::name::check_name;
use super::place::{Inode, Place};
use super::reader::Fifo;
use super::watch::{Affected, Watch};

/// How FIFOs and their directory are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FifoOptions {
    /// Permissions of the directory where it has to be made, whatever the umask; 0750 by default.
    pub dir_mode: u32,
    /// Permissions of the FIFOs, whatever the umask; 0620 by default. Whoever may write acts as
    /// the FIFO's user; whoever may read can take records away.
    pub fifo_mode: u32,
    /// The group of directory and FIFOs; `None`, the default, leaves the one they get. Unless it
    /// runs as root, the server must be a member.
    pub group: Option<u32>,
    /// Accepts a directory that its group or everybody may write to, or one below a directory
    /// that everybody may move things in. Others can then remove FIFOs and put their own in their
    /// place, which the server notices and does not read. `false` by default.
    pub insecure_dir: bool,
    /// Takes permissions beyond `dir_mode` away from a directory of ours that is there already.
    /// `false` by default.
    pub tighten_dir: bool,
}

impl Default for FifoOptions {
    fn default() -> Self {
        Self {
            dir_mode: 0o750,
            fifo_mode: 0o620,
            group: None,
            insecure_dir: false,
            tighten_dir: false,
        }
    }
}

/// The directory that holds a server's FIFOs.
///
/// Clones are handles to the same directory. Its lock is held until the last handle and the last
/// [`Fifo`] are gone.
#[derive(Clone, Debug)]
pub struct FifoDirectory {
    shared: Arc<Shared>,
}

impl FifoDirectory {
    /// Opens the directory, making it and its parents if they are not there.
    ///
    /// Under its lock, FIFOs of ours that a former run left are removed: those of this user whose
    /// name ends in `.fifo`. Programs that wait for a reader of them get `EPIPE`.
    ///
    /// # Errors
    ///
    /// [`FifoError`] if the directory cannot be made, is a symbolic link, belongs to somebody
    /// else, may be written by others, or is in use by another server.
    pub fn open(path: impl AsRef<Path>, options: FifoOptions) -> Result<Self, FifoError> {
        let path = path.as_ref();
        // Without a slash at its end, which would have a symbolic link followed.
        let path: PathBuf = std::path::absolute(path)
            .map_err(|source| FifoError::io("find directory", path, source))?
            .components()
            .collect();
        let place = Place::open(&path, &options)?;
        let watch = Watch::new(&place)
            .inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot watch directory of FIFOs");
            })
            .ok();
        let state = State {
            place: Arc::new(place),
            live: HashMap::new(),
            warned: false,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                options,
                watch,
                state: Mutex::new(state),
            }),
        })
    }

    /// Returns the directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Makes a FIFO and registers it with the current runtime.
    ///
    /// A FIFO of ours that no [`Fifo`] stands for is replaced. A regular file of ours, which
    /// somebody wrote while no FIFO was there, is renamed to `NAME.lost-TIME` with a warning.
    ///
    /// # Errors
    ///
    /// [`FifoError::Exists`] if there is a [`Fifo`] of that name, [`FifoError::Foreign`] if
    /// something else is in its place, which then stays as it is, and others as they say.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O.
    pub fn create(&self, name: &str) -> Result<Fifo, FifoError> {
        check_name(name)?;
        let mut state = self.shared.lock();
        if state.live.contains_key(name) {
            return Err(FifoError::Exists {
                path: state.place.path().join(name),
            });
        }
        let node = self.shared.make(&mut state, name)?;
        Ok(Fifo::new(self.shared.clone(), name, node))
    }

    /// Waits until FIFOs are no longer where they were made: deleted, renamed, replaced, or gone
    /// with their directory. Returns their names, for [`Fifo::renew`].
    ///
    /// One task calls it at a time. Where the system has no watches left, which
    /// [`open`](Self::open) warned of, it never returns; [`Fifo::is_intact`] still tells.
    ///
    /// # Errors
    ///
    /// Whatever reading the watch or registering it with the current runtime says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no change is lost.
    pub async fn changed(&self) -> io::Result<Vec<String>> {
        let Some(watch) = &self.shared.watch else {
            return std::future::pending().await;
        };
        let events = watch.register()?;
        loop {
            let mut guard = events.readable().await?;
            let affected = watch.drain()?;
            guard.clear_ready();
            let lost = self.shared.lost(&affected);
            if !lost.is_empty() {
                return Ok(lost);
            }
        }
    }
}

/// What the directory and its FIFOs have in common.
#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    options: FifoOptions,
    watch: Option<Watch>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// The directory that the path led to when a FIFO was last made.
    place: Arc<Place>,
    pub(super) live: HashMap<String, Inode>,
    /// Small FIFOs were warned of.
    warned: bool,
}

/// A FIFO that was made, and where.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) file: Receiver,
    pub(super) inode: Inode,
    pub(super) place: Arc<Place>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done by a panic: the map is changed last.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a FIFO and enters it in the map, over a former one of that name.
    pub(super) fn make(&self, state: &mut State, name: &str) -> Result<Node, FifoError> {
        if !state.place.is_in_place() {
            self.reopen(state)?;
        }
        let place = state.place.clone();
        // Only where others may rename could a FIFO of ours stand under another name.
        let insecure = self.options.insecure_dir;
        let is_live = |inode| insecure && state.live.values().any(|live| *live == inode);
        let (file, inode) = place.make(name, &self.options, is_live)?;
        self.check_capacity(state, &file, name);
        let file = Receiver::from_owned_fd(file).map_err(|source| {
            place.unlink_if(name, inode);
            FifoError::io("register FIFO", place.path().join(name), source)
        })?;
        state.live.insert(name.to_owned(), inode);
        Ok(Node { file, inode, place })
    }

    /// Makes the directory anew after somebody moved or removed it.
    fn reopen(&self, state: &mut State) -> Result<(), FifoError> {
        let place = Place::open(&self.path, &self.options)?;
        tracing::warn!(path = %self.path.display(), "directory of FIFOs had vanished, made anew");
        if let Some(Err(error)) = self.watch.as_ref().map(|watch| watch.add(&place)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot watch directory of FIFOs");
        }
        state.place = Arc::new(place);
        Ok(())
    }

    fn check_capacity(&self, state: &mut State, file: &OwnedFd, name: &str) {
        let capacity = rustix::pipe::fcntl_getpipe_size(file).unwrap_or(usize::MAX);
        if capacity < SMALL_CAPACITY && !state.warned {
            state.warned = true;
            let path = self.path.join(name);
            tracing::warn!(
                path = %path.display(),
                capacity,
                "FIFO is small: fs.pipe-user-pages-soft is used up"
            );
        }
    }

    /// Returns which of our FIFOs are not where they were made.
    fn lost(&self, affected: &Affected) -> Vec<String> {
        let state = self.lock();
        let in_place = state.place.is_in_place();
        let is_lost = |name: &str, inode| !in_place || !state.place.holds(name, inode);
        match affected {
            Affected::Names(names) => {
                let live = names
                    .iter()
                    .filter_map(|name| state.live.get_key_value(name));
                let lost = live.filter(|(name, inode)| is_lost(name, **inode));
                lost.map(|(name, _)| name.clone()).collect()
            }
            Affected::Everything => {
                let lost = state
                    .live
                    .iter()
                    .filter(|(name, inode)| is_lost(name, **inode));
                lost.map(|(name, _)| name.clone()).collect()
            }
        }
    }
}

/// Two records of `PIPE_BUF`: below that, writers wait for each other.
const SMALL_CAPACITY: usize = 2 * 4096;
