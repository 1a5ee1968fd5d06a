//! Archives in POSIX tar form: unpacked into a directory, and packed from one, a piece at a
//! time.
//!
//! Owners, modes and times are taken as they are; extended attributes are not. Names in an
//! archive stay below the directory: parts `..` are refused. Links that are there already are
//! followed as the kernel does: what they lead to is the guest's own.

mod header;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use self::pack::Packer;
pub(crate) use self::unpack::Unpacker;
