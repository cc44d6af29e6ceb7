//! What is measured: each cell is a row of a table.

use std::fmt;
use std::time::Duration;

use super::Group;

/// How long and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Quick,
    Whole,
}

impl Scale {
    pub(super) fn rounds(self) -> u32 {
        match self {
            Self::Quick => 1,
            Self::Whole => 3,
        }
    }

    /// How long a figure is measured, if not for longer.
    pub(super) fn duration(self) -> Duration {
        Duration::from_millis(match self {
            Self::Quick => 400,
            Self::Whole => 1_000,
        })
    }

    /// What `ws bench` takes as `--warm-up`.
    pub(super) fn warm_up(self) -> &'static str {
        match self {
            Self::Quick => "100ms",
            Self::Whole => "200ms",
        }
    }

    /// As many connections as are thousands in the whole measurement.
    fn many(self, whole: u32) -> u32 {
        match self {
            Self::Quick => whole / 5,
            Self::Whole => whole,
        }
    }

    /// The two numbers of connections between which memory is compared.
    pub(super) fn idle_steps(self) -> (u32, u32) {
        (self.many(1_000), self.many(9_000))
    }
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Echo {
        connections: u32,
        in_flight: u32,
        size: u32,
        has_tls: bool,
    },
    Idle(Idle),
    Handshakes {
        connections: u32,
    },
    Broadcast {
        connections: u32,
        burst: u32,
    },
    /// [`UNDER_WAY`] messages under way, however many connections there are.
    Flat {
        connections: u32,
        size: u32,
        speakers: Speakers,
    },
}

/// Who sends the messages of [`Cell::Flat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speakers {
    /// The same few, while the others are idle.
    Some,
    /// All in turn, so that each message comes from a connection that was idle for long.
    All,
}

/// What an idle connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    Plain,
    /// With a FIFO for each connection, which only ours has.
    Fifos,
    Tls,
}

/// Bytes of the messages.
const SIZES: [u32; 4] = [20, 1024, 16 * 1024, 64 * 1024];
pub(super) const BROADCAST_SIZE: u32 = 64;
/// Messages under way, whatever the number of connections.
pub(super) const UNDER_WAY: u32 = 100;

/// How many cells, one after the other, are compared with the first of them.
pub(super) fn compared(group: Group) -> usize {
    match group {
        Group::Flat => 3,
        Group::Echo | Group::Tls | Group::Idle | Group::Handshakes | Group::Broadcast => 1,
    }
}

/// The cells of a group, in the order of its table.
pub(super) fn of(group: Group, scale: Scale) -> Vec<Cell> {
    let many = |whole| scale.many(whole);
    match group {
        Group::Echo => {
            let mut cells = Vec::new();
            for connections in [100, many(5_000)] {
                for in_flight in [1, 16] {
                    cells.extend(SIZES.map(|size| Cell::Echo {
                        connections,
                        in_flight,
                        size,
                        has_tls: false,
                    }));
                }
            }
            cells
        }
        Group::Tls => {
            let cell = |size| Cell::Echo {
                connections: 100,
                in_flight: 1,
                size,
                has_tls: true,
            };
            SIZES.map(cell).to_vec()
        }
        Group::Idle => [Idle::Plain, Idle::Fifos, Idle::Tls]
            .map(Cell::Idle)
            .to_vec(),
        Group::Handshakes => vec![Cell::Handshakes {
            connections: many(9_000),
        }],
        Group::Broadcast => {
            let mut cells = Vec::new();
            for connections in [many(1_000), many(9_000)] {
                cells.extend([1, 16].map(|burst| Cell::Broadcast { connections, burst }));
            }
            cells
        }
        Group::Flat => {
            let counts = [UNDER_WAY, many(1_000), many(9_000)];
            let cells = |(speakers, size)| {
                counts.map(|connections| Cell::Flat {
                    connections,
                    size,
                    speakers,
                })
            };
            [
                (Speakers::Some, 20),
                (Speakers::Some, 1024),
                (Speakers::All, 20),
                (Speakers::All, 1024),
            ]
            .map(cells)
            .concat()
        }
    }
}

/// From so much in flight on, time is spent on bringing it there and back, and once has to do.
const MUCH_IN_FLIGHT: u64 = 1 << 30;

impl Cell {
    /// How often it is measured, where others are `rounds` times.
    pub(super) fn rounds(self, rounds: u32) -> u32 {
        match self {
            // Memory does not depend on what else the machine does.
            Self::Idle(_) => rounds.min(1),
            Self::Echo { .. } if self.in_flight() >= MUCH_IN_FLIGHT => rounds.min(1),
            Self::Echo { .. }
            | Self::Handshakes { .. }
            | Self::Broadcast { .. }
            | Self::Flat { .. } => rounds,
        }
    }

    /// Bytes of payload under way, of an echo.
    pub(super) fn in_flight(self) -> u64 {
        match self {
            Self::Echo {
                connections,
                in_flight,
                size,
                ..
            } => u64::from(connections) * u64::from(in_flight) * u64::from(size),
            Self::Idle(_)
            | Self::Handshakes { .. }
            | Self::Broadcast { .. }
            | Self::Flat { .. } => 0,
        }
    }

    pub(super) fn has_tls(self) -> bool {
        matches!(
            self,
            Self::Echo { has_tls: true, .. } | Self::Idle(Idle::Tls)
        )
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Echo {
                connections,
                in_flight,
                size,
                ..
            } => write!(f, "{connections} x {in_flight} x {}", human(size)),
            Self::Flat {
                connections,
                size,
                speakers,
            } => {
                let speakers = match speakers {
                    Speakers::Some => "100 speak",
                    Speakers::All => "in turn",
                };
                write!(f, "{connections} x {}, {speakers}", human(size))
            }
            Self::Idle(Idle::Plain) => f.write_str("plain"),
            Self::Idle(Idle::Fifos) => f.write_str("a FIFO each"),
            Self::Idle(Idle::Tls) => f.write_str("TLS"),
            Self::Handshakes { connections } => write!(f, "{connections}, kept"),
            Self::Broadcast { connections, burst } => write!(f, "{connections}, bursts of {burst}"),
        }
    }
}

fn human(size: u32) -> String {
    if size.is_multiple_of(1024) {
        format!("{} KiB", size / 1024)
    } else {
        format!("{size} B")
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn cells_are_those_of_the_design() {
        let count = |group| of(group, Scale::Whole).len();
        let counts: Vec<usize> = Group::value_variants().iter().copied().map(count).collect();
        assert_eq!(counts, [16, 4, 3, 1, 4, 12]);
        let last = of(Group::Echo, Scale::Whole).pop().unwrap();
        assert_eq!(last.to_string(), "5000 x 16 x 64 KiB");
        let quick = of(Group::Broadcast, Scale::Quick);
        assert_eq!(quick[3].to_string(), "1800, bursts of 16");
        assert_eq!(quick[0].to_string(), "200, bursts of 1");
        let flat: Vec<String> = of(Group::Flat, Scale::Whole)
            .iter()
            .map(Cell::to_string)
            .collect();
        assert_eq!(flat[2], "9000 x 20 B, 100 speak");
        assert_eq!(flat[11], "9000 x 1 KiB, in turn");
        assert_eq!(flat.len() % compared(Group::Flat), 0);
        assert_eq!((last.in_flight() >> 20, last.rounds(3)), (5_000, 1));
        assert_eq!((quick[0].in_flight(), quick[0].rounds(3)), (0, 3));
        assert_eq!(Cell::Idle(Idle::Plain).rounds(3), 1);
        assert_eq!(Scale::Whole.idle_steps(), (1_000, 9_000));
    }
}
