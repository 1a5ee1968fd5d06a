use super::super::stand_in::{self, ERROR, Step};
use super::*;

/// A store of W0 at the address where nothing is.
const STORE: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 6 | 6;

#[test]
fn speed_is_measured_up_to_the_store_of_the_program() {
    let session = stand_in::begin();
    session.with(|world| {
        let see = |vcpu: &mut stand_in::Vcpu| {
            assert_eq!((vcpu.pc(), vcpu.registers[1]), (START, NOTHING));
        };
        world.first_script.push_back(Step::Do(Box::new(see)));
        world.first_script.push_back(Step::exception(STORE, NOTHING));
    });
    assert!(probe().unwrap().picoseconds_per_iteration > 0);
    // Nothing is left of it.
    session.with(|world| world.first_script.push_back(Step::exception(STORE, NOTHING)));
    probe().unwrap();
}

#[test]
fn guest_that_does_anything_else_is_no_proof() {
    let session = stand_in::begin();
    for step in [Step::exception(STORE, NOTHING + 8), Step::call(), Step::Fail(ERROR)] {
        session.with(|world| world.first_script.push_back(step));
        assert!(matches!(probe(), Err(HypervisorError::Capability { .. })));
    }
}
