//! The entrypoint's last output: a ring of bytes that keeps both streams in order.
//!
//! Holds at most [`CAPACITY`] bytes and discards the oldest. Bytes are numbered from the first one
//! written, so a reader's position is one number.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The most bytes that are kept.
pub(crate) const CAPACITY: usize = 64 << 10;
/// The most changes between the streams that are kept.
const MAX_SPANS: usize = 4096;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

#[derive(Debug)]
struct Span {
    stream: Stream,
    length: usize,
}

/// The ring. See the module.
#[derive(Debug, Default)]
pub(crate) struct Log {
    bytes: VecDeque<u8>,
    spans: VecDeque<Span>,
    forgotten: u64,
}

impl Log {
    /// Adds output.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let kept = bytes.split_at(bytes.len().saturating_sub(CAPACITY)).1;
        self.forgotten += (bytes.len() - kept.len()) as u64;
        self.forget((self.bytes.len() + kept.len()).saturating_sub(CAPACITY));
        if kept.is_empty() {
            return;
        }
        match self.spans.back_mut() {
            Some(last) if last.stream == stream => last.length += kept.len(),
            _ => self.spans.push_back(Span { stream, length: kept.len() }),
        }
        self.bytes.extend(kept);
        if self.spans.len() > MAX_SPANS {
            let oldest = self.spans.front().map_or(0, |span| span.length);
            self.forget(oldest);
        }
    }

    /// The oldest piece at or after `position` that is still there: where it begins, its
    /// stream, and bytes of at most `limit`.
    pub(crate) fn read(&self, position: u64, limit: usize) -> Option<(u64, Stream, &[u8])> {
        let start = position.max(self.forgotten);
        let mut offset = usize::try_from(start - self.forgotten).ok()?;
        let place = offset;
        for span in &self.spans {
            if offset < span.length {
                let length = (span.length - offset).min(limit);
                let (front, back) = self.bytes.as_slices();
                let piece = match front.get(place..) {
                    Some(rest) if !rest.is_empty() => rest,
                    _ => back.get(place - front.len()..)?,
                };
                return Some((start, span.stream, piece.get(..length).unwrap_or(piece)));
            }
            offset -= span.length;
        }
        None
    }

    /// The position of the next byte.
    pub(crate) fn end(&self) -> u64 {
        self.forgotten + self.bytes.len() as u64
    }

    /// Whether a text is among what was written from `position` on, and is still there.
    pub(crate) fn contains(&self, text: &[u8], position: u64) -> bool {
        let skipped = position.saturating_sub(self.forgotten);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = self.bytes.iter().skip(skipped).copied().collect();
        bytes.windows(text.len()).any(|window| window == text)
    }

    /// The last bytes of both streams, at most `limit`.
    pub(crate) fn tail(&self, limit: usize) -> Vec<u8> {
        self.bytes.iter().skip(self.bytes.len().saturating_sub(limit)).copied().collect()
    }

    fn forget(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        self.forgotten += count as u64;
        let mut rest = count;
        while let Some(front) = self.spans.front_mut() {
            if rest < front.length {
                front.length -= rest;
                return;
            }
            rest -= front.length;
            self.spans.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_from_a_position_on() {
        let mut log = Log::default();
        log.push(Stream::Out, b"ready");
        let end = log.end();
        assert!(log.contains(b"ready", 0) && !log.contains(b"ready", end));
        log.push(Stream::Err, b" re");
        log.push(Stream::Err, b"ady");
        assert!(log.contains(b"ready", end) && !log.contains(b"ready", end + 2));
        log.push(Stream::Out, &[b'.'; CAPACITY]);
        assert!(!log.contains(b"ready", 0) && log.contains(b"...", end));
        assert_eq!(log.end(), CAPACITY as u64 + 11);
    }

    fn all(log: &Log, mut position: u64, limit: usize) -> Vec<(Stream, Vec<u8>)> {
        let mut pieces = Vec::new();
        while let Some((at, stream, piece)) = log.read(position, limit) {
            assert!(!piece.is_empty() && piece.len() <= limit);
            pieces.push((stream, piece.to_vec()));
            position = at + piece.len() as u64;
        }
        pieces
    }

    #[test]
    fn both_streams_are_read_back_in_order() {
        let mut log = Log::default();
        log.push(Stream::Out, b"one");
        log.push(Stream::Out, b" two");
        log.push(Stream::Err, b"three");
        log.push(Stream::Out, b"");
        let expected = [(Stream::Out, b"one two".to_vec()), (Stream::Err, b"three".to_vec())];
        assert_eq!(all(&log, 0, 100), expected);
        assert_eq!(all(&log, 5, 100)[0].1, b"wo");
        assert_eq!(all(&log, 12, 100), []);
        assert_eq!((log.tail(7), log.tail(99)), (b"wothree".to_vec(), b"one twothree".to_vec()));
    }

    #[test]
    fn oldest_bytes_are_discarded() {
        let mut log = Log::default();
        log.push(Stream::Err, b"gone");
        for round in 0..100_u8 {
            log.push(Stream::Out, &[round; 1000]);
        }
        let kept: Vec<u8> = all(&log, 0, 700).into_iter().flat_map(|piece| piece.1).collect();
        assert_eq!(kept.len(), CAPACITY);
        assert_eq!(kept.last(), Some(&99));
        assert_eq!(log.read(0, 1).map(|piece| piece.0), Some(100_004 - CAPACITY as u64));
    }

    #[test]
    fn piece_larger_than_the_ring_keeps_its_tail() {
        let mut log = Log::default();
        let mut bytes = vec![1; CAPACITY];
        bytes.extend([2; 10]);
        log.push(Stream::Out, b"x");
        log.push(Stream::Out, &bytes);
        let kept: Vec<u8> = all(&log, 0, CAPACITY).into_iter().flat_map(|piece| piece.1).collect();
        assert_eq!(kept, bytes[10..]);
    }

    #[test]
    fn many_changes_of_stream_are_bounded() {
        let mut log = Log::default();
        for _ in 0..3 * MAX_SPANS {
            log.push(Stream::Out, b"o");
            log.push(Stream::Err, b"e");
        }
        assert_eq!(log.spans.len(), MAX_SPANS);
        assert_eq!(all(&log, 0, 9).len(), MAX_SPANS);
    }
}
