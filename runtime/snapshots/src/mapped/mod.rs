//! A snapshot's mapped form: memory and disks expanded into files in the user's cache.
//!
//! A form is made once, checked chunk by chunk while it is made, and shared by every snapshot
//! with the same content. Until it exists, [`PackChunks`] starts machines from the pack itself.

mod cache;
mod expand;
mod form;
mod form_dir;
mod on_demand;
mod overlay;
mod sweep;
#[cfg(test)]
mod tests;

pub use form_dir::{ExpansionMarker, FormDir, Mapped, adopt_disk, expanded_disk, forget_mapped};
pub use on_demand::PackChunks;
pub use sweep::{CacheParts, CacheUse, FormCheck, cache_use, check_form, sweep_cache};
