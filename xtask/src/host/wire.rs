//! Messages on the control port between the caller and the emulated host: one request in, then
//! the command's standard input; one report out.
//!
//! Each message is a little-endian u32 length and that many bytes, of JSON or, for a
//! chunk of standard input, plain. An empty chunk is the end of input: if the
//! socket were closed instead, QEMU would drop unread bytes.

use std::ffi::OsString;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest message: an environment is at most 2 MiB, and JSON of bytes is wordy.
const LONGEST: u32 = 32 << 20;

/// The command to run.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Request {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) folder: OsString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The modules to load, in this order.
    pub(super) modules: Vec<OsString>,
    /// Seconds after which to print what every thread waits for.
    pub(super) report_waits_after: Option<u64>,
    /// Whether to send a byte over the pulse port each second.
    pub(super) has_pulse: bool,
}

/// The command's result. The byte counts let the caller wait for the rest of the output.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Report {
    pub(super) status: u8,
    pub(super) stdout: u64,
    pub(super) stderr: u64,
}

pub(super) fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    send_chunk(to, &serde_json::to_vec(message)?)
}

pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    Ok(serde_json::from_slice(&receive_chunk(from)?)?)
}

pub(super) fn send_chunk(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|n| *n <= LONGEST);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(body)
}

pub(super) fn receive_chunk(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    from.take(length.into()).read_to_end(&mut body)?;
    if body.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_with_bytes_that_are_no_text_arrives_unchanged() {
        use std::os::unix::ffi::OsStringExt;
        let word = OsString::from_vec(vec![0xff, b'\n', b'"']);
        let sent = Request {
            argv: vec![word.clone()],
            env: vec![(word.clone(), word.clone())],
            folder: word.clone(),
            uid: 1,
            gid: 2,
            modules: Vec::new(),
            report_waits_after: None,
            has_pulse: true,
        };
        let mut bytes = Vec::new();
        send(&mut bytes, &sent).unwrap();
        let got: Request = receive(&mut bytes.as_slice()).unwrap();
        assert_eq!(got.argv, sent.argv);
        assert_eq!(got.env, sent.env);
        assert_eq!((got.folder, got.uid, got.gid), (word, 1, 2));
    }

    #[test]
    fn chunk_cut_short_is_an_error() {
        let mut bytes = Vec::new();
        send_chunk(&mut bytes, b"four").unwrap();
        for length in 0..bytes.len() {
            let error = receive_chunk(&mut bytes.get(..length).unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn chunk_longer_than_the_limit_is_refused_before_it_is_read() {
        let error = receive_chunk(&mut [0xff; 4].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
