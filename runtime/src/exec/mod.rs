//! Running commands in a machine.
//!
//! [`builder`] describes a command and runs it, [`child`] is one that runs, [`outcome`] how it
//! ended. Both are made of a [`session`]: the stream to the agent, taken apart.

mod builder;
mod child;
mod outcome;
mod queue;
mod session;
#[cfg(test)]
mod tests;

pub use self::builder::ExecBuilder;
pub use self::child::{ExecChild, ExecSignaler, ExecStderr, ExecStdin, ExecStdout};
pub use self::outcome::{ExecOutcome, ExitStatus};
