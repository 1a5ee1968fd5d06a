//! What the caller asks of a machine, on top of what its snapshot fixes.

use crate::AssetPaths;

/// How a [`Vm`](crate::Vm) is started.
///
/// A snapshot fixes its machine's memory and processors. Asking for them here checks that
/// the snapshot has what the caller counts on; a mismatch is an error that names both.
///
/// ```
/// use supermachine::VmConfig;
///
/// let config = VmConfig::new().with_memory_mib(128).with_vcpus(1);
/// assert_eq!(config.memory_mib(), Some(128));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmConfig {
    memory_mib: Option<u64>,
    vcpus: Option<u16>,
    hostname: Option<String>,
    expands_first: bool,
    pool_warm: usize,
    is_isolated: bool,
    assets: Option<AssetPaths>,
}

impl VmConfig {
    /// Takes the snapshot as it is.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires this much memory, in MiB.
    #[must_use]
    pub fn with_memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = Some(memory_mib);
        self
    }

    /// Requires this many virtual processors.
    #[must_use]
    pub fn with_vcpus(mut self, vcpus: u16) -> Self {
        self.vcpus = Some(vcpus);
        self
    }

    /// Gives the guest a host name.
    #[must_use]
    pub fn with_hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// Expands a snapshot that was never expanded before the machine starts, also where it
    /// could be started at once.
    #[must_use]
    pub fn with_expand_first(mut self, expands_first: bool) -> Self {
        self.expands_first = expands_first;
        self
    }

    /// Keeps this many machines warm in the pool of [`Image::acquire_with`].
    ///
    /// [`Image::acquire_with`]: crate::Image::acquire_with
    #[must_use]
    pub fn with_pool_warm(mut self, machines: usize) -> Self {
        self.pool_warm = machines;
        self
    }

    /// Holds the machine in a process of its own, so that whatever a hostile guest breaks out of,
    /// it does not land in this one. The process is the program [`AssetPaths::worker`], which
    /// `cargo supermachine bundle` puts beside the app; it starts without this process's
    /// environment and descriptors, and ends with the machine, or with this process.
    ///
    /// All that can be done with a machine can be done with this one. It costs the start of a
    /// process; commands, files and ports cost no more. A pool does not reset it, but makes
    /// another one in its place.
    ///
    /// ```no_run
    /// use supermachine::{AssetPaths, Image, VmConfig};
    ///
    /// # fn main() -> Result<(), supermachine::Error> {
    /// let config = VmConfig::new().with_isolated(true);
    /// let vm = AssetPaths::discover().image("python")?.start(&config)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_isolated(mut self, is_isolated: bool) -> Self {
        self.is_isolated = is_isolated;
        self
    }

    /// Says where what ships with the program lies, instead of [`AssetPaths::discover`]. A machine
    /// in this process needs nothing of it; one [in its own](Self::with_isolated) is held by
    /// [`AssetPaths::worker`].
    #[must_use]
    pub fn with_assets(mut self, assets: AssetPaths) -> Self {
        self.assets = Some(assets);
        self
    }

    /// Where what ships with the program lies, if that was said.
    #[must_use]
    pub fn assets(&self) -> Option<&AssetPaths> {
        self.assets.as_ref()
    }

    /// The memory that is required, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> Option<u64> {
        self.memory_mib
    }

    /// The virtual processors that are required.
    #[must_use]
    pub fn vcpus(&self) -> Option<u16> {
        self.vcpus
    }

    /// Whether a machine may start before its snapshot is expanded.
    pub(crate) fn starts_on_demand(&self) -> bool {
        !self.expands_first
    }

    /// Whether the machine is in a process of its own.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    /// The machines that are kept warm.
    #[must_use]
    pub fn pool_warm(&self) -> usize {
        self.pool_warm
    }

    /// The guest's host name.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_keeps_what_was_asked_last() {
        let config =
            VmConfig::new().with_memory_mib(1).with_memory_mib(2).with_vcpus(3).with_hostname("a");
        assert_eq!((config.memory_mib(), config.vcpus()), (Some(2), Some(3)));
        assert_eq!(config.hostname(), Some("a"));
    }

    #[test]
    fn a_new_configuration_requires_nothing() {
        let config = VmConfig::new();
        assert_eq!((config.memory_mib(), config.vcpus(), config.hostname()), (None, None, None));
    }
}
