//! Our static keys that are alive: one, or while one replaces another, both.
//!
//! **Invariant:** the last is the one that new peers get and that `get` shows, unless it is still being
//! announced ([`Identities::announce`]). Each has a [`Generation`] of its own, which is never used again.

use crate::identity::Identity;
use crate::{PublicKey, SecretKey};

/// Numbers our static keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u64);

#[derive(Default)]
pub(crate) struct Identities {
    alive: Vec<(Generation, Identity)>,
    current: Generation,
    latest: Generation,
}

impl Identities {
    /// The one in force.
    pub(crate) fn current(&self) -> Option<&Identity> {
        self.get(self.current)
    }

    pub(crate) fn current_generation(&self) -> Generation {
        self.current
    }

    pub(crate) fn get(&self, generation: Generation) -> Option<&Identity> {
        self.alive.iter().find(|(number, _)| *number == generation).map(|(_, identity)| identity)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Generation, &Identity)> {
        self.alive.iter().map(|(generation, identity)| (*generation, identity))
    }

    pub(crate) fn has(&self, key: &PublicKey) -> bool {
        self.alive.iter().any(|(_, identity)| identity.public() == *key)
    }

    /// In place of all there are.
    pub(crate) fn replace(&mut self, key: Option<SecretKey>) {
        self.alive.clear();
        self.latest.0 += 1;
        self.current = self.latest;
        self.alive.extend(key.map(|key| (self.current, Identity::new(key))));
    }

    /// Beside the one in force.
    pub(crate) fn announce(&mut self, key: SecretKey) -> Generation {
        self.latest.0 += 1;
        self.alive.push((self.latest, Identity::new(key)));
        self.latest
    }

    /// From now on it is in force; the others live on until they are let go.
    pub(crate) fn establish(&mut self, generation: Generation) {
        debug_assert!(self.get(generation).is_some());
        self.current = generation;
    }

    /// Lets go of the keys that are neither in force nor wanted.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(Generation) -> bool) {
        let current = self.current;
        self.alive.retain(|(generation, _)| *generation == current || wanted(*generation));
    }

    pub(crate) fn len(&self) -> usize {
        self.alive.len()
    }
}
