//! The reading end of one FIFO.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::directory::{Node, Shared};
use super::error::FifoError;

/// A FIFO that this server made and reads.
///
/// Dropping it removes its name, unless that stands for something else by then.
#[derive(Debug)]
pub struct Fifo {
    directory: Arc<Shared>,
    name: Box<str>,
    path: Arc<Path>,
    node: Node,
}

impl Fifo {
    pub(super) fn new(directory: Arc<Shared>, name: &str, node: Node) -> Self {
        let path = node.place.path().join(name);
        Self {
            directory,
            name: name.into(),
            path: path.into(),
            node,
        }
    }

    /// Returns its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its absolute path, for one who keeps it.
    pub fn shared_path(&self) -> Arc<Path> {
        Arc::clone(&self.path)
    }

    /// Returns its name within the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many bytes writers may leave in it: 65,536, unless this user has so many pipes
    /// that the system makes them smaller.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub fn capacity(&self) -> io::Result<usize> {
        Ok(rustix::pipe::fcntl_getpipe_size(&self.node.file)?)
    }

    /// Returns whether its path still leads to it.
    pub fn is_intact(&self) -> bool {
        self.node.place.is_in_place() && self.node.place.holds(&self.name, self.node.inode)
    }

    /// Waits for bytes and reads them.
    ///
    /// Returns 0 only for an empty `buf`: a FIFO has no end, writers come and go.
    ///
    /// # Errors
    ///
    /// Whatever the system says; none is known to occur.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing was read if it did not return.
    pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.read_ready(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Waits until there seem to be bytes: a reader that lends its buffer to many waits here and
    /// then calls [`read_ready`](Self::read_ready).
    ///
    /// # Errors
    ///
    /// Whatever the system says; none is known to occur.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.node.file.readable().await
    }

    /// As [`readable`](Self::readable), for one who waits for several things at once and keeps no
    /// future of each. Only the latest caller is woken.
    ///
    /// # Errors
    ///
    /// Whatever the system says; none is known to occur.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.node.file.poll_read_ready(cx)
    }

    /// Reads what [`readable`](Self::readable) has seen.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing after all: wait again.
    pub fn read_ready(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.node.file.try_read(buf)
    }

    /// Reads the bytes that are there, whether the runtime knows of them yet or not.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there are none.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        // Not by way of the runtime, which looks at nothing before it has seen an event: whoever
        // empties a FIFO that has lost its name gets no second look.
        Ok(rustix::io::read(&self.node.file, buf)?)
    }

    /// Makes it anew if its path no longer leads to it; does nothing otherwise.
    ///
    /// What writers left in the former one is gone then: [`try_read`](Self::try_read) first. A
    /// partial record in a decoder is best [expired](crate::RecordDecoder::expire).
    ///
    /// # Errors
    ///
    /// As [`FifoDirectory::create`](super::FifoDirectory::create). The former FIFO is still open
    /// then and can be renewed later.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O.
    pub fn renew(&mut self) -> Result<(), FifoError> {
        let mut state = self.directory.lock();
        if !self.is_intact() {
            self.node = self.directory.make(&mut state, &self.name)?;
        }
        Ok(())
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let mut state = self.directory.lock();
        state.live.remove(&*self.name);
        self.node.place.unlink_if(&self.name, self.node.inode);
    }
}
