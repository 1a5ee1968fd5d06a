//! What a machine is and what runs in it, apart from its registers and memory.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::Digest;
use crate::record::{byte_enum, record};

/// The most vCPUs of a machine.
pub const MAX_VCPUS: usize = 64;
/// The most slots, and the most disks, of a machine.
pub const MAX_SLOTS: usize = 64;

byte_enum! {
    /// The processor architecture of a snapshot.
    pub enum Architecture {
        /// AMD64 and Intel 64.
        X86_64 = 1,
        /// 64-bit Arm.
        Aarch64 = 2,
    }

    /// The hypervisors that can restore a snapshot.
    pub enum HypervisorFamily {
        /// Any: the snapshot was never run.
        Any = 0,
        /// Linux KVM.
        Kvm = 1,
        /// Apple's Hypervisor.framework.
        Hvf = 2,
        /// Windows Hypervisor Platform.
        Whp = 3,
    }

    /// The position of a snapshot in its chain.
    pub enum Stage {
        /// Laid out as data, never run.
        Boot = 0,
        /// The kernel and the agent are up and idle.
        Base = 1,
        /// An image's entrypoint is ready.
        Image = 2,
        /// Captured from a running machine.
        Live = 3,
        /// Captured after the warm-up of an image.
        Warmed = 4,
    }
}

impl Architecture {
    /// The name that OCI image platforms use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// The name that compilers and tools use.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

impl HypervisorFamily {
    /// The name for tools.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Whp => "whp",
        }
    }
}

/// The name that its vendor uses.
impl fmt::Display for HypervisorFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any hypervisor",
            Self::Kvm => "KVM",
            Self::Hvf => "Hypervisor.framework",
            Self::Whp => "Windows Hypervisor Platform",
        })
    }
}

impl Stage {
    /// The name shown to people and tools.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Base => "base",
            Self::Image => "image",
            Self::Live => "live",
            Self::Warmed => "warmed",
        }
    }
}

record! {
    /// The shape of a machine and its ancestry.
    pub struct Machine {
        /// The snapshot's position in its chain.
        stage: Stage,
        /// The manifest of the parent snapshot.
        parent: Option<Digest>,
        /// Guest RAM in bytes.
        memory_size: u64,
        /// The number of vCPUs.
        vcpus: u16,
    }

    /// What runs in a machine, for people and tools. A restore does not read it.
    pub struct Workload {
        /// The image reference as the user wrote it.
        reference: String,
        /// The image's manifest.
        manifest: Digest,
        /// The entrypoint and its arguments.
        argv: Vec<String>,
        /// The readiness condition of the bake.
        ready: String,
        /// TCP ports that the image declares.
        exposed_ports: Vec<u16>,
    }

    /// How to stop the entrypoint. A restore does not read it.
    #[derive(Copy)]
    pub struct Stop {
        /// The signal, 1 to 64.
        signal: u8,
    }

    /// The image's own entrypoint and command, before overrides of the bake. A restore does not read
    /// it.
    pub struct ImageCommand {
        /// The image's `ENTRYPOINT`. Empty if it has none.
        entrypoint: Vec<String>,
        /// The image's `CMD`. Empty if it has none.
        command: Vec<String>,
    }

    /// What runs after each restore, before the first request is answered. For people and tools: the
    /// agent holds it in the machine's memory, and a restore does not read it.
    pub struct AfterRestore {
        /// The action, as the user wrote it.
        action: String,
    }

    /// A disk of the machine. The index holds its content.
    #[derive(Copy)]
    pub struct Disk {
        /// Size in bytes.
        size: u64,
    }
}
