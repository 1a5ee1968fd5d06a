//! What differs between the emulated hosts of two architectures.

use supermachine_kernel::Arch;

/// The facts of an architecture's emulated host.
#[derive(Debug)]
pub(super) struct Platform {
    /// QEMU, and the Debian package that has it.
    pub(super) emulator: &'static str,
    pub(super) emulator_package: &'static str,
    /// A machine whose processor has virtualization; the processor is separate.
    pub(super) machine: &'static str,
    pub(super) cpu: &'static str,
    /// The kernel's name of the console.
    pub(super) console: &'static str,
    /// More parameters of the kernel.
    pub(super) parameters: &'static str,
    /// The Debian package that depends on the newest kernel.
    pub(super) kernel_package: &'static str,
    /// The modules that KVM needs, in the order of loading, and their folders.
    pub(super) modules: &'static [(&'static str, &'static str)],
    /// Debian's name of the architecture.
    pub(super) debian: &'static str,
    /// The loader of its programs, and the folder of their libraries.
    pub(super) loader: &'static str,
    pub(super) libraries: &'static str,
}

const X86_64: Platform = Platform {
    emulator: "qemu-system-x86_64",
    emulator_package: "qemu-system-x86",
    machine: "q35",
    cpu: "EPYC-Rome,+svm,+npt",
    console: "ttyS0",
    parameters: "mitigations=off tsc=reliable",
    kernel_package: "linux-image-6.12-cloud-amd64",
    modules: &[
        ("irqbypass.ko", "kernel/virt/lib"),
        ("kvm.ko", "kernel/arch/x86/kvm"),
        ("kvm-amd.ko", "kernel/arch/x86/kvm"),
    ],
    debian: "amd64",
    loader: "/lib64/ld-linux-x86-64.so.2",
    libraries: "/lib/x86_64-linux-gnu",
};

const AARCH64: Platform = Platform {
    emulator: "qemu-system-aarch64",
    emulator_package: "qemu-system-arm",
    machine: "virt,virtualization=on,gic-version=3",
    cpu: "neoverse-n1",
    console: "ttyAMA0",
    parameters: "mitigations=off",
    kernel_package: "linux-image-6.12-cloud-arm64",
    modules: &[],
    debian: "arm64",
    loader: "/lib/ld-linux-aarch64.so.1",
    libraries: "/lib/aarch64-linux-gnu",
};

/// The facts of an architecture.
pub(super) fn of(arch: Arch) -> &'static Platform {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Aarch64 => &AARCH64,
    }
}
