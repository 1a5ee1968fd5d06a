//! KVM's interrupt controller.
//!
//! The kernel reads and writes its registers only while no vCPU is in a call, so everything here is
//! called while their threads are parked.

use std::sync::OnceLock;

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use supermachine_formats::snapshot::arch::aarch64::{
    Gic, GicRegister, GicRegisters, Redistributor, State, SystemRegister, Vcpu,
};

use crate::arch::SavedInterrupts;
use crate::arch::aarch64::gic::{self, CPU_INTERFACE, ICC_CTLR, has_cpu_register};
use crate::arch::aarch64::layout::{
    DISTRIBUTOR_START, FIRST_SHARED, INTERRUPTS, MAX_VCPUS, REDISTRIBUTORS_START, affinity,
};
use crate::backend::HypervisorError;
use crate::backend::kvm::system::call;

/// The kernel's calls, as errors name them.
const SET: &str = "KVM_SET_DEVICE_ATTR";
const GET: &str = "KVM_GET_DEVICE_ATTR";

/// A VM's interrupt controller.
#[derive(Debug)]
pub(super) struct Controller {
    fd: DeviceFd,
    /// Set once the controller knows its vCPUs.
    is_ready: OnceLock<()>,
}

impl Controller {
    /// Creates the controller of a VM without vCPUs.
    pub(super) fn new(vm: &VmFd) -> Result<Self, HypervisorError> {
        let mut device =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
        let fd = vm.create_device(&mut device).map_err(|errno| match errno.errno() {
            libc::ENODEV => HypervisorError::Capability { capability: "a GICv3 for guests" },
            _ => call("KVM_CREATE_DEVICE")(errno),
        })?;
        let controller = Self { fd, is_ready: OnceLock::new() };
        controller.set_address(KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR_START)?;
        let region = REDISTRIBUTORS_START | u64::from(MAX_VCPUS) << 52;
        controller.set_address(KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, region)?;
        controller.write(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &u32::from(INTERRUPTS))?;
        Ok(controller)
    }

    /// Restores a machine's registers. All of its vCPUs exist.
    pub(super) fn restore(&self, state: &State) -> Result<(), HypervisorError> {
        if self.is_ready.get().is_none() {
            let init: Option<&u64> = None;
            self.set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.into(), init)?;
            let _ = self.is_ready.set(());
        }
        match &state.gic {
            Gic::Registers(registers) => self.restore_registers(registers, &state.vcpus),
            Gic::Opaque { .. } => Err(HypervisorError::Capability {
                capability: "a way to restore another hypervisor's interrupt controller",
            }),
        }
    }

    fn restore_registers(
        &self,
        registers: &GicRegisters,
        vcpus: &[Vcpu],
    ) -> Result<(), HypervisorError> {
        if registers.interrupts != INTERRUPTS {
            return Err(HypervisorError::Capability {
                capability: "as many interrupts as the snapshot's controller has",
            });
        }
        let interrupts = registers.interrupts.into();
        for GicRegister { offset, value } in
            gic::distributor_writes(interrupts, &registers.distributor)
        {
            self.write(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset.into(), &value)?;
        }
        for (line, level) in (FIRST_SHARED..).step_by(32).zip(&registers.lines) {
            self.write(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, line.into(), level)?;
        }
        for own in &registers.redistributors {
            let vcpu = place(own.mpidr);
            for GicRegister { offset, value } in gic::redistributor_writes(&own.registers) {
                let attribute = vcpu | u64::from(offset);
                self.write(KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, attribute, &value)?;
            }
            self.write(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, vcpu, &own.lines)?;
        }
        vcpus.iter().try_for_each(|vcpu| self.restore_interface(vcpu))
    }

    fn restore_interface(&self, vcpu: &Vcpu) -> Result<(), HypervisorError> {
        let saved =
            |register: &u16| vcpu.cpu_interface.iter().find(|saved| saved.encoding == *register);
        for SystemRegister { encoding, value } in CPU_INTERFACE.iter().filter_map(saved) {
            let attribute = place(vcpu.mpidr) | u64::from(*encoding);
            self.write(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attribute, value)?;
        }
        Ok(())
    }

    /// Reads the registers of a machine with this many vCPUs.
    pub(super) fn save(&self, vcpus: u16) -> Result<SavedInterrupts, HypervisorError> {
        let read = |group, place: u64, offsets: Vec<u32>| {
            let register = |offset: u32| {
                let value: u32 = self.read(group, place | u64::from(offset))?;
                Ok(GicRegister { offset, value })
            };
            offsets.into_iter().map(register).collect::<Result<Vec<_>, HypervisorError>>()
        };
        let interrupts = u32::from(INTERRUPTS);
        let distributor = read(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, gic::distributor(interrupts))?;
        let lines = (FIRST_SHARED..interrupts).step_by(32);
        let lines = lines.map(|line| self.read(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, line.into()));
        let lines = lines.collect::<Result<_, _>>()?;
        let own = |mpidr| {
            let vcpu = place(mpidr);
            Ok(Redistributor {
                mpidr,
                registers: read(KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, vcpu, gic::redistributor())?,
                lines: self.read(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, vcpu)?,
            })
        };
        let mpidrs = || (0..vcpus).map(affinity);
        let redistributors = mpidrs().map(own).collect::<Result<_, HypervisorError>>()?;
        let interfaces = mpidrs().map(|mpidr| self.save_interface(mpidr));
        Ok(SavedInterrupts {
            cpu_interfaces: interfaces.collect::<Result<_, _>>()?,
            gic: Gic::Registers(GicRegisters {
                interrupts: INTERRUPTS,
                distributor,
                lines,
                redistributors,
            }),
        })
    }

    fn save_interface(&self, mpidr: u64) -> Result<Vec<SystemRegister>, HypervisorError> {
        let read = |register: u16| {
            let attribute = place(mpidr) | u64::from(register);
            self.read::<u64>(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attribute)
        };
        let control = read(ICC_CTLR)?;
        let mut wanted: Vec<u16> = CPU_INTERFACE
            .into_iter()
            .filter(|register| has_cpu_register(*register, control))
            .collect();
        wanted.sort_unstable();
        let saved = wanted
            .into_iter()
            .map(|encoding| Ok(SystemRegister { encoding, value: read(encoding)? }));
        saved.collect()
    }

    fn set_address(&self, kind: u32, address: u64) -> Result<(), HypervisorError> {
        self.write(KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), &address)
    }

    fn write<T>(&self, group: u32, attribute: u64, value: &T) -> Result<(), HypervisorError> {
        self.set(group, attribute, Some(value))
    }

    fn set<T>(&self, group: u32, attr: u64, value: Option<&T>) -> Result<(), HypervisorError> {
        let addr = value.map_or(0, |value| std::ptr::from_ref(value) as u64);
        let attribute = kvm_device_attr { flags: 0, group, attr, addr };
        self.fd.set_device_attr(&attribute).map_err(call(SET))
    }

    /// Reads an attribute of the type that the kernel documents for its group.
    fn read<T: Default>(&self, group: u32, attr: u64) -> Result<T, HypervisorError> {
        let mut value = T::default();
        let addr = std::ptr::from_mut(&mut value) as u64;
        let mut attribute = kvm_device_attr { flags: 0, group, attr, addr };
        // SAFETY: the kernel writes the group's type to `addr`: 8 bytes for registers of a CPU
        // interface, 4 for all others, and callers ask for that type.
        unsafe { self.fd.get_device_attr(&mut attribute) }.map_err(call(GET))?;
        Ok(value)
    }
}

/// A vCPU in the upper half of an attribute: its affinity fields, eight bits each.
fn place(mpidr: u64) -> u64 {
    (mpidr >> 32 & 0xff) << 56 | (mpidr & 0xff_ffff) << 32
}
