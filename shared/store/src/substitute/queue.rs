//! What is still to be fetched: the largest first, and over a long way some of the smallest as well.

use super::Pace;

/// Which end of the queue something was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Large,
    Small,
}

/// What waits, the largest first.
///
/// The largest go first, so that nothing large is alone in the end. But over a long way something small
/// costs a round trip whatever its size: there some connections begin at the other end, or else a crowd
/// of small ones would be left, each waiting for its answer, when all that is large has come.
#[derive(Debug)]
pub(super) struct Queue<'a, T> {
    waiting: std::slice::Iter<'a, T>,
    /// How many are under way that were taken from the small end.
    small: usize,
}

impl<'a, T> Queue<'a, T> {
    pub(super) fn new(largest_first: &'a [T]) -> Self {
        Self { waiting: largest_first.iter(), small: 0 }
    }

    /// Takes what is to be fetched next at this pace.
    pub(super) fn take(&mut self, pace: &Pace) -> Option<(Lane, &'a T)> {
        if self.small < pace.small {
            let next = self.waiting.next_back()?;
            self.small += 1;
            Some((Lane::Small, next))
        } else {
            Some((Lane::Large, self.waiting.next()?))
        }
    }

    /// Hears that something which was taken has come to its end.
    pub(super) fn ended(&mut self, lane: Lane) {
        self.small -= usize::from(lane == Lane::Small);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { connections: 4, small: 0, decoders: 1, waiting: 0 };

    fn take(queue: &mut Queue<'_, u32>, small: usize) -> Option<u32> {
        queue.take(&Pace { small, ..PACE }).map(|(_, size)| *size)
    }

    #[test]
    fn a_near_cache_is_asked_for_the_largest_first() {
        let mut queue = Queue::new(&[9, 5, 3]);
        assert_eq!([(); 4].map(|()| take(&mut queue, 0)), [Some(9), Some(5), Some(3), None]);
    }

    #[test]
    fn a_far_one_is_asked_for_some_of_the_smallest_as_long_as_others_come() {
        let mut queue = Queue::new(&[9, 8, 7, 3, 2, 1]);
        assert_eq!([(); 4].map(|()| take(&mut queue, 2)), [Some(1), Some(2), Some(9), Some(8)]);
        // Whoever has come makes room for one of its own kind.
        queue.ended(Lane::Large);
        assert_eq!(take(&mut queue, 2), Some(7));
        queue.ended(Lane::Small);
        assert_eq!(take(&mut queue, 2), Some(3));
        assert_eq!(take(&mut queue, 2), None);
    }

    #[test]
    fn a_cache_that_turns_out_to_be_far_is_asked_for_small_ones_from_then_on() {
        let mut queue = Queue::new(&[9, 8, 1]);
        assert_eq!([take(&mut queue, 0), take(&mut queue, 1)], [Some(9), Some(1)]);
    }
}
