use supermachine_formats::snapshot::arch::aarch64::{
    GicRegister, GicRegisters, Redistributor, encoding,
};

use super::super::instance::Instance;
use super::super::stand_in::{self, BAD_ARGUMENT, ERROR, Session};
use super::*;

fn vcpu() -> (Session, Instance, Controller, Cpu) {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    let controller = Controller::new().unwrap();
    let cpu = Cpu::new().unwrap();
    (session, instance, controller, cpu)
}

fn opaque(state: &[u8]) -> Gic {
    Gic::Opaque { family: HypervisorFamily::Hvf, state: state.to_vec() }
}

fn capability(result: Result<impl std::fmt::Debug, HypervisorError>) -> &'static str {
    match result.unwrap_err() {
        HypervisorError::Capability { capability } => capability,
        other => panic!("{other}"),
    }
}

#[test]
fn macos_14_lacks_the_controller_and_the_error_names_the_version() {
    let session = stand_in::begin();
    session.lack("hv_gic_");
    let _instance = Instance::new().unwrap();
    let refused = Controller::new().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "hypervisor lacks an interrupt controller for guests, which macOS has since version 15"
    );
}

#[test]
fn controller_without_one_of_its_functions_is_none() {
    let session = stand_in::begin();
    session.lack("hv_gic_set_state");
    let _instance = Instance::new().unwrap();
    assert!(capability(Controller::new()).contains("version 15"));
    assert!(!session.log().contains(&"hv_gic_create"));
}

#[test]
fn controller_that_does_not_fit_the_layout_is_refused() {
    let session = stand_in::begin();
    let _instance = Instance::new().unwrap();
    for sizes in [(0x20_0000, 0x2_0000), (usize::MAX, 0x2_0000), (0x1_0000, 0x4_0000)] {
        session.with(|world| world.gic_sizes = sizes);
        assert!(capability(Controller::new()).contains("address space"));
    }
    session.with(|world| world.gic_sizes = (0x1_0000, 0x2_0000));
    session.refuse("hv_gic_get_distributor_size", ERROR);
    assert!(matches!(Controller::new(), Err(HypervisorError::Call { .. })));
}

#[test]
fn controller_with_too_few_interrupts_is_refused() {
    let session = stand_in::begin();
    for interrupts in [(32, 31), (64, 100), (32, 0)] {
        session.with(|world| world.gic_interrupts = interrupts);
        let _instance = Instance::new().unwrap();
        assert!(capability(Controller::new()).contains("as many interrupts"));
    }
}

#[test]
fn refused_set_up_is_an_error_that_names_the_call() {
    let session = stand_in::begin();
    let _instance = Instance::new().unwrap();
    for call in [
        "hv_gic_config_set_distributor_base",
        "hv_gic_config_set_redistributor_base",
        "hv_gic_create",
        "hv_gic_get_spi_interrupt_range",
    ] {
        session.with(|world| world.refusals.clear());
        session.refuse(call, ERROR);
        let HypervisorError::Call { call: found, .. } = Controller::new().unwrap_err() else {
            panic!()
        };
        assert_eq!(found, call);
    }
}

#[test]
fn state_round_trips_as_a_blob_of_the_family() {
    let (session, _instance, controller, _cpu) = vcpu();
    controller.restore(&opaque(b"GIC of a machine"), false).unwrap();
    assert_eq!(controller.save().unwrap(), opaque(b"GIC of a machine"));
    assert_eq!(session.log().last(), Some(&"hv_gic_set_state"));
}

#[test]
fn state_of_a_machine_in_use_is_restored_after_a_reset() {
    let (session, _instance, controller, _cpu) = vcpu();
    session.with(|world| world.gic.as_mut().unwrap().is_live = true);
    assert!(controller.restore(&opaque(b"GIC"), false).is_err());
    session.log();
    controller.restore(&opaque(b"GIC 2"), true).unwrap();
    assert_eq!(session.log(), ["hv_gic_reset", "hv_gic_set_state"]);
    assert_eq!(controller.save().unwrap(), opaque(b"GIC 2"));
    // One that was never run has the state after a reset.
    controller.restore(&Gic::reset(INTERRUPTS), true).unwrap();
    assert_eq!(controller.save().unwrap(), opaque(b"GIC"));
}

#[test]
fn state_that_is_not_the_frameworks_is_refused_before_anything_changes() {
    let (session, _instance, controller, _cpu) = vcpu();
    session.log();
    let register = GicRegister { offset: 0, value: 1 };
    let registers = |change: fn(&mut GicRegisters, GicRegister)| {
        let Gic::Registers(mut registers) = Gic::reset(INTERRUPTS) else { unreachable!() };
        change(&mut registers, register);
        Gic::Registers(registers)
    };
    let foreign = [
        Gic::Opaque { family: HypervisorFamily::Kvm, state: b"GIC".to_vec() },
        Gic::Opaque { family: HypervisorFamily::Whp, state: b"GIC".to_vec() },
        opaque(b""),
        registers(|registers, register| registers.distributor.push(register)),
        registers(|registers, _| registers.lines.push(0)),
        registers(|registers, _| {
            let own = Redistributor { mpidr: 0, registers: Vec::new(), lines: 0 };
            registers.redistributors.push(own);
        }),
    ];
    for gic in foreign {
        let refused = capability(controller.restore(&gic, true));
        assert!(refused.contains("another hypervisor"), "{gic:?}");
    }
    let refused = capability(controller.restore(&Gic::reset(96), true));
    assert!(refused.contains("as many interrupts"));
    assert_eq!(session.log(), [""; 0]);
}

#[test]
fn blob_that_the_framework_does_not_understand_is_an_error() {
    let (_session, _instance, controller, _cpu) = vcpu();
    let refused = controller.restore(&opaque(b"of a later version"), false).unwrap_err();
    let HypervisorError::Call { call: "hv_gic_set_state", source } = refused else { panic!() };
    assert_eq!(source.to_string(), "HV_BAD_ARGUMENT (0xfae94003)");
}

#[test]
fn state_that_cannot_be_saved_is_an_error() {
    let (session, _instance, controller, _cpu) = vcpu();
    for size in [0, MAX_OPAQUE_SIZE + 1] {
        session.with(|world| world.gic.as_mut().unwrap().state = vec![0; size]);
        assert!(capability(controller.save()).contains("fits a snapshot"));
    }
    for call in ["hv_gic_state_get_data", "hv_gic_state_get_size"] {
        session.with(|world| world.gic.as_mut().unwrap().state = b"GIC".to_vec());
        session.refuse(call, ERROR);
        let HypervisorError::Call { call: found, .. } = controller.save().unwrap_err() else {
            panic!()
        };
        assert_eq!(found, call);
    }
    session.refuse("hv_gic_state_create", ERROR);
    assert!(capability(controller.save()).contains("at this moment"));
}

#[test]
fn interrupt_is_an_edge() {
    let (session, _instance, controller, _cpu) = vcpu();
    controller.send(33);
    // One that does not exist is lost.
    controller.send(5000);
    let sent = session.with(|world| std::mem::take(&mut world.gic.as_mut().unwrap().sent));
    assert_eq!(sent, [(33, true), (33, false)]);
}

#[test]
fn timer_interrupt_is_pending_in_the_vcpus_own_registers() {
    let (session, _instance, controller, cpu) = vcpu();
    controller.send_timer(&cpu).unwrap();
    let written = session.vcpu(cpu.id(), |vcpu| vcpu.redistributor.clone());
    assert_eq!(written, [(0x1_0200, 1 << 27)]);
}

#[test]
fn cpu_interface_round_trips_and_rises() {
    let (session, _instance, controller, cpu) = vcpu();
    let registers = controller.save_interface(&cpu).unwrap();
    assert!(registers.is_sorted_by(|one, two| one.encoding < two.encoding));
    let saved: Vec<SystemRegister> = registers
        .iter()
        .map(|register| SystemRegister { value: u64::from(register.encoding) << 4, ..*register })
        .collect();
    check_interface(&saved).unwrap();
    controller.load_interface(&cpu, &saved).unwrap();
    assert_eq!(controller.save_interface(&cpu).unwrap(), saved);
    // ICC_PMR_EL1.
    assert_eq!(session.vcpu(cpu.id(), |vcpu| vcpu.interface[&0xc230]), 0xc_2300);
}

#[test]
fn unknown_or_refused_register_of_a_cpu_interface_is_named() {
    let (session, _instance, controller, cpu) = vcpu();
    // ICC_AP0R1_EL1, which processors with more priorities have.
    let unknown = SystemRegister { encoding: encoding(3, 0, 12, 8, 5), value: 0 };
    let expected = "host refuses system register S3_0_C12_C8_5";
    assert_eq!(check_interface(&[unknown]).unwrap_err().to_string(), expected);
    session.refuse("hv_gic_set_icc_reg", BAD_ARGUMENT);
    let pmr = SystemRegister { encoding: encoding(3, 0, 4, 6, 0), value: 0xf0 };
    let refused = controller.load_interface(&cpu, &[pmr]).unwrap_err();
    assert_eq!(refused.to_string(), "host refuses system register S3_0_C4_C6_0");
}

#[test]
fn vcpu_whose_registers_the_guest_would_not_find_is_refused() {
    let (session, _instance, controller, cpu) = vcpu();
    // Without an affinity it has none.
    assert!(matches!(controller.check_redistributor(&cpu), Err(HypervisorError::Call { .. })));
    session.vcpu(cpu.id(), |vcpu| vcpu.system.insert(0xc005, 1 << 31));
    controller.check_redistributor(&cpu).unwrap();
    session.with(|world| world.redistributors = 0x0900_0000);
    assert!(capability(controller.check_redistributor(&cpu)).contains("one row"));
}
