//! The architectures of guests: what differs in their kernels and where their builds are.

use std::path::PathBuf;

use crate::place;

/// An architecture of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// AMD64 and Intel 64.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

/// What is built for an architecture.
struct Facts {
    name: &'static str,
    config: &'static str,
    make: &'static str,
    goal: &'static str,
    product: &'static str,
    file: &'static str,
    kernel: &'static str,
    agent: &'static str,
}

const X86_64: Facts = Facts {
    name: "x86_64",
    config: include_str!("../config/x86_64.config"),
    make: "x86",
    goal: crate::recipe::GOAL,
    product: crate::recipe::GOAL,
    file: "vmlinux",
    kernel: env!("KERNEL_INPUTS_X86_64"),
    agent: env!("AGENT_INPUTS_X86_64"),
};

const AARCH64: Facts = Facts {
    name: "aarch64",
    config: include_str!("../config/aarch64.config"),
    make: "arm64",
    // `vmlinux` has virtual addresses only, which no loader can use.
    goal: "Image",
    product: "arch/arm64/boot/Image",
    file: "Image",
    kernel: env!("KERNEL_INPUTS_AARCH64"),
    agent: env!("AGENT_INPUTS_AARCH64"),
};

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture that this library was built for, whose guests it starts.
    #[must_use]
    pub fn host() -> Self {
        if env!("GUEST_ARCH") == AARCH64.name { Self::Aarch64 } else { Self::X86_64 }
    }

    /// Its name in targets of Rust.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The kernel options of this architecture alone.
    #[must_use]
    pub fn config(self) -> &'static str {
        self.facts().config
    }

    /// The kernel's name for it.
    #[must_use]
    pub fn make_name(self) -> &'static str {
        self.facts().make
    }

    /// What the kernel's build is asked to make.
    #[must_use]
    pub fn goal(self) -> &'static str {
        self.facts().goal
    }

    /// Where the kernel's build leaves that.
    #[must_use]
    pub fn product(self) -> &'static str {
        self.facts().product
    }

    /// What to replace in the text of [`recipe::LAYOUT`](crate::recipe::LAYOUT), and by what.
    /// `prefix` is what the names of this architecture's compiler and assembler begin with.
    #[must_use]
    pub fn layout_edits(self, prefix: &str) -> Vec<(&'static str, String)> {
        // The last line calls the assembler.
        let mut edits = vec![("\nas \"$@\"", format!("\n{prefix}as \"$@\""))];
        if self == Self::Aarch64 {
            // Its compiler names a section again without the flags after a table of jumps.
            edits.push((r#"(,"ax")/"#, r#"(,"ax"|$)/"#.to_owned()));
        }
        edits
    }

    /// The kernel's file name in its folder.
    #[must_use]
    pub fn kernel_file(self) -> &'static str {
        self.facts().file
    }

    /// The folder of the kernel that is built from these inputs.
    #[must_use]
    pub fn kernel_dir(self) -> PathBuf {
        place::cache().join(format!("kernel-{}", self.facts().kernel))
    }

    /// The folder of the agent that is built from these inputs.
    #[must_use]
    pub fn agent_dir(self) -> PathBuf {
        place::cache().join(format!("agent-{}", self.facts().agent))
    }

    /// A digest of the inputs of kernel and agent.
    pub(crate) fn inputs(self) -> [&'static str; 2] {
        [self.facts().kernel, self.facts().agent]
    }

    const fn facts(self) -> &'static Facts {
        match self {
            Self::X86_64 => &X86_64,
            Self::Aarch64 => &AARCH64,
        }
    }
}
