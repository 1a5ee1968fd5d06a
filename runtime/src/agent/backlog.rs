//! Bytes that wait to go somewhere, in order.

/// The bytes, of which those at the front may have gone.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    start: usize,
}

impl Backlog {
    /// These bytes, none of which has gone.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }

    /// Where bytes are added, behind all that wait.
    pub(crate) fn end(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.start = 0;
        &mut self.bytes
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Notes that so many bytes at the front have gone.
    pub(crate) fn gone(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Takes what fits; gives how much that was.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> usize {
        let waiting = self.waiting();
        let count = waiting.len().min(space.len());
        for (place, byte) in space.iter_mut().zip(waiting) {
            *place = *byte;
        }
        self.gone(count);
        count
    }

    /// Takes out what waits.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let bytes = std::mem::take(self.end());
        *self = Self::default();
        bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_order_and_once() {
        let mut backlog = Backlog::of(b"abc".to_vec());
        backlog.gone(1);
        backlog.end().extend(b"de");
        assert_eq!(backlog.waiting(), b"bcde");
        backlog.gone(3);
        assert_eq!(backlog.take(), b"e");
        assert!(backlog.is_empty());
        backlog.end().extend(b"fgh");
        let mut space = [0; 2];
        assert_eq!((backlog.read(&mut space), space), (2, *b"fg"));
        assert_eq!((backlog.read(&mut space), space), (1, *b"hg"));
        assert_eq!(backlog.read(&mut space), 0);
        backlog.end().push(1);
        backlog.gone(usize::MAX);
        assert!(backlog.is_empty());
    }
}
