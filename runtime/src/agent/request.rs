//! Requests as bytes, checked before they are sent.

use supermachine_formats::wire::{
    Command, HEADER_SIZE, Input, MAX_CHUNK, MAX_PAYLOAD, Message, Request,
};

use crate::Error;
use crate::error::InvalidInput;

/// Encodes a request.
///
/// # Errors
/// It is too large, or has a zero byte in a text.
pub(crate) fn frame(request: &Request) -> Result<Vec<u8>, Error> {
    if let Request::Exec(command) = request {
        refuse_zero_bytes(command)?;
    }
    let frame = request.to_frame();
    let size = frame.len() - HEADER_SIZE;
    if size > MAX_PAYLOAD {
        return Err(Error::Invalid {
            source: InvalidInput::CommandTooLarge { size, limit: MAX_PAYLOAD },
        });
    }
    Ok(frame)
}

/// The agent rejects such texts, as its system cannot use them.
fn refuse_zero_bytes(command: &Command) -> Result<(), Error> {
    let has_zero = |texts: &[Vec<u8>]| texts.iter().any(|text| text.contains(&0));
    let parts = [
        ("argument", has_zero(&command.argv) || command.chain.iter().any(|argv| has_zero(argv))),
        ("environment", has_zero(&command.env)),
        ("working directory", command.cwd.as_ref().is_some_and(|cwd| cwd.contains(&0))),
        ("user", command.user.as_ref().is_some_and(|user| user.contains('\0'))),
    ];
    match parts.into_iter().find(|(_, is_bad)| *is_bad) {
        Some((what, _)) => Err(Error::Invalid { source: InvalidInput::ZeroByte { what } }),
        None => Ok(()),
    }
}

/// Encodes a request and its first content; `whole` marks that as all of it.
pub(crate) fn beginning(request: &Request, first: &[u8], whole: bool) -> Result<Vec<u8>, Error> {
    let mut bytes = frame(request)?;
    for piece in first.chunks(MAX_CHUNK) {
        Input::Data(piece.to_vec()).encode(&mut bytes);
    }
    if whole {
        Input::DataEnd.encode(&mut bytes);
    }
    Ok(bytes)
}

/// The part of `bytes` that fits one frame.
pub(crate) fn piece(bytes: &[u8]) -> &[u8] {
    bytes.get(..MAX_CHUNK).unwrap_or(bytes)
}

/// Checks that a number is a signal.
pub(crate) fn signal_number(number: i32) -> Result<u8, Error> {
    let signal = u8::try_from(number).ok().filter(|signal| (1..=64).contains(signal));
    signal.ok_or(Error::Invalid { source: InvalidInput::Signal { number } })
}
