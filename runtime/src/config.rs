//! What the caller requires of a machine.

use supermachine_vmm::host;

use crate::AssetPaths;
#[cfg(feature = "net")]
use crate::Network;
#[cfg(feature = "fs")]
use crate::{HostFolder, Volume};

/// Whether machines are isolated unless [`VmConfig::with_isolated`] says otherwise.
const ISOLATED_BY_DEFAULT: bool = cfg!(feature = "isolated") || host::ONE_MACHINE_PER_PROCESS;

/// How to start a [`Vm`](crate::Vm).
///
/// A snapshot fixes its machine's memory and processors. Requiring them here checks that the
/// snapshot has them; a mismatch is an error that names both sizes.
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
    /// `None` is the default.
    is_isolated: Option<bool>,
    assets: Option<AssetPaths>,
    #[cfg(feature = "net")]
    network: Option<Network>,
    #[cfg(feature = "fs")]
    shares: Vec<HostFolder>,
    #[cfg(feature = "fs")]
    volumes: Vec<(Volume, String)>,
}

impl VmConfig {
    /// Requires nothing of the snapshot.
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

    /// Sets the guest's host name.
    #[must_use]
    pub fn with_hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// Expands a snapshot in the cache before the machine starts, even where the machine could
    /// start at once and page on demand.
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

    /// Runs the machine in a worker process, so that a guest that escapes its machine is not in
    /// this process. The worker is the program [`AssetPaths::worker`], which `cargo supermachine
    /// bundle` puts beside the app. It gets neither this process's environment nor its descriptors,
    /// except those of the snapshot's files, and exits with the machine or with this process.
    ///
    /// The default is `false`, unless the feature `isolated` is on, or the host's hypervisor allows a process
    /// one machine only.
    ///
    /// An isolated machine has the same API. Its start costs a process more; commands, files and
    /// ports cost the same. A pool resets it in its worker; a machine whose next user must not get
    /// the same worker is [discarded](crate::PooledVm::discard).
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
        self.is_isolated = Some(is_isolated);
        self
    }

    /// Gives the guest a network interface that reaches what `network` allows. Without it, a guest has a
    /// loopback interface only. Any snapshot can start with a network or without one.
    ///
    /// The interface is set up before the first command, with a name server that answers for what is
    /// allowed. Flows end with the machine, with its return to a pool, and with a restore.
    ///
    /// ```no_run
    /// use supermachine::{Image, Network, VmConfig};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let network = Network::none().allow("pypi.org:443".parse()?);
    /// let config = VmConfig::new().with_network(network);
    /// let vm = Image::from_store("snapshots", "python")?.start(&config)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "net")]
    #[must_use]
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// The guest's network.
    #[cfg(feature = "net")]
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Gives the guest a folder of the host; each call adds one, up to eight. What the guest does there, it
    /// does on the host. The folder is mounted before the first command. An entrypoint that runs in the snapshot
    /// starts anew if the folder covers a directory that has files in it, or that a program works in.
    ///
    /// Any snapshot can start with folders. A snapshot that is taken of a machine with folders holds none
    /// of their files: each of its machines is given a folder for each of these places again.
    ///
    /// ```no_run
    /// use supermachine::{HostFolder, Image, VmConfig};
    ///
    /// # fn main() -> Result<(), supermachine::Error> {
    /// let config = VmConfig::new()
    ///     .with_share(HostFolder::new("project", "/project"))
    ///     .with_share(HostFolder::new("/usr/share/dict", "/dict").read_only());
    /// let vm = Image::from_store("snapshots", "python")?.start(&config)?;
    /// vm.exec(["python3", "/project/main.py"])?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "fs")]
    #[must_use]
    pub fn with_share(mut self, folder: HostFolder) -> Self {
        self.shares.push(folder);
        self
    }

    /// The guest's folders of the host.
    #[cfg(feature = "fs")]
    #[must_use]
    pub fn shares(&self) -> &[HostFolder] {
        &self.shares
    }

    /// Gives the guest a volume, which it mounts at `target`, an absolute path, before the first command;
    /// each call adds one, up to four disks in all. The guest makes the target if it is missing.
    ///
    /// An entrypoint that runs in the snapshot starts anew if the volume covers a directory that has files in it, or
    /// that a program works in.
    ///
    /// At `/` it holds what programs write to their root, which is in memory otherwise. It keeps that over one
    /// snapshot, and is refused to others. Such a machine can be neither captured nor forked.
    ///
    /// One machine at a time has a volume; another start with it is refused. What programs wrote is on the
    /// volume when a machine is stopped or dropped. When its process is killed, what was not synced may be
    /// missing, as after a power cut.
    ///
    /// Any snapshot can start with volumes. A snapshot of a machine with a volume holds none of its content:
    /// each of its machines is given a volume for this place again, which is mounted anew, and files that
    /// programs had open there fail.
    ///
    /// ```no_run
    /// use supermachine::{Image, VmConfig, Volume};
    ///
    /// # fn main() -> Result<(), supermachine::Error> {
    /// let config = VmConfig::new().with_volume(Volume::named("data"), "/data");
    /// let image = Image::from_store("snapshots", "busybox")?;
    /// image.start(&config)?.exec(["sh", "-c", "echo kept > /data/file"])?;
    /// let vm = image.start(&config)?;
    /// assert_eq!(vm.read_file("/data/file")?, b"kept\n");
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "fs")]
    #[must_use]
    pub fn with_volume(mut self, volume: Volume, target: impl Into<String>) -> Self {
        self.volumes.push((volume, target.into()));
        self
    }

    /// Gives the guest an empty disk of `size` bytes at `target`, which is gone with the machine. It takes
    /// the room of the files on it, on the host's disk and not in memory. At `/` it holds all that programs write,
    /// as [`with_volume`](Self::with_volume) says.
    #[cfg(feature = "fs")]
    #[must_use]
    pub fn with_disk(self, target: impl Into<String>, size: u64) -> Self {
        self.with_volume(Volume::scratch(size), target)
    }

    /// The guest's volumes and disks, and where it mounts them.
    #[cfg(feature = "fs")]
    #[must_use]
    pub fn volumes(&self) -> &[(Volume, String)] {
        &self.volumes
    }

    /// Sets the folders that ship with the program; [`AssetPaths::discover`] is the default. Only
    /// an [isolated](Self::with_isolated) machine needs them, for [`AssetPaths::worker`].
    #[must_use]
    pub fn with_assets(mut self, assets: AssetPaths) -> Self {
        self.assets = Some(assets);
        self
    }

    /// The folders that ship with the program, if they were set.
    #[must_use]
    pub fn assets(&self) -> Option<&AssetPaths> {
        self.assets.as_ref()
    }

    /// The required memory, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> Option<u64> {
        self.memory_mib
    }

    /// The required virtual processors.
    #[must_use]
    pub fn vcpus(&self) -> Option<u16> {
        self.vcpus
    }

    /// Whether the machine may start before its snapshot is expanded.
    pub(crate) fn starts_on_demand(&self) -> bool {
        !self.expands_first
    }

    /// Whether the machine runs in a worker process.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.is_isolated.unwrap_or(ISOLATED_BY_DEFAULT)
    }

    /// The number of machines to keep warm.
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
    fn configuration_keeps_the_last_value() {
        let config =
            VmConfig::new().with_memory_mib(1).with_memory_mib(2).with_vcpus(3).with_hostname("a");
        assert_eq!((config.memory_mib(), config.vcpus()), (Some(2), Some(3)));
        assert_eq!(config.hostname(), Some("a"));
    }

    #[test]
    fn new_configuration_requires_nothing() {
        let config = VmConfig::new();
        assert_eq!((config.memory_mib(), config.vcpus(), config.hostname()), (None, None, None));
    }
}
