//! Bytes that wait to be sent or read, in order.

/// A buffer that is filled at the back and consumed from the front.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    start: usize,
}

impl Backlog {
    /// A backlog of these bytes.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }

    /// The buffer, to append bytes to.
    pub(crate) fn end(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.start = 0;
        &mut self.bytes
    }

    /// The waiting bytes.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Consumes bytes from the front.
    pub(crate) fn gone(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Moves as many bytes as fit into `space`, and returns their number.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> usize {
        let waiting = self.waiting();
        let count = waiting.len().min(space.len());
        for (place, byte) in space.iter_mut().zip(waiting) {
            *place = *byte;
        }
        self.gone(count);
        count
    }

    /// Takes all waiting bytes.
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
    fn backlog_delivers_bytes_once_and_in_order() {
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
