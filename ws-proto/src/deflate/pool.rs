//! Streams that remember nothing, to be used by one message after another.
//!
//! A compressor is some 300 KiB that must be allocated and cleared; with one for each message most
//! of the time would go into that. So each thread keeps a few at hand. What they have seen is
//! forgotten before they are used again, so nobody can tell whose they were.

use std::cell::RefCell;

use super::compressor::Compressor;
use super::inflater::Inflater;
use super::{DeflateLevel, WindowBits};

/// How many of each a thread keeps: connections of one server have like parameters, and messages
/// are compressed one at a time.
const MAX_IDLE: usize = 2;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

#[expect(clippy::vec_box, reason = "they are lent out in their boxes")]
struct Pool {
    compressors: Vec<Box<Compressor>>,
    inflaters: Vec<Box<Inflater>>,
}

impl Pool {
    const fn new() -> Self {
        Self {
            compressors: Vec::new(),
            inflaters: Vec::new(),
        }
    }
}

/// Works on the thread's pool; `None` if the thread is ending and has none any more.
fn with<T>(work: impl FnOnce(&mut Pool) -> T) -> Option<T> {
    POOL.try_with(|pool| work(&mut pool.borrow_mut())).ok()
}

pub(super) fn compressor(bits: WindowBits, level: DeflateLevel) -> Box<Compressor> {
    let idle = with(|pool| {
        let idle = &mut pool.compressors;
        let at = idle.iter().position(|one| one.is_like(bits, level))?;
        Some(idle.remove(at))
    });
    idle.flatten()
        .unwrap_or_else(|| Box::new(Compressor::new(bits, level)))
}

pub(super) fn give_back_compressor(mut compressor: Box<Compressor>) {
    compressor.reset();
    with(|pool| keep(&mut pool.compressors, compressor));
}

pub(super) fn inflater() -> Box<Inflater> {
    with(|pool| pool.inflaters.pop())
        .flatten()
        .unwrap_or_else(|| Box::new(Inflater::new()))
}

pub(super) fn give_back_inflater(mut inflater: Box<Inflater>) {
    inflater.reset();
    with(|pool| keep(&mut pool.inflaters, inflater));
}

/// Keeps the one used last, in the place of the one unused for longest.
fn keep<T>(idle: &mut Vec<T>, one: T) {
    if idle.len() == MAX_IDLE {
        idle.remove(0);
    }
    idle.push(one);
}
