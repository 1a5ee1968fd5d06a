//! Random bytes from the kernel.

use std::io;

/// The most bytes of one call.
const LIMIT: usize = 256;

/// Fills `buffer` with random bytes from the operating system.
///
/// # Errors
/// `getentropy` fails.
pub fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    for piece in buffer.chunks_mut(LIMIT) {
        // SAFETY: pointer and length describe `piece`, which is writable.
        if unsafe { libc::getentropy(piece.as_mut_ptr().cast(), piece.len()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
