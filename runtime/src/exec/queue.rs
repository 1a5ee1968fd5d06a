//! Output that waits to be read, and when its flow is to stop and to go on.

use std::collections::VecDeque;

use supermachine_formats::wire::Flow;

/// From here on the guest is told to pause. What it has sent by then still comes: what the
/// agent, the socket device and the socket hold, together less than a mebibyte.
const PAUSE: usize = 256 << 10;
/// From here down it is told to go on.
const GO_ON: usize = 64 << 10;
/// With more than this nothing more is taken from the stream, whatever the guest sends.
const LIMIT: usize = 2 << 20;

/// One output stream's bytes.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: VecDeque<u8>,
    flow: Flow,
}

impl Default for Queue {
    fn default() -> Self {
        Self { bytes: VecDeque::new(), flow: Flow::Open }
    }
}

impl Queue {
    /// Adds output. Nobody reads what comes after it was closed.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.flow != Flow::Closed {
            self.bytes.extend(bytes);
        }
    }

    /// Takes what fits; gives how much that was.
    pub(super) fn take(&mut self, space: &mut [u8]) -> usize {
        let mut taken = 0;
        let (front, back) = self.bytes.as_slices();
        for (place, byte) in space.iter_mut().zip(front.iter().chain(back)) {
            *place = *byte;
            taken += 1;
        }
        self.bytes.drain(..taken);
        taken
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).into()
    }

    /// Whether no more may be taken from the stream.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= LIMIT
    }

    /// Gives up what waits and what comes. True: the guest is to be told.
    pub(super) fn close(&mut self) -> bool {
        self.bytes = VecDeque::new();
        std::mem::replace(&mut self.flow, Flow::Closed) != Flow::Closed
    }

    /// What the guest is to be told now, if anything.
    pub(super) fn turn(&mut self) -> Option<Flow> {
        let next = match self.flow {
            Flow::Open if self.bytes.len() >= PAUSE => Flow::Paused,
            Flow::Paused if self.bytes.len() <= GO_ON => Flow::Open,
            _ => return None,
        };
        self.flow = next;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_stops_and_goes_on_once_each() {
        let mut queue = Queue::default();
        queue.push(&vec![1; PAUSE - 1]);
        assert_eq!(queue.turn(), None);
        queue.push(&[2]);
        assert_eq!((queue.turn(), queue.turn()), (Some(Flow::Paused), None));
        let mut space = vec![0; PAUSE - GO_ON - 1];
        assert_eq!(queue.take(&mut space), space.len());
        assert_eq!(queue.turn(), None);
        assert_eq!(queue.take(&mut [0]), 1);
        assert_eq!((queue.turn(), queue.turn()), (Some(Flow::Open), None));
        assert!(queue.take_all().ends_with(&[1, 2]));
    }

    #[test]
    fn a_closed_queue_keeps_nothing() {
        let mut queue = Queue::default();
        queue.push(b"x");
        assert!(queue.close() && !queue.close());
        queue.push(b"y");
        assert!(queue.take_all().is_empty() && queue.turn().is_none());
    }
}
