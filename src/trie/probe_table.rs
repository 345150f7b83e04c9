//! A hash table whose slots are all there is: no directory beside them, so that a look-up in one of millions costs one
//! cache miss, where a table with control bytes costs two.
//!
//! Open addressing, linear probing, at most two thirds full; what follows a slot that is emptied moves up, so that no
//! trace of it is left. The slots keep their hashes, of which 32 bits must do.

use std::mem;

/// What can lie in a table.
pub(super) trait Hashed {
    fn hash(&self) -> u32;
}

/// See the module's documentation.
pub(super) struct ProbeTable<T> {
    /// A power of two of them, or none.
    slots: Box<[Option<T>]>,
    len: usize,
}

/// The smallest table that is not empty.
const LEAST: usize = 8;

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

    /// Places, taken or not.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }
}

impl<T: Hashed> ProbeTable<T> {
    /// What `look` returns for the first item that has this hash and for which it returns something.
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
            // None at the end, too, in a table that has no slots.
            let item = self.slots.get(at)?.as_ref()?;
            if item.hash() == hash
                && let Some(found) = look(at, item)
            {
                return Some(found);
            }
            at += 1;
        }
    }

    /// The item that has this hash, and for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.find_map(hash, |_, item| is_it(item).then_some(item))
    }

    /// Where the item lies that has this hash, and for which `is_it` holds.
    fn position(&self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<usize> {
        self.find_map(hash, |at, item| is_it(item).then_some(at))
    }

    /// The item that has this hash, and for which `is_it` holds.
    pub(super) fn find_mut(&mut self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let at = self.position(hash, is_it)?;
        self.slots[at].as_mut()
    }

    /// Adds an item, and does not ask whether it is there already.
    pub(super) fn insert(&mut self, item: T) {
        if 3 * self.len >= 2 * self.slots.len() {
            self.resize((2 * self.slots.len()).max(LEAST));
        }
        self.put(item);
        self.len += 1;
    }

    /// Takes out the item that has this hash, and for which `is_it` holds.
    pub(super) fn remove(&mut self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let mut gap = self.position(hash, is_it)?;
        let removed = self.slots[gap].take();
        self.len -= 1;
        // Whatever lies behind the gap, and was to lie at or before it, would not be found any more.
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

    /// Makes room for so many items more, which then come with no allocation.
    pub(super) fn reserve(&mut self, more: usize) {
        let items = self.len + more;
        if 3 * items > 2 * self.slots.len() {
            self.resize((3 * items).div_ceil(2).next_power_of_two().max(LEAST));
        }
    }

    /// Gives memory back, if there is far more than is needed for the items and so many more.
    pub(super) fn fit(&mut self, more: usize) {
        if self.slots.len() > LEAST && 8 * (self.len + more) < self.slots.len() {
            // A quarter full, so that neither the next to come nor the next to go changes it again.
            self.resize(self.slots.len() / 2);
        }
    }

    fn put(&mut self, item: T) {
        let mask = self.mask();
        let mut at = item.hash() as usize & mask;
        while self.slots[at].is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = Some(item);
    }

    fn resize(&mut self, slots: usize) {
        let slots = (0..slots).map(|_| None).collect();
        for item in mem::replace(&mut self.slots, slots).into_iter().flatten() {
            self.put(item);
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
        /// Whatever comes and goes: the same as a set would say. Few hashes, so that they meet.
        #[test]
        fn agrees_with_a_set(
            steps in proptest::collection::vec((0..40_u32, 0..3_u32, proptest::bool::ANY), 0..400),
            spread in proptest::sample::select(vec![1_u32, 3, 0x9e37_79b9, u32::MAX]),
        ) {
            let mut slots = ProbeTable::default();
            let mut model = BTreeSet::new();
            for (hash, item, adds) in steps {
                let item = Item(hash.wrapping_mul(spread), item);
                let is_it = |other: &Item| *other == item;
                proptest::prop_assert_eq!(slots.position(item.0, is_it).is_some(), model.contains(&item));
                if !adds {
                    proptest::prop_assert_eq!(slots.remove(item.0, is_it).is_some(), model.remove(&item));
                    slots.fit(item.1 as usize);
                } else if model.insert(item) {
                    slots.insert(item);
                    proptest::prop_assert_eq!(slots.find_mut(item.0, is_it), Some(&mut { item }));
                }
                proptest::prop_assert_eq!(slots.len(), model.len());
                let mut all: Vec<_> = slots.iter().copied().collect();
                all.sort_unstable();
                proptest::prop_assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
            }
            let mut all: Vec<_> = slots.into_iter().collect();
            all.sort_unstable();
            proptest::prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn memory_follows_what_is_there() {
        let item = |n: u32| Item(n.wrapping_mul(0x9e37_79b9), n);
        let mut slots = ProbeTable::default();
        assert_eq!(slots.slots.len(), 0);
        assert_eq!(slots.position(7, |_| true), None);
        assert_eq!(slots.remove(7, |_| true), None);
        for n in 0..100_000 {
            slots.insert(item(n));
            assert!(3 * slots.len() <= 2 * slots.slots.len() + 3);
        }
        assert!(slots.slots.len() <= 1 << 18);
        for n in 0..100_000 {
            assert_eq!(slots.remove(item(n).0, |&other| other == item(n)), Some(item(n)));
            slots.fit(0);
            assert!(slots.slots.len() <= (8 * slots.len()).max(LEAST));
        }
    }

    #[test]
    fn what_room_was_made_for_comes_with_no_allocation() {
        let item = |n: u32| Item(n.wrapping_mul(0x9e37_79b9), n);
        for (before, more) in (0..40).flat_map(|before| (0..40).map(move |more| (before, more))) {
            let mut slots = ProbeTable::default();
            (0..before).for_each(|n| slots.insert(item(n)));
            slots.reserve(more as usize);
            slots.fit(more as usize);
            let room = slots.slots.len();
            (before..before + more).for_each(|n| slots.insert(item(n)));
            assert_eq!(slots.slots.len(), room, "{before} {more}");
        }
    }
}
