//! Connections of a registry, one after another.

use std::iter::Peekable;
use std::vec;

use super::Entry;
use super::ring::Neighbours;
use crate::ConnectionId;
use crate::packed::{Packed, Values};

/// Some of the connections of a [`Registry`](super::Registry); its length is known.
#[derive(Debug)]
pub struct Connections<'a, T>(pub(super) Inner<'a, T>);

#[derive(Debug)]
pub(super) enum Inner<'a, T> {
    Ring {
        entries: &'a Packed<Entry<T>>,
        next: u32,
        left: usize,
        ring: fn(&Entry<T>) -> Neighbours,
    },
    One(Option<&'a Entry<T>>),
    /// Both in the order of the places.
    AllBut {
        iter: Values<'a, Entry<T>>,
        spared: Peekable<vec::IntoIter<u32>>,
        left: usize,
    },
    Places {
        entries: &'a Packed<Entry<T>>,
        places: vec::IntoIter<u32>,
    },
}

// By hand: the derive would ask for `T: Clone`, though only references are copied.
impl<T> Clone for Connections<'_, T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Inner::Ring {
                entries,
                next,
                left,
                ring,
            } => Inner::Ring {
                entries,
                next: *next,
                left: *left,
                ring: *ring,
            },
            Inner::One(one) => Inner::One(*one),
            Inner::AllBut { iter, spared, left } => Inner::AllBut {
                iter: iter.clone(),
                spared: spared.clone(),
                left: *left,
            },
            Inner::Places { entries, places } => Inner::Places {
                entries,
                places: places.clone(),
            },
        })
    }
}

impl<'a, T> Iterator for Connections<'a, T> {
    type Item = (&'a ConnectionId, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match &mut self.0 {
            Inner::Ring {
                entries,
                next,
                left,
                ring,
            } => {
                *left = left.checked_sub(1)?;
                let entry = entries.at(*next);
                *next = ring(entry).next;
                entry
            }
            Inner::One(one) => one.take()?,
            Inner::AllBut { iter, spared, left } => {
                let mut is_spared = |at: usize| {
                    let spared = spared.next_if(|spared| *spared as usize == at);
                    spared.is_some()
                };
                let (_, entry) = iter.find(|(at, _)| !is_spared(*at))?;
                *left -= 1;
                entry
            }
            Inner::Places { entries, places } => entries.at(places.next()?),
        };
        Some((&entry.id, &entry.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = match &self.0 {
            Inner::Ring { left, .. } => *left,
            Inner::One(one) => usize::from(one.is_some()),
            Inner::AllBut { left, .. } => *left,
            Inner::Places { places, .. } => places.len(),
        };
        (len, Some(len))
    }
}

impl<T> ExactSizeIterator for Connections<'_, T> {}
