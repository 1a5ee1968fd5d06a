//! Events of a bake.

use crate::oci::Event;

/// Receives the events of a bake. Called from any thread; must not block.
pub trait Observer: Send + Sync {
    /// A step begins.
    fn step(&self, step: &str);

    /// Something happened while the image is fetched.
    fn fetch(&self, event: Event<'_>);
}
