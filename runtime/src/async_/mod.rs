//! The asynchronous API: machines, commands, files, ports and pools over tokio. It needs the
//! feature `tokio`.
//!
//! Names and behaviour are those of the blocking API: both drive the same state machines. An
//! [`Image`](crate::Image) and a [`PoolBuilder`](crate::PoolBuilder) serve both.
//!
//! ```no_run
//! use std::time::Duration;
//! use supermachine::{Error, Image, VmConfig, async_};
//!
//! # async fn example() -> Result<(), Error> {
//! let image = Image::from_store("target/snapshots", "python")?;
//! let vm = async_::Vm::start(&image, &VmConfig::new()).await?;
//! let outcome = vm
//!     .exec_builder()
//!     .argv(["python3", "-c", "print(6 * 7)"])
//!     .timeout(Duration::from_secs(5))
//!     .output()
//!     .await?;
//! assert_eq!(outcome.stdout, b"42\n");
//! vm.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//! Calls need no threads: any number of them may be in progress on one. Work that keeps a processor
//! busy for milliseconds runs on the runtime's threads for blocking work: starting and stopping a
//! machine, taking a snapshot, and acquiring a machine that is not warm. Opening a stream takes
//! microseconds, except during the few milliseconds of a snapshot of the same machine. Each machine
//! and each forward has threads of its own.
//!
//! # The runtime
//! All calls need a tokio runtime with I/O and time enabled, of either kind, and panic elsewhere,
//! as tokio's own sockets do. A command's streams belong to the runtime that started it.
//!
//! # When a future is dropped
//! Futures may be dropped at any point, by `select!` or a timeout.
//!
//! - [`ExecChild::wait`], and reads and writes of all streams, lose nothing: the next call
//!   continues.
//! - [`output`](crate::ExecBuilder::output) and [`spawn`](crate::ExecBuilder::spawn) kill the command.
//! - A file being written, or an archive being unpacked, stays partial.
//! - [`Pool::acquire`] leaves the queue, and passes its machine to the next caller.
//! - [`Vm::start`] stops the machine. [`Vm::snapshot`] completes.

mod child;
mod exec;
mod files;
mod logs;
mod pool;
mod ports;
mod request;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod transfer;
mod vm;
mod waiters;

pub use self::child::{ExecChild, ExecSignaler, ExecStderr, ExecStdin, ExecStdout};
pub use self::exec::ExecBuilder;
pub use self::files::{FileBuilder, FileReader, FileWriter};
pub use self::pool::{Pool, PooledVm};
pub use self::ports::GuestStream;
pub use self::vm::Vm;
pub use crate::machine::Awaited;
