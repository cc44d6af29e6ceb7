//! The campaigns, each of them one function.

mod callbacks;
mod calls;
mod crowding;
mod cuts;
mod floods;
mod half_open;
mod hostile;
mod processes;
mod readers;
mod segments;
mod slow_disk;
mod visitors;

use std::time::Duration;

use crate::chaos::{Campaign, minutes};

/// Between two errands of a well-behaved client.
const PAUSE: Duration = Duration::from_millis(5);

/// All of them, in the order in which they run.
pub(super) const ALL: &[Campaign] = &[
    Campaign {
        name: "accept-errors",
        about: "accept4 fails with EMFILE, ENFILE, ECONNABORTED, EINTR",
        limits: [minutes(1), minutes(2)],
        run: calls::accept_errors,
    },
    Campaign {
        name: "write-errors",
        about: "writes fail with EAGAIN, ECONNRESET, EPIPE, or are short",
        limits: [minutes(2), minutes(4)],
        run: calls::write_errors,
    },
    Campaign {
        name: "read-errors",
        about: "reads fail with EINTR, EIO, waits with EINTR",
        limits: [minutes(2), minutes(4)],
        run: calls::read_errors,
    },
    Campaign {
        name: "descriptors",
        about: "more clients than the server may have descriptors",
        limits: [minutes(1), minutes(1)],
        run: crowding::descriptors,
    },
    Campaign {
        name: "cut-frames",
        about: "FIN and RST within handshake, frame, message, TLS record",
        limits: [minutes(1), minutes(3)],
        run: cuts::cut_frames,
    },
    Campaign {
        name: "narrow",
        about: "a broadcast while a tenth of the clients have 64 kbit/s",
        limits: [minutes(2), minutes(4)],
        run: readers::narrow,
    },
    Campaign {
        name: "segments",
        about: "links that delay, cut every byte apart, gather",
        limits: [minutes(1), minutes(2)],
        run: segments::segments,
    },
    Campaign {
        name: "zero-window",
        about: "a broadcast while many clients never read",
        limits: [minutes(2), minutes(8)],
        run: readers::zero_window,
    },
    Campaign {
        name: "slowloris",
        about: "clients that send a byte a second: head, TLS, PROXY header, frame",
        limits: [minutes(1), minutes(2)],
        run: crowding::slowloris,
    },
    Campaign {
        name: "half-shaken",
        about: "clients that begin a TLS handshake and say nothing more",
        limits: [minutes(1), minutes(2)],
        run: crowding::half_shaken,
    },
    Campaign {
        name: "half-open",
        about: "clients that vanish without a word, their callbacks running",
        limits: [minutes(1), minutes(2)],
        run: half_open::half_open,
    },
    Campaign {
        name: "ping-flood",
        about: "pings from clients that never read",
        limits: [minutes(1), minutes(2)],
        run: floods::ping_flood,
    },
    Campaign {
        name: "killed",
        about: "callbacks, workers and fork servers that are killed",
        limits: [minutes(2), minutes(5)],
        run: callbacks::killed,
    },
    Campaign {
        name: "stopped",
        about: "callbacks, workers and forked children that stop, ten at once",
        limits: [minutes(1), minutes(4)],
        run: callbacks::stopped,
    },
    Campaign {
        name: "left-behind",
        about: "callbacks that leave daemons behind",
        limits: [minutes(1), minutes(3)],
        run: callbacks::left_behind,
    },
    Campaign {
        name: "greedy",
        about: "callbacks that fork, fill memory and compute for ever",
        limits: [minutes(1), minutes(4)],
        run: hostile::greedy,
    },
    Campaign {
        name: "output-flood",
        about: "callbacks that write for ever, or a byte a second",
        limits: [minutes(1), minutes(4)],
        run: hostile::output_flood,
    },
    Campaign {
        name: "validation",
        about: "half of the validations crash, hang or answer nonsense",
        limits: [minutes(1), minutes(3)],
        run: visitors::validation,
    },
    Campaign {
        name: "no-processes",
        about: "every second process cannot be made: EAGAIN, ENOMEM",
        limits: [minutes(1), minutes(3)],
        run: processes::no_processes,
    },
    Campaign {
        name: "reused-ids",
        about: "others get the process ids of callbacks and workers",
        limits: [minutes(1), minutes(4)],
        run: processes::reused_ids,
    },
    Campaign {
        name: "slow-disk",
        about: "each write to the log takes half a second",
        limits: [minutes(1), minutes(2)],
        run: slow_disk::slow_disk,
    },
];
