//! Finding the end of a head, and refusing what no honest head contains, in linear time.

use super::{BadRequest, Rejection};

/// Limits of the head of a request or response.
///
/// They bound the memory of a connection that is not yet one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The largest head in bytes, its empty line included, default 16 KiB.
    pub max_head_size: usize,
    /// The largest request target in bytes, default 8 KiB.
    pub max_target_size: usize,
    /// The largest number of header lines, default 64.
    pub max_header_count: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            max_head_size: 16 * 1024,
            max_target_size: 8 * 1024,
            max_header_count: 64,
        }
    }
}

/// Collects a head and looks at each of its bytes once, however it is cut.
///
/// The rules here are about bytes and lines; they are stricter than the parser that follows, which
/// tolerates a bare line feed.
#[derive(Debug)]
pub(super) struct Scan {
    limits: HeadLimits,
    head: Vec<u8>,
    line_start: usize,
    /// Lines that are complete, the first included.
    line_count: usize,
    first_line_len: usize,
    /// Spaces met in the first line: the target lies between the first and the second.
    space_count: usize,
    target_size: usize,
}

impl Scan {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            head: Vec::new(),
            line_start: 0,
            line_count: 0,
            first_line_len: 0,
            space_count: 0,
            target_size: 0,
        }
    }

    /// Takes bytes up to the end of the head and returns how many that were, once it is there;
    /// `None` if all were taken and more are needed.
    pub(super) fn feed(&mut self, input: &[u8]) -> Result<Option<usize>, Rejection> {
        // Room for what came and no more than may come: the head grows by what was received.
        self.head
            .reserve(input.len().min(self.limits.max_head_size - self.head.len()));
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if self.head.len() == self.limits.max_head_size {
                return Err(Rejection::HeadTooLarge {
                    max: self.limits.max_head_size,
                });
            }
            at += 1;
            if self.take(byte)? {
                return Ok(Some(at));
            }
            at += self.take_plain(&input[at..]);
        }
        Ok(None)
    }

    /// Takes the bytes within a header line about which there is nothing to be said, and returns
    /// their number.
    fn take_plain(&mut self, input: &[u8]) -> usize {
        let is_within = self.line_count > 0 && self.head.len() > self.line_start;
        if !is_within || self.head.last() == Some(&b'\r') {
            return 0;
        }
        let room = self.limits.max_head_size - self.head.len();
        let is_plain = |byte: &u8| *byte >= b' ' && *byte != 0x7F;
        let plain = input.iter().take(room).take_while(|byte| is_plain(byte));
        let count = plain.count();
        self.head.extend_from_slice(&input[..count]);
        count
    }

    /// The first line without its end, once it is complete.
    pub(super) fn first_line(&self) -> Option<&[u8]> {
        (self.line_count > 0).then(|| &self.head[..self.first_line_len])
    }

    pub(super) fn header_count(&self) -> usize {
        self.line_count.saturating_sub(1)
    }

    pub(super) fn into_head(self) -> Vec<u8> {
        self.head
    }

    /// Takes one byte; `true` if it ends the head.
    fn take(&mut self, byte: u8) -> Result<bool, Rejection> {
        let at = self.head.len();
        let after_cr = self.head.last() == Some(&b'\r');
        self.head.push(byte);
        // RFC 9112 §2.2: a bare CR or LF is how one parser is made to see what another does not.
        if after_cr != (byte == b'\n') {
            return Err(BadRequest::BareLineEnd.into());
        }
        match byte {
            b'\n' => return self.end_line(at - 1),
            b'\r' => return Ok(false),
            b'\t' if self.line_count > 0 => {}
            0..=0x1F | 0x7F => return Err(BadRequest::ControlByte.into()),
            _ => {}
        }
        if self.line_count == 0 {
            self.measure_target(byte)?;
        } else if at == self.line_start {
            // RFC 9112 §5.2: line folding is obsolete and must be refused.
            if byte == b' ' || byte == b'\t' {
                return Err(BadRequest::FoldedHeader.into());
            }
            if self.header_count() == self.limits.max_header_count {
                return Err(Rejection::TooManyHeaders {
                    max: self.limits.max_header_count,
                });
            }
        }
        Ok(false)
    }

    fn end_line(&mut self, end: usize) -> Result<bool, Rejection> {
        let is_empty = end == self.line_start;
        if self.line_count == 0 {
            if is_empty {
                return Err(BadRequest::NotHttp.into());
            }
            self.first_line_len = end;
        }
        if !is_empty {
            self.line_count += 1;
            self.line_start = self.head.len();
        }
        Ok(is_empty)
    }

    fn measure_target(&mut self, byte: u8) -> Result<(), Rejection> {
        if byte == b' ' {
            self.space_count += 1;
        } else if self.space_count == 1 {
            self.target_size += 1;
            if self.target_size > self.limits.max_target_size {
                return Err(Rejection::TargetTooLong {
                    max: self.limits.max_target_size,
                });
            }
        }
        Ok(())
    }
}
