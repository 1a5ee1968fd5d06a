//! Unread output, and the flow control of its stream.

use std::collections::VecDeque;

use supermachine_formats::wire::Flow;

/// Above this size, the guest must pause. Bytes in flight still arrive: those in the agent, the
/// socket device and the socket, together less than a mebibyte.
const PAUSE: usize = 256 << 10;
/// Below this size, the guest may continue.
const GO_ON: usize = 64 << 10;
/// Above this size, the driver reads no more, whatever the guest sends.
const LIMIT: usize = 2 << 20;

/// The bytes of one output stream.
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
    /// Appends output, unless the stream was closed.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.flow != Flow::Closed {
            self.bytes.extend(bytes);
        }
    }

    /// Moves as many bytes as fit into `space`, and returns their number.
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

    /// Takes all bytes.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).into()
    }

    /// Whether the driver must stop reading.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= LIMIT
    }

    /// Discards present and future output. Returns whether the guest needs a message.
    pub(super) fn close(&mut self) -> bool {
        self.bytes = VecDeque::new();
        std::mem::replace(&mut self.flow, Flow::Closed) != Flow::Closed
    }

    /// The flow message for the guest, if one is due.
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
    fn flow_pauses_and_continues_once_each() {
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
    fn closed_queue_keeps_nothing() {
        let mut queue = Queue::default();
        queue.push(b"x");
        assert!(queue.close() && !queue.close());
        queue.push(b"y");
        assert!(queue.take_all().is_empty() && queue.turn().is_none());
    }
}
