//! Sources of images: registries, the cache alone, layouts, and archives.

mod archive_read;
mod compressed;
mod docker_archive;
mod layout;
mod offline;
mod registry;
mod source;
mod tarball;

pub(crate) use docker_archive::DockerArchive;
pub(crate) use layout::Layout;
pub(crate) use offline::Offline;
pub(crate) use registry::Registry;
pub(crate) use source::Source;
pub(crate) use tarball::Tarball;
