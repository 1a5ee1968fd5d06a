//! Running commands in a machine.
//!
//! A [`builder`] describes a command and runs it, a [`child`] is a running one, and an [`outcome`]
//! its result. Both use a [`session`], a stream to the agent that follows the protocol of a
//! [`conversation`]. `async_` shares all of these but the session.

mod builder;
mod child;
mod conversation;
mod outcome;
mod queue;
mod session;
#[cfg(test)]
mod tests;
mod ulimit;

pub use self::builder::ExecBuilder;
pub(crate) use self::builder::pass_on;
#[cfg(feature = "tokio")]
pub(crate) use self::child::SIGKILL;
pub use self::child::{ExecChild, ExecSignaler, ExecStderr, ExecStdin, ExecStdout};
#[cfg(all(test, feature = "tokio"))]
pub(crate) use self::conversation::ReplyDeadline;
#[cfg(feature = "tokio")]
pub(crate) use self::conversation::{Conversation, PreparedCommand};
#[cfg(feature = "tokio")]
pub(crate) use self::outcome::CollectedOutput;
pub use self::outcome::{ExecOutcome, ExitStatus};
pub use self::ulimit::Ulimit;
