//! Linux KVM.
//!
//! Set-up order is VM, split interrupt chip, memory, vCPUs: with a split chip it is quick to
//! make and to tear down. Local interrupt controllers are the kernel's, the I/O interrupt
//! controller is the machine's. vCPUs are kicked by a real-time signal that their threads
//! block and only `KVM_RUN` lets through, so no signal handler is installed and the
//! application's own signal use is not touched.

mod probe;
mod signal;
mod x86_64;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MEM_READONLY, kvm_clock_data, kvm_enable_cap, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use supermachine_formats::snapshot::HypervisorFamily;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;
use supermachine_formats::snapshot::arch::x86_64::{CpuidLeaf, IOAPIC_PINS};
use vm_memory::MmapRegion;

use super::{Access, HypervisorError, Vcpu, Vm};
pub(crate) use probe::probe;
pub(crate) use x86_64::processor_word;
use x86_64::{KvmVcpu, cpuid};

const DEVICE: &str = "/dev/kvm";

/// Capabilities that every machine uses, with the names that errors tell.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
];

pub(crate) fn family() -> HypervisorFamily {
    HypervisorFamily::Kvm
}

/// Makes an empty VM with local interrupt controllers.
pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    let kvm = Arc::new(open()?);
    let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
    let vm = KvmVm { kvm, fd, regions: Mutex::default() };
    vm.split_irqchip()?;
    Ok(Arc::new(vm))
}

fn open() -> Result<Kvm, HypervisorError> {
    Kvm::new().map_err(|errno| {
        let path = PathBuf::from(DEVICE);
        let source = io::Error::from_raw_os_error(errno.errno());
        match source.kind() {
            io::ErrorKind::PermissionDenied => HypervisorError::Permission { path, source },
            _ => HypervisorError::Missing { path, source },
        }
    })
}

/// Says which capability is missing when a set-up call failed, so that the usual path does
/// not pay for asking first.
fn explain(kvm: &Kvm, error: HypervisorError) -> HypervisorError {
    let lacking = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap));
    lacking.map_or(error, |(_, capability)| HypervisorError::Capability { capability })
}

/// Turns the errno of a named call into an error.
fn call(name: &'static str) -> impl Fn(kvm_ioctls::Error) -> HypervisorError {
    move |errno| HypervisorError::Call {
        call: name,
        source: io::Error::from_raw_os_error(errno.errno()),
    }
}

#[derive(Debug)]
struct KvmVm {
    kvm: Arc<Kvm>,
    fd: VmFd,
    /// Keeps mapped memory alive until the VM is gone; only ever added to.
    regions: Mutex<Vec<Arc<MmapRegion>>>,
}

impl KvmVm {
    /// Local interrupt controllers in the kernel; must precede the first vCPU.
    fn split_irqchip(&self) -> Result<(), HypervisorError> {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        cap.args[0] = IOAPIC_PINS as u64;
        self.fd
            .enable_cap(&cap)
            .map_err(call("KVM_CAP_SPLIT_IRQCHIP"))
            .map_err(|error| explain(&self.kvm, error))
    }
}

impl Vm for KvmVm {
    fn map(
        &self,
        index: u32,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError> {
        let slot = kvm_userspace_memory_region {
            slot: index,
            flags: if access == Access::ReadOnly { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: guest_address,
            memory_size: region.size() as u64,
            userspace_addr: region.as_ptr() as u64,
        };
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the memory must stay mapped while the guest can reach it: `regions` keeps it
        // until after the VM's descriptor is closed, and `index` is used once (trait contract),
        // so no earlier window is replaced.
        unsafe { self.fd.set_user_memory_region(slot) }
            .map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        regions.push(region);
        Ok(())
    }

    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let fd = self.fd.create_vcpu(index.into()).map_err(call("KVM_CREATE_VCPU"))?;
        Ok(Box::new(KvmVcpu::new(Arc::clone(&self.kvm), fd)?))
    }

    fn cpuid(
        &self,
        baseline: Baseline,
        index: u16,
        count: u16,
    ) -> Result<Vec<CpuidLeaf>, HypervisorError> {
        cpuid::answers(&self.kvm, baseline, index, count)
    }

    fn processor_word(&self, function: u32, index: u32, register: Register) -> u32 {
        processor_word(function, index, register)
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<(), HypervisorError> {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        self.fd.signal_msi(msi).map(drop).map_err(call("KVM_SIGNAL_MSI"))
    }

    fn clock_ns(&self) -> Result<u64, HypervisorError> {
        Ok(self.fd.get_clock().map_err(call("KVM_GET_CLOCK"))?.clock)
    }

    fn set_clock_ns(&self, ns: u64) -> Result<(), HypervisorError> {
        let clock = kvm_clock_data { clock: ns, ..Default::default() };
        self.fd.set_clock(&clock).map_err(call("KVM_SET_CLOCK"))
    }
}
