//! Connected pairs: the ends by which this process and a child are tied together.
//!
//! Every descriptor is close-on-exec from its creation on, and blocking: a child that gets an end
//! as its standard input expects that. The end that stays here is made non-blocking by whoever
//! registers it with an event loop, which leaves the other end as it is.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;

/// How many descriptors travel with one datagram at most.
pub(crate) const MAX_DESCRIPTORS: usize = 4;

/// A pipe: the end to read from and the end to write to.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// A pair for a stream of bytes in both directions.
pub(crate) fn stream() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::STREAM)
}

/// A pair for datagrams that arrive whole and in order, and for descriptors with them.
pub(crate) fn datagram() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::SEQPACKET)
}

/// `/dev/null`, for both directions.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into())
}

/// Sends one datagram with descriptors, or fails with [`io::ErrorKind::WouldBlock`].
pub(crate) fn send(
    socket: impl AsFd,
    datagram: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(datagram)],
            &mut ancillary,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives one datagram with its descriptors, or fails with [`io::ErrorKind::WouldBlock`].
///
/// A length of 0 is the end: nobody here sends an empty datagram. One that does not fit is an
/// error.
pub(crate) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    wait: bool,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let received = rustix::io::retry_on_intr(|| {
        let mut whole = [IoSliceMut::new(&mut *buffer)];
        rustix::net::recvmsg(socket.as_fd(), &mut whole, &mut ancillary, flags)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "datagram or descriptors cut off",
        ));
    }
    Ok((received.bytes, descriptors))
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn t54_every_end_is_close_on_exec() {
        let mut ends = Vec::new();
        for (one, other) in [pipe().unwrap(), stream().unwrap(), datagram().unwrap()] {
            ends.extend([one, other]);
        }
        ends.push(null().unwrap());
        for end in &ends {
            let flags = rustix::io::fcntl_getfd(end).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{end:?}");
        }
    }

    #[test]
    fn t54_received_descriptor_is_close_on_exec_and_the_one_that_was_sent() {
        let (here, there) = datagram().unwrap();
        let (read, write) = pipe().unwrap();
        send(&here, b"take this", &[write.as_fd()]).unwrap();
        drop(write);
        let mut buffer = [0; 64];
        let (len, mut descriptors) = receive(&there, &mut buffer, true).unwrap();
        assert_eq!(&buffer[..len], b"take this");
        let received = descriptors.pop().unwrap();
        assert_ne!(received.as_raw_fd(), read.as_raw_fd());
        assert!(
            rustix::io::fcntl_getfd(&received)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        std::fs::File::from(received).write_all(b"hello").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn datagram_that_does_not_fit_is_an_error() {
        let (here, there) = datagram().unwrap();
        send(&here, &[7; 65], &[]).unwrap();
        let error = receive(&there, &mut [0; 64], true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_to_receive_would_block_and_a_closed_peer_is_the_end() {
        let (here, there) = datagram().unwrap();
        let error = receive(&there, &mut [0; 64], false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert_eq!(receive(&there, &mut [0; 64], false).unwrap().0, 0);
    }
}
