//! A hash table with open addressing, linear probing and backward-shift deletion, at most two thirds full.
//!
//! It consists of its slots alone: a look-up in one of millions costs one cache miss, where a table with separate
//! control bytes costs two. Items keep their hashes, 32 bits of them, so that a look-up reads nothing outside the table
//! for other items, and neither does a resize.

use std::{mem, ptr};

/// An item that knows its hash.
pub(super) trait Hashed {
    fn hash(&self) -> u32;
}

/// A hash table. See the module's documentation.
pub(super) struct ProbeTable<T> {
    /// Their number is zero or a power of two.
    slots: Box<[Option<T>]>,
    len: usize,
}

/// Minimum number of slots of a table that has any.
const MIN_CAPACITY: usize = 8;

impl<T> Default for ProbeTable<T> {
    fn default() -> Self {
        Self { slots: Box::default(), len: 0 }
    }
}

impl<T> ProbeTable<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().flatten()
    }

    /// Returns the number of slots.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }
}

impl<T: Hashed> ProbeTable<T> {
    /// Calls `look` with the position and the item of each slot of this `hash`, until it returns something; returns
    /// that.
    ///
    /// # Complexity
    ///
    /// O(1) for hashes that are spread well.
    #[inline]
    pub(super) fn find_map<'a, R>(
        &'a self,
        hash: u32,
        look: impl Fn(usize, &'a T) -> Option<R>,
    ) -> Option<R> {
        let mut at = hash as usize;
        loop {
            at &= self.mask();
            // `get` returns nothing in a table without slots.
            let item = self.slots.get(at)?.as_ref()?;
            if item.hash() == hash
                && let Some(found) = look(at, item)
            {
                return Some(found);
            }
            at += 1;
        }
    }

    /// Returns the address of the first slot where an item of this `hash` may be; null if there are no slots.
    #[inline]
    pub(super) fn address(&self, hash: u32) -> *const u8 {
        let slot = self.slots.get(hash as usize & self.mask());
        slot.map_or(ptr::null(), |slot| ptr::from_ref(slot).cast())
    }

    /// Returns the item of this `hash` for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.find_map(hash, |_, item| is_it(item).then_some(item))
    }

    /// Returns the position of the item of this `hash` for which `is_it` holds.
    fn position(&self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<usize> {
        self.find_map(hash, |at, item| is_it(item).then_some(at))
    }

    /// Returns the item of this `hash` for which `is_it` holds.
    pub(super) fn find_mut(&mut self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let at = self.position(hash, is_it)?;
        self.slots[at].as_mut()
    }

    /// Adds `item`, without checking whether the table has it already.
    pub(super) fn insert(&mut self, item: T) {
        if 3 * self.len >= 2 * self.slots.len() {
            self.resize((2 * self.slots.len()).max(MIN_CAPACITY));
        }
        self.fill(item);
        self.len += 1;
    }

    /// Removes and returns the item of this `hash` for which `is_it` holds.
    pub(super) fn remove(&mut self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let mut gap = self.position(hash, is_it)?;
        let removed = self.slots[gap].take();
        self.len -= 1;
        // An item behind the gap whose probe sequence crosses it would no longer be found: it moves into the gap.
        let mask = self.mask();
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let Some(item) = &self.slots[at] else { break };
            let (distance, room) =
                (at.wrapping_sub(item.hash() as usize) & mask, at.wrapping_sub(gap) & mask);
            if distance >= room {
                self.slots[gap] = self.slots[at].take();
                gap = at;
            }
        }
        removed
    }

    /// Makes room for `additional` items, which can then be inserted without an allocation.
    pub(super) fn reserve(&mut self, additional: usize) {
        let items = self.len + additional;
        if 3 * items > 2 * self.slots.len() {
            self.resize((3 * items).div_ceil(2).next_power_of_two().max(MIN_CAPACITY));
        }
    }

    /// Gives memory back if far more is allocated than the items and `additional` ones need.
    pub(super) fn shrink(&mut self, additional: usize) {
        if self.slots.len() > MIN_CAPACITY && 8 * (self.len + additional) < self.slots.len() {
            // At most a quarter full then: neither the next insertion nor the next removal resizes it again.
            self.resize(self.slots.len() / 2);
        }
    }

    /// Puts `item` into the first free slot.
    fn fill(&mut self, item: T) {
        let mask = self.mask();
        let mut at = item.hash() as usize & mask;
        while self.slots[at].is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = Some(item);
    }

    fn resize(&mut self, capacity: usize) {
        let slots = (0..capacity).map(|_| None).collect();
        for item in mem::replace(&mut self.slots, slots).into_iter().flatten() {
            self.fill(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Item(u32, u32);

    impl Hashed for Item {
        fn hash(&self) -> u32 {
            self.0
        }
    }

    proptest::proptest! {
        /// Inserts and removes items of a few hashes, so that these collide.
        #[test]
        fn agrees_with_a_set(
            ops in proptest::collection::vec((0..40_u32, 0..3_u32, proptest::bool::ANY), 0..400),
            spread in proptest::sample::select(vec![1_u32, 3, 0x9e37_79b9, u32::MAX]),
        ) {
            let mut table = ProbeTable::default();
            let mut model = BTreeSet::new();
            for (hash, item, adds) in ops {
                let item = Item(hash.wrapping_mul(spread), item);
                let is_it = |other: &Item| *other == item;
                proptest::prop_assert_eq!(table.position(item.0, is_it).is_some(), model.contains(&item));
                if !adds {
                    proptest::prop_assert_eq!(table.remove(item.0, is_it).is_some(), model.remove(&item));
                    table.shrink(item.1 as usize);
                } else if model.insert(item) {
                    table.insert(item);
                    proptest::prop_assert_eq!(table.find_mut(item.0, is_it), Some(&mut { item }));
                }
                proptest::prop_assert_eq!(table.len(), model.len());
                let mut all: Vec<_> = table.iter().copied().collect();
                all.sort_unstable();
                proptest::prop_assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
            }
            let mut all: Vec<_> = table.into_iter().collect();
            all.sort_unstable();
            proptest::prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn memory_shrinks_with_the_items() {
        let item = |n: u32| Item(n.wrapping_mul(0x9e37_79b9), n);
        let mut table = ProbeTable::default();
        assert_eq!(table.slots.len(), 0);
        assert_eq!(table.position(7, |_| true), None);
        assert_eq!(table.remove(7, |_| true), None);
        for n in 0..100_000 {
            table.insert(item(n));
            assert!(3 * table.len() <= 2 * table.slots.len() + 3);
        }
        assert!(table.slots.len() <= 1 << 18);
        for n in 0..100_000 {
            assert_eq!(table.remove(item(n).0, |&other| other == item(n)), Some(item(n)));
            table.shrink(0);
            assert!(table.slots.len() <= (8 * table.len()).max(MIN_CAPACITY));
        }
    }

    #[test]
    fn reserved_items_are_inserted_without_an_allocation() {
        let item = |n: u32| Item(n.wrapping_mul(0x9e37_79b9), n);
        for (before, additional) in
            (0..40).flat_map(|before| (0..40).map(move |additional| (before, additional)))
        {
            let mut table = ProbeTable::default();
            (0..before).for_each(|n| table.insert(item(n)));
            table.reserve(additional as usize);
            table.shrink(additional as usize);
            let room = table.slots.len();
            (before..before + additional).for_each(|n| table.insert(item(n)));
            assert_eq!(table.slots.len(), room, "{before} {additional}");
        }
    }
}
