//! Running commands in a machine.
//!
//! [`builder`] describes a command and runs it, [`child`] is one that runs, [`outcome`] how it
//! ended. Both are made of a [`session`], the stream to the agent, which carries a
//! [`conversation`]. The command, the conversation and the outcome are also those of
//! `async_`, which has a session of its own.

mod builder;
mod child;
mod conversation;
mod outcome;
mod queue;
mod session;
#[cfg(test)]
mod tests;

pub use self::builder::ExecBuilder;
#[cfg(feature = "tokio")]
pub(crate) use self::builder::Plan;
pub(crate) use self::builder::pass_on;
#[cfg(feature = "tokio")]
pub(crate) use self::child::SIGKILL;
pub use self::child::{ExecChild, ExecSignaler, ExecStderr, ExecStdin, ExecStdout};
#[cfg(feature = "tokio")]
pub(crate) use self::conversation::Conversation;
#[cfg(all(test, feature = "tokio"))]
pub(crate) use self::conversation::Patience;
#[cfg(feature = "tokio")]
pub(crate) use self::outcome::Kept;
pub use self::outcome::{ExecOutcome, ExitStatus};
