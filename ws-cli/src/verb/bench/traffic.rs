//! What a mode does with its open connections.

use std::io::{self, ErrorKind, IoSlice};

use super::connection::Fault;
use super::stats::Figures;
use super::stream::Stream;

/// The part of a mode that is about messages. A worker owns one, and a [`Peer`](Self::Peer) for
/// each of its connections. Times are nanoseconds of the run's clock.
pub(super) trait Traffic: Send {
    /// What is known of one connection.
    type Peer: Send;

    /// The peer of the connection with this number.
    fn peer(&self, id: u32) -> Self::Peer;

    /// Begins, once for each connection, when all are open.
    fn begin(&mut self, _peer: &mut Self::Peer, _now: u64) {}

    /// Measures from now on.
    fn begin_measuring(&mut self);

    /// Begins nothing new, and measures no more.
    fn stop(&mut self);

    /// Takes a part of a message.
    fn payload(&mut self, peer: &mut Self::Peer, piece: &[u8]) -> Result<(), Fault>;

    /// The message of which the parts were taken is complete.
    fn end_of_message(&mut self, peer: &mut Self::Peer, now: u64) -> Result<(), Fault>;

    /// Takes bytes that are not in frames.
    fn raw(&mut self, _peer: &mut Self::Peer, _bytes: &[u8], _now: u64) -> Result<(), Fault> {
        Ok(())
    }

    /// Writes what there is to be written, beginning with `control`: frames that go between
    /// messages.
    fn flush(
        &mut self,
        _peer: &mut Self::Peer,
        control: &mut Vec<u8>,
        stream: &mut Stream,
    ) -> io::Result<()> {
        write_control(control, stream)
    }

    /// Messages that wait for the next connection in turn. The caller finds one for each, of which
    /// nothing is awaited, and gives it the [turn](Self::take_turn).
    fn take_waiting(&mut self) -> u32 {
        0
    }

    /// Takes a turn: one more message is to be written.
    fn take_turn(&mut self, _peer: &mut Self::Peer, _now: u64) {}

    /// Tells whether the load has come to flow evenly: with many messages in flight, the first
    /// replies come long after the first messages.
    fn is_warm(&self) -> bool {
        true
    }

    /// Tells whether nothing is awaited from it.
    fn is_settled(&self, _peer: &Self::Peer) -> bool {
        true
    }

    /// Tells whether it has done its share of a run that ends by a count.
    fn is_done(&self, _peer: &Self::Peer) -> bool {
        false
    }

    /// The connection is gone.
    fn lost(&mut self, _peer: &Self::Peer) {}

    /// All events of one turn of the loop were handled.
    fn turn_ended(&mut self) {}

    fn figures(&mut self) -> &mut Figures;
}

/// Connections that say nothing; what they hear is only counted.
#[derive(Debug, Default)]
pub(super) struct Silence {
    figures: Figures,
}

impl Traffic for Silence {
    type Peer = ();

    fn peer(&self, _id: u32) {}

    fn begin_measuring(&mut self) {
        self.figures.begin_measuring();
    }

    fn stop(&mut self) {}

    fn payload(&mut self, _peer: &mut (), piece: &[u8]) -> Result<(), Fault> {
        self.figures.payload_bytes += piece.len() as u64;
        Ok(())
    }

    fn end_of_message(&mut self, _peer: &mut (), _now: u64) -> Result<(), Fault> {
        self.figures.messages += 1;
        Ok(())
    }

    fn figures(&mut self) -> &mut Figures {
        &mut self.figures
    }
}

/// Writes `control` as far as the stream takes it.
pub(super) fn write_control(control: &mut Vec<u8>, stream: &mut Stream) -> io::Result<()> {
    while !control.is_empty() {
        match stream.write(&[IoSlice::new(control)]) {
            Ok(count) => drop(control.drain(..count)),
            Err(error) if is_later(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Tells whether the next readiness may bring it.
pub(super) fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
