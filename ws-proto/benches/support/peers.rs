//! What it takes to drive the other implementations without a socket.

use std::io::{self, Read, Write};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is always ready: it reads the same bytes again and again, and copies what is
/// written to a buffer, as a kernel does.
///
/// A read ends where the bytes end, so that each round begins with a read, as after a wait.
pub(crate) struct Wire {
    bytes: Vec<u8>,
    at: usize,
    written: Vec<u8>,
}

/// The size of the buffer that is written to; what comes after begins anew.
const WRITTEN_SIZE: usize = 2 * 1024 * 1024;

impl Wire {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            at: 0,
            written: Vec::with_capacity(WRITTEN_SIZE),
        }
    }

    fn next(&mut self, max: usize) -> &[u8] {
        if self.at == self.bytes.len() {
            self.at = 0;
        }
        let start = self.at;
        self.at += max.min(self.bytes.len() - start);
        &self.bytes[start..self.at]
    }

    fn room_for(&mut self, len: usize) {
        if self.written.len() + len > WRITTEN_SIZE {
            self.written.clear();
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next(buffer.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room_for(bytes.len());
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.room_for(len);
        for slice in slices {
            self.written.extend_from_slice(slice);
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buffer.put_slice(self.next(buffer.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a future over a [`Wire`], which never waits, without the cost of a runtime.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a wire is always ready"),
    }
}
