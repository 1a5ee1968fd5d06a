use super::super::stand_in::{self, BUSY, DENIED, ERROR};
use super::*;

fn cause(error: HypervisorError) -> String {
    let HypervisorError::Call { source, .. } = error else { panic!("{error}") };
    source.to_string()
}

#[test]
fn address_space_has_40_bits_or_what_the_host_has() {
    let session = stand_in::begin();
    for (most, expected) in [(42, 40), (40, 40), (39, 39), (36, 36)] {
        session.with(|world| world.most_bits = most);
        let instance = Instance::new().unwrap();
        assert_eq!(instance.address_bits(), expected);
        assert_eq!(session.with(|world| world.bits), Some(expected));
    }
    session.with(|world| world.most_bits = 35);
    assert!(matches!(Instance::new(), Err(HypervisorError::Capability { .. })));
}

#[test]
fn macos_without_a_choice_of_address_space_gives_36_bits() {
    let session = stand_in::begin();
    session.lack("hv_vm_config_set");
    assert_eq!(Instance::new().unwrap().address_bits(), 36);
    assert_eq!(session.with(|world| world.bits), None);
}

#[test]
fn second_vm_of_a_process_is_refused_until_the_first_is_destroyed() {
    let _session = stand_in::begin();
    let first = Instance::new().unwrap();
    assert!(cause(Instance::new().unwrap_err()).contains("one for each process"));
    drop(first);
    drop(Instance::new().unwrap());
}

#[test]
fn program_without_the_entitlement_is_refused_with_the_remedy() {
    let session = stand_in::begin();
    session.refuse("hv_vm_create", DENIED);
    assert!(cause(Instance::new().unwrap_err()).contains("com.apple.security.hypervisor"));
}

#[test]
fn refused_configuration_is_an_error() {
    let session = stand_in::begin();
    for call in ["hv_vm_config_set_ipa_size", "hv_vm_config_get_max_ipa_size"] {
        session.refuse(call, ERROR);
        assert_eq!(cause(Instance::new().unwrap_err()), "HV_ERROR (0xfae94001)");
    }
}

#[test]
fn memory_is_mapped_with_its_rights_and_lives_as_long_as_the_vm() {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    let (ram, disk) = (stand_in::region(2), stand_in::region(1));
    let alive = Arc::downgrade(&ram);
    instance.map(0x4000_0000, ram, (0, 0x8000), Access::ReadWrite).unwrap();
    instance.map(1 << 35, disk, (0, 0x4000), Access::ReadOnly).unwrap();
    let expected = [(0x4000_0000, 0x8000, 7), (1 << 35, 0x4000, 5)];
    assert_eq!(session.with(|world| world.windows.clone()), expected);
    assert!(alive.upgrade().is_some());
    drop(instance);
    assert!(alive.upgrade().is_none());
}

#[test]
fn memory_that_is_no_whole_pages_is_refused_with_its_numbers() {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    let region = stand_in::region(2);
    for (guest, offset, size) in [
        (0x4000_0000, 0x1000, 0x4000), // The host's address.
        (0x4000_1000, 0, 0x4000),      // The guest's.
        (0x4000_0000, 0, 0x5000),      // The size.
        (0x4000_0000, 0, 0),
        (0x4000_0000, 0x4000, 0x8000), // Beyond the region.
        (0x4000_0000, 0x4000, usize::MAX - 0x3fff),
    ] {
        let refused = instance.map(guest, Arc::clone(&region), (offset, size), Access::ReadWrite);
        let HypervisorError::Call { call: "hv_vm_map", source } = refused.unwrap_err() else {
            panic!()
        };
        let found = source.get_ref().unwrap().downcast_ref::<Misaligned>().unwrap();
        assert_eq!((found.guest_address, found.size), (guest, size as u64));
        assert_eq!(found.page, 0x4000);
    }
    assert!(session.with(|world| world.windows.is_empty()));
}

#[test]
fn refused_mapping_is_not_kept() {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    session.refuse("hv_vm_map", ERROR);
    let region = stand_in::region(1);
    let alive = Arc::downgrade(&region);
    let refused = instance.map(0x4000_0000, region, (0, 0x4000), Access::ReadWrite);
    assert_eq!(cause(refused.unwrap_err()), "HV_ERROR (0xfae94001)");
    assert!(alive.upgrade().is_none());
}

#[test]
fn vm_that_cannot_be_destroyed_keeps_its_memory() {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    let region = stand_in::region(1);
    let alive = Arc::downgrade(&region);
    instance.map(0x4000_0000, region, (0, 0x4000), Access::ReadWrite).unwrap();
    session.refuse("hv_vm_destroy", BUSY);
    drop(instance);
    assert!(alive.upgrade().is_some());
    session.with(|world| world.has_vm = false);
}
