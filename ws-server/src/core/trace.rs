//! Trace context: one id through the log, the callback's variables and the reply.
//!
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/), version 00.

use std::fmt;

/// Where a run stands in a trace; written as `traceparent` wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    id: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

/// The flag that says that the caller may have recorded the trace (§3.2.2.5.1).
const SAMPLED: u8 = 1;

impl Trace {
    /// Begins a trace, or a span in that of the handshake. `random` are random bytes.
    pub(crate) fn begin(parent: Option<Self>, random: [u8; 24]) -> Self {
        let [id @ .., _, _, _, _, _, _, _, _] = random;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, span @ ..] = random;
        match parent {
            Some(parent) => Self { span, ..parent },
            None => Self {
                id,
                span,
                flags: SAMPLED,
            },
        }
    }

    /// A span in the same trace. `random` are random bytes.
    pub(crate) fn child(self, random: [u8; 8]) -> Self {
        Self {
            span: random,
            ..self
        }
    }

    /// The same, recorded or not.
    pub(crate) fn sampled(self, is_sampled: bool) -> Self {
        let flags = match is_sampled {
            true => self.flags | SAMPLED,
            false => self.flags & !SAMPLED,
        };
        Self { flags, ..self }
    }

    pub(crate) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The id of the trace, as bytes.
    #[cfg(any(test, feature = "otel"))]
    pub(crate) fn id_bytes(self) -> [u8; 16] {
        self.id
    }

    /// The id of the span.
    pub(crate) fn span(self) -> [u8; 8] {
        self.span
    }

    /// Reads a `traceparent` header; `None` if it is none, which makes the trace begin anew.
    pub(crate) fn parse(header: &[u8]) -> Option<Self> {
        let text = str::from_utf8(header).ok()?.trim_ascii();
        let (version, rest) = text.split_once('-')?;
        let (id, rest) = rest.split_once('-')?;
        let (span, rest) = rest.split_once('-')?;
        let [version] = hex(version)?;
        // §3.2.4: a later version may have more fields, which begin with a hyphen; ff is none.
        let flags = match version {
            0 => rest,
            0xff => return None,
            _ => rest.split('-').next()?,
        };
        let (id, span, [flags]) = (hex(id)?, hex(span)?, hex(flags)?);
        let is_valid = id != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { id, span, flags })
    }

    /// The id that all spans of the trace share.
    pub(crate) fn id(&self) -> impl fmt::Display + use<> {
        Hex(self.id)
    }
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampling {
    /// Of the ids, halved, those below it are.
    bound: u64,
    /// What has a caller who is trusted is recorded as the caller says.
    parent_based: bool,
}

impl Sampling {
    /// Records that part of all traces.
    pub(crate) fn new(ratio: f64, parent_based: bool) -> Self {
        // As OpenTelemetry's SDKs do it, so that all who see a trace decide alike. 2^63 as a float
        // is exact, and the conversion saturates.
        let bound = (ratio * (1_u64 << 63) as f64) as u64;
        Self {
            bound,
            parent_based,
        }
    }

    /// Whether what a trusted caller has begun goes on as the caller says.
    pub(crate) fn follows_callers(self) -> bool {
        self.parent_based
    }

    /// Whether a trace that begins here is recorded. The id of another's says nothing: whoever
    /// chooses the id could choose the answer.
    pub(crate) fn decides(self, trace: Trace) -> bool {
        let [_, _, _, _, _, _, _, _, low @ ..] = trace.id;
        u64::from_be_bytes(low) >> 1 < self.bound
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, span, flags } = *self;
        write!(f, "00-{}-{}-{flags:02x}", Hex(id), Hex(span))
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads so many bytes in lower-case hexadecimal digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * N || !text.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn span_in_the_trace_of_the_handshake_has_its_id_and_flags() {
        let parent = Trace::parse(HEADER.as_bytes()).unwrap();
        let span = Trace::begin(Some(parent), [7; 24]);
        assert_eq!(span.id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            span.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0707070707070707-01"
        );
        let unsampled = HEADER.replace("-01", "-00");
        let parent = Trace::parse(unsampled.as_bytes());
        assert!(Trace::begin(parent, [7; 24]).to_string().ends_with("-00"));
    }

    #[test]
    fn header_that_is_none_begins_a_trace_of_its_own() {
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Trace::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-else";
        assert!(Trace::parse(later.as_bytes()).is_some());
    }

    fn caller(flags: &str) -> Trace {
        Trace::parse(HEADER.replace("-01", flags).as_bytes()).unwrap()
    }

    #[test]
    fn only_the_flag_of_sampling_is_changed() {
        let other = caller("-02");
        assert!(!other.is_sampled());
        assert!(other.sampled(true).to_string().ends_with("-03"));
        assert!(other.sampled(true).sampled(false) == other);
    }

    proptest! {
        #[test]
        fn prop_about_that_part_of_all_traces_is_recorded(
            ratio in 0.0..=1.0,
            ids in prop::collection::vec(any::<[u8; 24]>(), 1000),
        ) {
            let sampling = Sampling::new(ratio, true);
            let traces = ids.into_iter().map(|random| Trace::begin(None, random));
            let count = traces.filter(|trace| sampling.decides(*trace)).count();
            // More than six standard deviations.
            prop_assert!((count as f64 / 1000.0 - ratio).abs() < 0.1, "{count} of 1000 for {ratio}");
        }

        #[test]
        fn prop_who_records_less_records_a_part_of_it(
            one in 0.0..=1.0,
            other in 0.0..=1.0,
            random: [u8; 24],
        ) {
            let trace = Trace::begin(None, random);
            let decides = |ratio| Sampling::new(ratio, true).decides(trace);
            prop_assert!(!decides(f64::min(one, other)) || decides(f64::max(one, other)));
        }

        #[test]
        fn prop_what_is_written_is_read_again(random in any::<[u8; 24]>()) {
            let trace = Trace::begin(None, random);
            prop_assume!(trace.id != [0; 16] && trace.span != [0; 8]);
            prop_assert_eq!(Trace::parse(trace.to_string().as_bytes()), Some(trace));
        }

        #[test]
        fn prop_any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>()) {
            let _ = Trace::parse(&bytes);
        }
    }
}
