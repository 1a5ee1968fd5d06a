//! The one bounded reader and the writer that all formats share.
//!
//! Integers are little-endian. A [`Reader`] never reads past its slice, never allocates more
//! than its slice could fill, and puts the byte offset into its errors.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ended inside a field.
    #[error("{field} at byte {offset} is cut off")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
        /// Its first byte.
        offset: usize,
    },
    /// A field holds a value that the format does not allow.
    #[error("{field} at byte {offset} holds the illegal value {value:#x}")]
    Illegal {
        /// The field that was being read.
        field: &'static str,
        /// Its first byte.
        offset: usize,
        /// Its value.
        value: u64,
    },
    /// A count or length exceeds the format's limit.
    #[error("{field} at byte {offset} is {value}, more than the limit of {limit}")]
    TooLarge {
        /// The field that was being read.
        field: &'static str,
        /// Its first byte.
        offset: usize,
        /// Its value.
        value: u64,
        /// The largest legal value.
        limit: u64,
    },
    /// A text field is not UTF-8.
    #[error("{field} at byte {offset} is not UTF-8 text")]
    NotText {
        /// The field that was being read.
        field: &'static str,
        /// Its first byte.
        offset: usize,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field at byte {offset}")]
    Trailing {
        /// The end of the last field.
        offset: usize,
        /// The number of bytes that follow.
        count: usize,
    },
}

/// Reads fields from a slice, front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the start.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Reads the next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer are left.
    pub fn bytes(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Truncated { field, offset: self.offset });
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// Reads the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer are left.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    /// Reads one byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    /// Reads a 16-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Reads a 32-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Reads a 64-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Reads a byte that must be 0 or 1.
    ///
    /// # Errors
    /// [`DecodeError::Illegal`] for another value.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        let offset = self.offset;
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::Illegal { field, offset, value: value.into() }),
        }
    }

    /// Reads a 32-bit count of items. `item_size` is the least size of an item in bytes, so that
    /// callers allocate no more than the input could hold.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] above `limit`; [`DecodeError::Truncated`] if the items exceed the
    /// input.
    pub fn count(
        &mut self,
        field: &'static str,
        limit: usize,
        item_size: usize,
    ) -> Result<usize, DecodeError> {
        let offset = self.offset;
        let value = self.u32(field)?;
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        if count > limit {
            let limit = u64::try_from(limit).unwrap_or(u64::MAX);
            return Err(DecodeError::TooLarge { field, offset, value: value.into(), limit });
        }
        if count.saturating_mul(item_size) > self.rest.len() {
            return Err(DecodeError::Truncated { field, offset });
        }
        Ok(count)
    }

    /// Reads a list: a count as in [`Reader::count`], then that many items.
    ///
    /// # Errors
    /// Those of [`Reader::count`] and of `item`.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        limit: usize,
        item_size: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(field, limit, item_size)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Reads a byte string: a 32-bit length of at most `limit`, then the bytes.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] or [`DecodeError::Truncated`].
    pub fn byte_string(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let count = self.count(field, limit, 1)?;
        self.bytes(field, count)
    }

    /// Reads a byte string that must be UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::NotText`] and those of [`Reader::byte_string`].
    pub fn string(&mut self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        let offset = self.offset;
        let bytes = self.byte_string(field, limit)?;
        match core::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(DecodeError::NotText { field, offset }),
        }
    }

    /// Reads a presence byte, 0 or 1, and the value if the byte is 1.
    ///
    /// # Errors
    /// [`DecodeError::Illegal`] for another presence byte, and those of `value`.
    pub fn option<T>(
        &mut self,
        field: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(field)? { value(self).map(Some) } else { Ok(None) }
    }

    /// Refuses bytes after the last field.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`].
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing { offset: self.offset, count }),
        }
    }

    /// Returns the error for an illegal value in the field that was just read.
    #[must_use]
    pub fn illegal(&self, field: &'static str, value: u64) -> DecodeError {
        DecodeError::Illegal { field, offset: self.offset, value }
    }

    /// The number of bytes read so far.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The number of bytes left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// Appends fields to a buffer; the counterpart of [`Reader`].
pub trait Put {
    /// Appends raw bytes.
    fn put(&mut self, bytes: &[u8]);

    /// Appends one byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Appends a 16-bit integer.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a 32-bit integer.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a 64-bit integer.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends 0 or 1.
    fn put_bool(&mut self, value: bool) {
        self.put_u8(value.into());
    }

    /// Appends a 32-bit count. A larger count saturates, and no decoder accepts the result.
    fn put_count(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Appends a list: its count, then each item.
    fn put_list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T))
    where
        Self: Sized,
    {
        self.put_count(items.len());
        for each in items {
            item(self, each);
        }
    }

    /// Appends a byte string: its 32-bit length, then the bytes.
    fn put_byte_string(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put(bytes);
    }

    /// Appends a presence byte, then the value if there is one.
    fn put_option<T>(&mut self, value: Option<&T>, item: impl FnOnce(&mut Self, &T))
    where
        Self: Sized,
    {
        self.put_bool(value.is_some());
        if let Some(value) = value {
            item(self, value);
        }
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn fields_round_trip() {
        let mut bytes = Vec::new();
        bytes.put_u8(1);
        bytes.put_u16(0x0203);
        bytes.put_u32(7);
        bytes.put_u64(u64::MAX);
        bytes.put_bool(true);
        bytes.put_byte_string(b"text");
        bytes.put_list(&[3_u16, 4], |out, item| out.put_u16(*item));
        bytes.put_option(Some(&5_u8), |out, value| out.put_u8(*value));
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(0x0203));
        assert_eq!(reader.u32("c"), Ok(7));
        assert_eq!(reader.u64("d"), Ok(u64::MAX));
        assert_eq!(reader.bool("e"), Ok(true));
        assert_eq!(reader.string("f", 4).unwrap(), "text");
        assert_eq!(reader.list("g", 2, 2, |r| r.u16("item")), Ok(vec![3, 4]));
        assert_eq!(reader.option("h", |r| r.u8("value")), Ok(Some(5)));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn count_beyond_the_input_is_refused_without_allocating() {
        let bytes = u32::MAX.to_le_bytes();
        let error = Reader::new(&bytes).list("items", usize::MAX, 8, |r| r.u64("item"));
        assert_eq!(error, Err(DecodeError::Truncated { field: "items", offset: 0 }));
    }

    #[test]
    fn count_beyond_the_limit_is_refused() {
        let bytes = [5, 0, 0, 0, 1, 1, 1, 1, 1];
        let error = Reader::new(&bytes).byte_string("name", 4);
        let expected = DecodeError::TooLarge { field: "name", offset: 0, value: 5, limit: 4 };
        assert_eq!(error, Err(expected));
    }

    #[test]
    fn bool_of_two_is_refused() {
        let expected = DecodeError::Illegal { field: "flag", offset: 0, value: 2 };
        assert_eq!(Reader::new(&[2]).bool("flag"), Err(expected));
    }

    #[test]
    fn bytes_after_the_last_field_are_refused() {
        let mut reader = Reader::new(&[1, 2]);
        reader.u8("first").unwrap();
        assert_eq!(reader.finish(), Err(DecodeError::Trailing { offset: 1, count: 1 }));
    }
}
