//! What happens next: a queue of events in virtual time.
//!
//! Most events lie a few milliseconds ahead, and there are hundreds of thousands of them. So they lie unsorted in
//! a wheel of short spans of time, and only the span that the clock is in is kept in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Length of a span: 33 microseconds, in which ten thousand nodes see some hundred events.
const SPAN_BITS: u32 = 15;

/// Spans of the wheel: 134 ms together, more than any link's queue and the engine's tick.
const SPANS: u64 = 4096;

/// Events by virtual time in nanoseconds; those of one instant leave in the order in which they came.
#[derive(Debug)]
pub struct Queue<E> {
    now_ns: u64,
    pushed: u64,
    /// The span that is being emptied; all before it are empty.
    span: u64,
    near: BinaryHeap<Reverse<Slot>>,
    wheel: Vec<Vec<Slot>>,
    in_wheel: usize,
    /// What lies beyond the wheel.
    far: BinaryHeap<Reverse<Slot>>,
    events: Vec<Option<E>>,
    vacant: Vec<usize>,
}

/// Ordered by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    at_ns: u64,
    order: u64,
    event: usize,
}

impl Slot {
    const fn span(self) -> u64 {
        self.at_ns >> SPAN_BITS
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            now_ns: 0,
            pushed: 0,
            span: 0,
            near: BinaryHeap::new(),
            wheel: (0..SPANS).map(|_| Vec::new()).collect(),
            in_wheel: 0,
            far: BinaryHeap::new(),
            events: Vec::new(),
            vacant: Vec::new(),
        }
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
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        if let Some(vacant) = self.events.get_mut(place) {
            *vacant = Some(event);
        }
        self.put(Slot { at_ns, order: self.pushed, event: place });
    }

    /// Advances the clock to the next event and takes it.
    pub fn pop(&mut self) -> Option<E> {
        while self.near.is_empty() {
            self.turn()?;
        }
        let Reverse(slot) = self.near.pop()?;
        self.now_ns = slot.at_ns;
        self.vacant.push(slot.event);
        self.events.get_mut(slot.event)?.take()
    }

    fn put(&mut self, slot: Slot) {
        if slot.span() <= self.span {
            self.near.push(Reverse(slot));
        } else if slot.span() < self.span + SPANS {
            if let Some(span) = self.wheel.get_mut(position(slot.span())) {
                span.push(slot);
                self.in_wheel += 1;
            }
        } else {
            self.far.push(Reverse(slot));
        }
    }

    /// Goes on to the next span; `None` if nothing is left.
    fn turn(&mut self) -> Option<()> {
        let next_far = self.far.peek().map(|Reverse(slot)| slot.span());
        self.span = if self.in_wheel > 0 { self.span + 1 } else { next_far? };
        while self.far.peek().is_some_and(|Reverse(slot)| slot.span() < self.span + SPANS) {
            let Some(Reverse(slot)) = self.far.pop() else { break };
            self.put(slot);
        }
        if let Some(span) = self.wheel.get_mut(position(self.span)) {
            self.in_wheel -= span.len();
            self.near.extend(span.drain(..).map(Reverse));
        }
        Some(())
    }
}

fn position(span: u64) -> usize {
    usize::try_from(span % SPANS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        /// The oracle is a sorted list.
        #[test]
        fn near_and_far_events_leave_in_order(steps in prop::collection::vec((0_u64..3, 0_u64..400_000_000, any::<bool>()), 1..200)) {
            let (mut queue, mut oracle, mut number) = (Queue::default(), Vec::new(), 0);
            for (scale, ahead, pop) in steps {
                let at = queue.now_ns() + (ahead >> (8 * scale));
                queue.push(at, number);
                oracle.push((at, number));
                number += 1;
                if pop {
                    let first = oracle.iter().copied().min();
                    oracle.retain(|entry| Some(*entry) != first);
                    prop_assert_eq!(queue.pop(), first.map(|(_, number)| number));
                    prop_assert_eq!(Some(queue.now_ns()), first.map(|(at, _)| at));
                }
            }
            oracle.sort_unstable();
            let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(rest, oracle.into_iter().map(|(_, number)| number).collect::<Vec<_>>());
        }
    }
}
