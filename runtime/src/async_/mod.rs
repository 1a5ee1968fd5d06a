//! The same for those who await: machines, commands, files, ports and pools over non-blocking I/O,
//! with tokio. It needs the feature `tokio`.
//!
//! The names are those of the crate itself, and so is what they do: what passes between host and
//! guest is one state machine for both, and only who waits differs. An [`Image`](crate::Image) is
//! opened in the same way, and a pool is built in the same way.
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
//! No call has a thread of its own: any number of them may be under way on one. What keeps a
//! processor busy for milliseconds is done on the runtime's threads for blocking work: to start
//! and to stop a machine, to take a snapshot, and to acquire a machine that is not warm. To open a
//! stream for a request takes microseconds, but for the few milliseconds in which a snapshot of
//! the same machine is taken. A machine has its own threads in any case, and so has each forward
//! that it exposes.
//!
//! # The runtime
//! Everything here is to be called within a tokio runtime with I/O and time enabled, and panics
//! elsewhere, as tokio's own sockets do. Either kind of runtime serves. A command's streams belong
//! to the runtime that it was started in.
//!
//! # When a future is dropped
//! Futures may be dropped at any point, by `select!` or a time-out.
//!
//! - [`ExecChild::wait`], and reading from and writing to all streams, lose nothing: whoever calls
//!   again goes on where it was.
//! - [`output`](crate::ExecBuilder::output) and [`spawn`](crate::ExecBuilder::spawn) kill the command.
//! - A file that is written, or an archive that is unpacked, stays as far as it came.
//! - [`Pool::acquire`] gives its place in the queue up, and its machine to the next.
//! - [`Vm::start`] ends the machine. [`Vm::snapshot`] goes on to its end.

mod child;
mod exec;
mod files;
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
