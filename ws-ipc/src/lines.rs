//! Lines of a program's output, as they are written.

/// A line is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line exceeds {max} bytes")]
pub struct LineTooLong {
    /// The limit, in bytes.
    pub max: usize,
}

/// Cuts a stream of bytes into lines, wherever the bytes are cut.
///
/// A line ends with a newline, or a carriage return and a newline, which are not part of it. What
/// waits for its newline is all that is held: at most the limit. Nothing is held between lines.
///
/// # Examples
///
/// ```
/// use ws_ipc::LineDecoder;
///
/// let mut lines = Vec::new();
/// let mut decoder = LineDecoder::new(100);
/// decoder.feed(b"one\r\ntw", &mut |line| lines.push(line.to_vec()))?;
/// decoder.feed(b"o\nthree", &mut |line| lines.push(line.to_vec()))?;
/// decoder.finish(&mut |line| lines.push(line.to_vec()));
/// assert_eq!(lines, [&b"one"[..], b"two", b"three"]);
/// # Ok::<(), ws_ipc::LineTooLong>(())
/// ```
#[derive(Debug)]
pub struct LineDecoder {
    partial: Vec<u8>,
    max: usize,
}

impl LineDecoder {
    /// Takes lines of at most `max` bytes; the carriage return before the newline counts.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            partial: Vec::new(),
            max,
        }
    }

    /// Takes the next bytes and hands out each line that they complete.
    ///
    /// # Errors
    ///
    /// [`LineTooLong`] once a line exceeds the limit, whether its newline has come or not. The
    /// lines before it were handed out; the decoder is of no more use.
    pub fn feed(
        &mut self,
        mut chunk: &[u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), LineTooLong> {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if self.partial.is_empty() {
                self.check(line.len())?;
                each(without_return(line));
            } else {
                self.keep(line)?;
                each(without_return(&std::mem::take(&mut self.partial)));
            }
            chunk = rest;
        }
        self.keep(chunk)
    }

    /// Hands out a last line that has no newline.
    pub fn finish(&mut self, each: &mut dyn FnMut(&[u8])) {
        if !self.partial.is_empty() {
            each(&std::mem::take(&mut self.partial));
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        self.check(self.partial.len() + bytes.len())?;
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn check(&self, len: usize) -> Result<(), LineTooLong> {
        match len > self.max {
            true => Err(LineTooLong { max: self.max }),
            false => Ok(()),
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(max: usize, chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Result<(), LineTooLong>) {
        let mut lines = Vec::new();
        let mut decoder = LineDecoder::new(max);
        for chunk in chunks {
            let fed = decoder.feed(chunk, &mut |line| lines.push(line.to_vec()));
            assert!(
                decoder.partial.len() <= max,
                "more is held than a line may have"
            );
            if fed.is_err() {
                return (lines, fed);
            }
        }
        decoder.finish(&mut |line| lines.push(line.to_vec()));
        (lines, Ok(()))
    }

    #[test]
    fn empty_lines_are_lines_and_an_empty_end_is_none() {
        let (lines, end) = decode(10, &[b"\n\r\na\r\r\n"]);
        assert_eq!(lines, [&b""[..], b"", b"a\r"]);
        assert_eq!(end, Ok(()));
    }

    #[test]
    fn t60_a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let (lines, end) = decode(3, &[b"abc\nab", b"cd"]);
        assert_eq!(
            (lines, end),
            (vec![b"abc".to_vec()], Err(LineTooLong { max: 3 }))
        );
        assert_eq!(decode(3, &[b"abcd\n"]).1, Err(LineTooLong { max: 3 }));
    }

    proptest! {
        #[test]
        fn prop_any_cut_gives_the_same_lines_and_holds_no_more_than_one(
            bytes in prop::collection::vec(
                prop_oneof![2 => Just(b'\n'), 1 => Just(b'\r'), 5 => any::<u8>()],
                0..200,
            ),
            mut cuts in prop::collection::vec(0..200_usize, 0..8),
            max in 0..60_usize,
        ) {
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let cut = decode(max, &chunks);
            prop_assert_eq!(&cut, &decode(max, &[&bytes]));
            if cut.1.is_ok() {
                let mut expected: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
                let last = expected.pop().unwrap_or_default();
                let mut expected: Vec<&[u8]> =
                    expected.into_iter().map(without_return).collect();
                expected.extend((!last.is_empty()).then_some(last));
                prop_assert_eq!(cut.0, expected);
            }
        }
    }
}
