//! What a trace says of one thing that was done, and where it says it.

use std::time::SystemTime;

use super::trace::{Sampling, Trace};

/// A span as it is recorded; it has ended when it is handed on.
///
/// Names and attributes are those of OpenTelemetry's [semantic
/// conventions](https://opentelemetry.io/docs/specs/semconv/) where these have some, and begin with
/// `ws.` else. Nothing that a payload, a cookie, a token or a query says is ever among them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    pub(crate) kind: SpanKind,
    pub(crate) trace: Trace,
    pub(crate) parent: Option<Parent>,
    /// What led to it, in another trace.
    pub(crate) link: Option<Trace>,
    pub(crate) began: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// What it failed of, by the name that log and figures have for it.
    pub(crate) error: Option<&'static str>,
}

/// Where a span stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) trace: Trace,
    pub(crate) parent: Option<Parent>,
    pub(crate) link: Option<Trace>,
}

/// Whose part a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) span: [u8; 8],
    /// It is in another program.
    pub(crate) is_remote: bool,
}

/// Who asked whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// A client asked this server.
    Server,
    /// This server asked another program.
    Client,
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Name(&'static str),
    Text(String),
    Number(u64),
}

impl From<&'static str> for Value {
    fn from(name: &'static str) -> Self {
        Self::Name(name)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl Spot {
    /// In a trace that came from another program.
    pub(crate) fn after(caller: Trace, trace: Trace) -> Self {
        Self {
            trace,
            parent: Some(Parent {
                span: caller.span(),
                is_remote: true,
            }),
            link: None,
        }
    }

    /// At the beginning of a trace, which something in another one led to.
    pub(crate) fn first(trace: Trace, link: Option<Trace>) -> Self {
        Self {
            trace,
            parent: None,
            link,
        }
    }

    /// As a part of that, in the same trace.
    pub(crate) fn inside(parent: Trace, span: [u8; 8]) -> Self {
        Self {
            trace: parent.child(span),
            parent: Some(Parent {
                span: parent.span(),
                is_remote: false,
            }),
            link: None,
        }
    }
}

/// Where the spans of a connection begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The opening handshake.
    pub(crate) trace: Trace,
    /// The caller has begun the trace.
    pub(crate) is_callers: bool,
}

impl Origin {
    /// Finds a place for an opening handshake. `named` is the trace that its head names: it goes on
    /// here if whoever connects is trusted and callers are followed. Else it is but linked to, since
    /// anybody could have everything recorded, or nothing, or have it stand in another's trace.
    /// `random` are random bytes.
    pub(crate) fn begin(
        named: Option<Trace>,
        is_trusted: bool,
        sampling: Sampling,
        random: [u8; 24],
    ) -> (Self, Spot) {
        let caller = named.filter(|_| is_trusted && sampling.follows_callers());
        let spot = match caller {
            Some(caller) => Spot::after(caller, Trace::begin(Some(caller), random)),
            None => {
                let own = Trace::begin(None, random);
                Spot::first(own.sampled(sampling.decides(own)), named)
            }
        };
        let origin = Self {
            trace: spot.trace,
            is_callers: caller.is_some(),
        };
        (origin, spot)
    }

    /// Finds a place for what is a part of the handshake. `random` are random bytes.
    pub(crate) fn part(self, random: [u8; 24]) -> Spot {
        let [.., a, b, c, d, e, f, g, h] = random;
        Spot::inside(self.trace, [a, b, c, d, e, f, g, h])
    }

    /// Finds a place for what is done for the connection, over and over: in the trace of the
    /// handshake if it `joins` that; else in one of its own, so that no trace grows with the life of
    /// a connection. `random` are random bytes.
    pub(crate) fn next(self, joins: bool, sampling: Sampling, random: [u8; 24]) -> Spot {
        if joins {
            return self.part(random);
        }
        let own = Trace::begin(None, random);
        Spot::first(own.sampled(sampling.decides(own)), Some(self.trace))
    }
}

impl Span {
    pub(crate) fn new(name: &'static str, kind: SpanKind, at: Spot, began: SystemTime) -> Self {
        let Spot {
            trace,
            parent,
            link,
        } = at;
        Self {
            name,
            kind,
            trace,
            parent,
            link,
            began,
            attributes: Vec::new(),
            error: None,
        }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push((name, value.into()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trace() -> impl Strategy<Value = Trace> {
        (any::<[u8; 24]>(), any::<bool>())
            .prop_map(|(random, is_sampled)| Trace::begin(None, random).sampled(is_sampled))
    }

    proptest! {
        /// Neither the flag nor the id of a trace says anything unless the peer is trusted.
        #[test]
        fn prop_whether_a_handshake_is_recorded_is_said_by_the_ratio_or_by_who_is_trusted(
            named in prop::option::of(trace()),
            is_trusted: bool,
            parent_based: bool,
            ratio in 0.0..=1.0,
            random: [u8; 24],
        ) {
            let sampling = Sampling::new(ratio, parent_based);
            let (origin, spot) = Origin::begin(named, is_trusted, sampling, random);
            prop_assert_eq!(origin.trace, spot.trace);
            match named.filter(|_| is_trusted && parent_based) {
                Some(caller) => {
                    prop_assert!(origin.is_callers);
                    prop_assert_eq!(spot.trace.id_bytes(), caller.id_bytes());
                    prop_assert_eq!(spot.trace.is_sampled(), caller.is_sampled());
                    prop_assert_eq!(spot.parent.map(|parent| parent.span), Some(caller.span()));
                    prop_assert_eq!(spot.link, None);
                }
                None => {
                    let own = Trace::begin(None, random);
                    prop_assert!(!origin.is_callers);
                    prop_assert_eq!(spot.trace, own.sampled(sampling.decides(own)));
                    prop_assert_eq!((spot.parent, spot.link), (None, named));
                }
            }
        }

        /// Whoever looks for a connection finds all of it: by the id of the trace, or by a link.
        #[test]
        fn prop_whatever_a_connection_does_leads_back_to_its_handshake(
            trace in trace(),
            is_callers: bool,
            joins: bool,
            ratio in 0.0..=1.0,
            random: [u8; 24],
        ) {
            let origin = Origin { trace, is_callers };
            let sampling = Sampling::new(ratio, true);
            let spot = origin.next(joins, sampling, random);
            if joins {
                prop_assert_eq!(spot.trace.id_bytes(), trace.id_bytes());
                prop_assert_eq!(spot.trace.is_sampled(), trace.is_sampled());
                prop_assert_eq!(spot.parent.map(|parent| parent.span), Some(trace.span()));
                prop_assert_eq!(spot.link, None);
            } else {
                prop_assert_eq!(spot.parent, None);
                prop_assert_eq!(spot.link, Some(trace));
                prop_assert_eq!(spot.trace.is_sampled(), sampling.decides(spot.trace));
            }
        }
    }
}
