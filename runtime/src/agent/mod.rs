//! Requests to the guest's agent, one stream each.
//!
//! For the baker, which talks to guests that are no [`Vm`](crate::Vm) yet. Not part of the API for
//! applications, which use [`Vm::exec_builder`](crate::Vm::exec_builder).

mod backlog;
mod delivery;
mod frames;
mod replies;
mod request;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transfer;

pub use crate::machine::{console_tail, resume};

pub(crate) use self::backlog::Backlog;
#[cfg(feature = "tokio")]
pub(crate) use self::delivery::Delivery;
pub(crate) use self::frames::{Frames, PIECE};
pub(crate) use self::replies::read_message;
pub use self::replies::{Closer, Replies, next_event};
#[cfg(feature = "tokio")]
pub(crate) use self::request::piece;
pub(crate) use self::request::{beginning, frame, signal_number};
pub(crate) use self::transfer::Transfer;
