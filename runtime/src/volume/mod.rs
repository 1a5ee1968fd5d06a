//! Volumes on the host: what a program says of them, their files, and the folder of named ones. A machine is
//! not known here.

mod description;
mod error;
mod folder;
mod limits;
mod name;
mod open;
#[cfg(test)]
mod tests;

pub use self::description::Volume;
pub use self::error::VolumeError;
pub use self::folder::{VolumeFolder, VolumeInfo};
pub(crate) use self::name::check_target;
