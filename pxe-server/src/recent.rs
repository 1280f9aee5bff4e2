//! A map of bounded size that forgets what was longest not heard of.
//!
//! For what strangers say: whoever says much pushes out old entries, never new ones.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most so many entries; the one that was put in or touched longest ago gives way.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    max: usize,
    next: u64,
    entries: HashMap<K, (u64, V)>,
    by_age: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, next: 0, entries: HashMap::new(), by_age: BTreeMap::new() }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The entry is the newest now. Gives back what gave way to it.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.remove(&key);
        self.by_age.insert(self.next, key);
        self.entries.insert(key, (self.next, value));
        self.next += 1;
        if self.entries.len() <= self.max {
            return None;
        }
        let (_, oldest) = self.by_age.pop_first()?;
        self.entries.remove(&oldest).map(|(_, value)| (oldest, value))
    }

    /// It was heard of again.
    pub(crate) fn touch(&mut self, key: &K) {
        if let Some(value) = self.remove(key) {
            self.insert(*key, value);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (age, value) = self.entries.remove(key)?;
        self.by_age.remove(&age);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.by_age.values().filter_map(|key| self.get(key).map(|value| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_gives_way_and_whoever_is_heard_of_again_is_young() {
        let mut recent = Recent::new(3);
        for key in 0..3 {
            assert_eq!(recent.insert(key, key * 10), None);
        }
        recent.touch(&0);
        assert_eq!(recent.insert(3, 30), Some((1, 10)));
        assert_eq!(recent.insert(3, 31), None, "the same again is no other");
        assert_eq!(recent.insert(4, 40), Some((2, 20)));
        assert_eq!((recent.get(&0), recent.get(&3), recent.get(&2)), (Some(&0), Some(&31), None));
        assert_eq!(recent.remove(&0), Some(0));
        assert_eq!(recent.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [3, 4]);
    }
}
