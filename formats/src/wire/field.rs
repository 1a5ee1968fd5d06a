//! Fields that several messages share.

use alloc::vec::Vec;

use super::frame::{MAX_CHUNK, MAX_MODE, MAX_NAME, MAX_PAYLOAD, MAX_STRINGS};
use crate::codec::{DecodeError, Put, Reader};

/// The frame bounds the length of a string.
const MAX_STRING: usize = MAX_PAYLOAD;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

pub(super) fn put_strings(out: &mut Vec<u8>, strings: &[Vec<u8>]) {
    out.put_list(strings, |out, string| out.put_byte_string(string));
}

/// Reads strings that become C strings in the guest: a zero byte is illegal.
pub(super) fn read_strings(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Vec<Vec<u8>>, DecodeError> {
    reader.list(field, MAX_STRINGS, 4, |r| read_c_string(r, field, MAX_STRING))
}

pub(super) fn read_path(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Vec<u8>, DecodeError> {
    read_c_string(reader, field, MAX_NAME)
}

fn read_c_string(
    reader: &mut Reader<'_>,
    field: &'static str,
    limit: usize,
) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.byte_string(field, limit)?;
    if bytes.contains(&0) { Err(reader.illegal(field, 0)) } else { Ok(bytes.into()) }
}

pub(super) fn read_chunk(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let count = reader.remaining();
    if count > MAX_CHUNK {
        return Err(DecodeError::TooLarge {
            field: "chunk",
            offset: 0,
            value: count as u64,
            limit: MAX_CHUNK as u64,
        });
    }
    Ok(reader.bytes("chunk", count)?.into())
}

pub(super) fn read_signal(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match reader.u8("signal")? {
        signal @ 1..=64 => Ok(signal),
        value => Err(reader.illegal("signal", value.into())),
    }
}

pub(super) fn put_window(out: &mut Vec<u8>, size: WindowSize) {
    out.put_u16(size.rows);
    out.put_u16(size.columns);
}

pub(super) fn read_window(reader: &mut Reader<'_>) -> Result<WindowSize, DecodeError> {
    Ok(WindowSize { rows: reader.u16("rows")?, columns: reader.u16("columns")? })
}

pub(super) fn read_mode(reader: &mut Reader<'_>) -> Result<u16, DecodeError> {
    match reader.u16("mode")? {
        mode @ 0..=MAX_MODE => Ok(mode),
        value => Err(reader.illegal("mode", value.into())),
    }
}

/// Reads a port that a client can connect to.
pub(super) fn read_port(reader: &mut Reader<'_>) -> Result<u16, DecodeError> {
    match reader.u16("port")? {
        0 => Err(reader.illegal("port", 0)),
        port => Ok(port),
    }
}
