//! All connections, and which of them has stood still longest.
//!
//! Never closes one: whoever serves it is told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Connections up to a bound.
#[derive(Debug)]
pub(super) struct Connections {
    open: Arc<Mutex<Open>>,
    max: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    open: Arc<Mutex<Open>>,
    number: u64,
    ended: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Open {
    by_number: HashMap<u64, (Instant, Arc<Notify>)>,
    next: u64,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// A connection more. Where there are too many, the one that has stood still longest is told to end.
    pub(super) fn open(&self, now: Instant) -> Connection {
        let mut open = lock(&self.open);
        if open.by_number.len() >= self.max {
            let idlest =
                open.by_number.iter().min_by_key(|(_, (moved, _))| *moved).map(|(number, _)| *number);
            if let Some((_, ended)) = idlest.and_then(|number| open.by_number.remove(&number)) {
                ended.notify_one();
            }
        }
        let (number, ended) = (open.next, Arc::new(Notify::new()));
        open.next += 1;
        open.by_number.insert(number, (now, Arc::clone(&ended)));
        Connection { open: Arc::clone(&self.open), number, ended }
    }
}

impl Connection {
    /// Something came or went that counts.
    pub(super) fn moved(&self, now: Instant) {
        if let Some((moved, _)) = lock(&self.open).by_number.get_mut(&self.number) {
            *moved = now;
        }
    }

    /// Woken when it is to end.
    pub(super) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.open).by_number.remove(&self.number);
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn are_told(connections: &[Connection]) -> Vec<bool> {
        let mut told = Vec::new();
        for connection in connections {
            let ended = connection.ended();
            told.push(tokio::time::timeout(Duration::ZERO, ended.notified()).await.is_ok());
        }
        told
    }

    #[tokio::test]
    async fn the_one_that_stood_still_longest_ends_for_a_new_one() {
        let (connections, start) = (Connections::new(3), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let held: Vec<Connection> = (0..3).map(|second| connections.open(at(second))).collect();
        held[0].moved(at(3));
        let fourth = connections.open(at(4));
        assert_eq!(are_told(&held).await, [false, true, false]);
        drop(fourth);
        let _fifth = connections.open(at(5));
        assert_eq!(are_told(&held).await, [false; 3], "there was room");
        let _sixth = connections.open(at(6));
        assert_eq!(are_told(&held).await, [false, false, true]);
        assert_eq!(lock(&connections.open).by_number.len(), 3);
    }
}
