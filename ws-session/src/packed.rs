//! A map whose tables hold no more than places.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::iter::Enumerate;
use std::slice;

use hashbrown::HashTable;

/// What is found by a key that it has in itself.
pub(crate) trait Keyed {
    type Key: Hash + Eq + Copy;

    fn key(&self) -> Self::Key;
}

/// Values, found by their keys or by their places, which they keep.
///
/// The table has the places only: it is half empty, so that what stands in it counts double. The
/// values are boxed for the same reason: what grows by doubling leaves its former room behind. A
/// slab would take twice the room for the boxes, because its vacant places are a list. The table
/// hashes with a random key and cannot be flooded.
#[derive(Clone, Debug)]
pub(crate) struct Packed<V> {
    values: Vec<Option<Box<V>>>,
    vacant: Vec<u32>,
    places: HashTable<u32>,
    hash_key: RandomState,
}

impl<V: Keyed> Packed<V> {
    pub(crate) fn new() -> Self {
        Self {
            values: Vec::new(),
            vacant: Vec::new(),
            places: HashTable::new(),
            hash_key: RandomState::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn place(&self, key: V::Key) -> Option<u32> {
        let hash = self.hash_key.hash_one(key);
        let is_meant = |place: &u32| self.at(*place).key() == key;
        self.places.find(hash, is_meant).copied()
    }

    /// The value at a place that is taken.
    pub(crate) fn at(&self, place: u32) -> &V {
        taken(&self.values, place)
    }

    /// The value at a place, if that is taken.
    pub(crate) fn at_any(&self, place: usize) -> Option<&V> {
        self.values.get(place)?.as_deref()
    }

    /// No value has a place as high as that.
    pub(crate) fn place_count(&self) -> usize {
        self.values.len()
    }

    /// The value at a place that is taken. Its key stays as it is.
    pub(crate) fn at_mut(&mut self, place: u32) -> &mut V {
        self.values[place as usize].as_mut().expect(TAKEN)
    }

    pub(crate) fn get(&self, key: V::Key) -> Option<&V> {
        Some(self.at(self.place(key)?))
    }

    pub(crate) fn get_mut(&mut self, key: V::Key) -> Option<&mut V> {
        let place = self.place(key)?;
        Some(self.at_mut(place))
    }

    /// The values with their places, in the order of these.
    pub(crate) fn iter(&self) -> Values<'_, V> {
        Values(self.values.iter().enumerate())
    }

    /// Where the next one will be.
    pub(crate) fn vacant_place(&self) -> u32 {
        let end = || u32::try_from(self.values.len()).expect("no memory holds that many");
        self.vacant.last().copied().unwrap_or_else(end)
    }

    /// Takes in a value whose key nobody has.
    pub(crate) fn insert_unique(&mut self, value: V) {
        debug_assert!(self.place(value.key()).is_none(), "a key is there twice");
        let place = self.vacant_place();
        let hash = self.hash_key.hash_one(value.key());
        let value = Some(Box::new(value));
        match self.vacant.pop() {
            Some(place) => self.values[place as usize] = value,
            None => self.values.push(value),
        }
        let rehash = |place: &u32| self.hash_key.hash_one(taken(&self.values, *place).key());
        self.places.insert_unique(hash, place, rehash);
    }

    pub(crate) fn remove(&mut self, key: V::Key) -> Option<V> {
        let hash = self.hash_key.hash_one(key);
        let is_meant = |place: &u32| taken(&self.values, *place).key() == key;
        let found = self.places.find_entry(hash, is_meant).ok()?;
        let (place, _) = found.remove();
        self.vacant.push(place);
        self.values[place as usize].take().map(|value| *value)
    }
}

const TAKEN: &str = "the place is taken";

fn taken<V>(values: &[Option<Box<V>>], place: u32) -> &V {
    values[place as usize].as_ref().expect(TAKEN)
}

/// Values with their places, one after another.
#[derive(Debug)]
pub(crate) struct Values<'a, V>(Enumerate<slice::Iter<'a, Option<Box<V>>>>);

// By hand: the derive would ask for `V: Clone`, though only references are copied.
impl<V> Clone for Values<'_, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, V> Iterator for Values<'a, V> {
    type Item = (usize, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0
            .find_map(|(place, value)| Some((place, value.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (u8, u32) {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    /// Keys that a remote peer chooses do not decide where they are stored.
    #[test]
    fn t35_each_map_hashes_with_a_key_of_its_own() {
        let order = || {
            let mut map = Packed::new();
            (0..200).for_each(|key| map.insert_unique((key, 0)));
            map.places.iter().copied().collect::<Vec<_>>()
        };
        assert_ne!(order(), order());
    }

    proptest! {
        #[test]
        fn prop_a_packed_map_is_a_map(ops in prop::collection::vec((any::<bool>(), 0_u8..24, any::<u32>()), 0..200)) {
            let mut packed = Packed::new();
            let mut map = HashMap::new();
            for (inserts, key, value) in ops {
                if inserts && !map.contains_key(&key) {
                    let place = packed.vacant_place();
                    packed.insert_unique((key, value));
                    map.insert(key, value);
                    prop_assert_eq!(packed.place(key), Some(place));
                } else if inserts {
                    packed.get_mut(key).unwrap().1 = value;
                    map.insert(key, value);
                } else {
                    prop_assert_eq!(packed.remove(key).map(|one| one.1), map.remove(&key));
                }
                prop_assert_eq!((packed.len(), packed.is_empty()), (map.len(), map.is_empty()));
                prop_assert_eq!(packed.get(key).map(|one| one.1), map.get(&key).copied());
                for (place, value) in packed.iter() {
                    prop_assert_eq!(map.get(&value.0), Some(&value.1));
                    prop_assert_eq!(packed.at(u32::try_from(place).unwrap()), value);
                }
            }
        }
    }
}
