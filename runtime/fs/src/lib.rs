//! Folders of the host in a guest: a FUSE server that a guest cannot leave.
//!
//! [`HostFolder`] says what a guest sees and where, [`Server`] serves one guest: it takes the guest's FUSE
//! messages as bytes and answers them. It needs no rights, and touches nothing of the host but what is below
//! the folder.
//!
//! ```
//! use supermachine_fs::{HostFolder, Server};
//!
//! let server = Server::open(&HostFolder::new("/tmp", "/project").read_only())?;
//! // A request that is cut off has no answer.
//! assert!(server.answer(&[0; 8], 4096).is_empty());
//! # Ok::<(), supermachine_fs::FolderError>(())
//! ```
//!
//! Modules, each of which uses only modules in rows further down:
//!
//! ```text
//! fuzzing    for fuzz targets
//! server     answers requests
//! folder     what a guest sees, and where
//! nodes      the files that a guest knows
//! handles    the files that a guest has open
//! flags      what a guest's flags are on the host
//! request    what a guest asks for
//! reply      what it is answered
//! os         the system's calls: the shared folder, and what is in it
//! abi        the numbers of the protocol
//! ```

#![deny(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod abi;
mod flags;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod handles;
mod nodes;
mod os;
mod reply;
mod request;
mod server;

pub use folder::{FolderError, HostFolder};
pub use server::{Known, Server};
