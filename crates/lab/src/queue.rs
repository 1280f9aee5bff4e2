//! What happens next: a queue of events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events by virtual time in nanoseconds; those of one instant leave in the order in which they came.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Slot<E>>>,
    pushed: u64,
    now_ns: u64,
}

#[derive(Debug)]
struct Slot<E> {
    at_ns: u64,
    order: u64,
    event: E,
}

impl<E> PartialEq for Slot<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ns, self.order) == (other.at_ns, other.order)
    }
}

impl<E> Eq for Slot<E> {}

impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Slot<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.order).cmp(&(other.at_ns, other.order))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), pushed: 0, now_ns: 0 }
    }
}

impl<E> Queue<E> {
    /// The virtual time of the event that was popped last, nanoseconds.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Lets `event` happen at `at_ns`, or now if that is past.
    pub fn push(&mut self, at_ns: u64, event: E) {
        let at_ns = at_ns.max(self.now_ns);
        self.pushed += 1;
        self.heap.push(Reverse(Slot { at_ns, order: self.pushed, event }));
    }

    /// Advances the clock to the next event and takes it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(slot) = self.heap.pop()?;
        self.now_ns = slot.at_ns;
        Some(slot.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_by_time_and_then_by_arrival() {
        let mut queue = Queue::default();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (2, "b")] {
            queue.push(at, name);
        }
        let names: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        queue.push(0, "late");
        assert_eq!((queue.pop(), queue.now_ns()), (Some("late"), 5));
    }
}
