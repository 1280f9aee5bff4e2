//! The menus in use: the site's newest good file, and which nodes have had what they get only once.
//!
//! Never renders anything itself: the crate `boot-menu` does.

mod answer;
mod once;
pub(crate) mod password;

use std::sync::{Arc, PoisonError, RwLock};

use site_file::Changeable;

pub(crate) use answer::{Give, answer, facts};
pub(crate) use once::{OnceBook, once_key};

/// The newest good version of it. A reader keeps what it has: no transfer and no script is half old, half new.
#[derive(Debug)]
pub(crate) struct Current(RwLock<Arc<Changeable>>);

impl Current {
    pub(crate) fn new(first: Changeable) -> Self {
        Self(RwLock::new(Arc::new(first)))
    }

    /// As it is now.
    pub(crate) fn get(&self) -> Arc<Changeable> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everybody who asks from now on gets this. Whether it is another.
    pub(crate) fn set(&self, next: Changeable) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = **current != next;
        *current = Arc::new(next);
        changed
    }
}
