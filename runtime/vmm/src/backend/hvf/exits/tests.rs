use super::*;

/// A syndrome of this class.
fn syndrome(class: u64, detail: u64) -> u64 {
    class << 26 | 1 << 25 | detail
}

/// Decodes an exception.
fn event(class: u64, detail: u64) -> Event {
    decode(&RawExit {
        reason: 1,
        syndrome: syndrome(class, detail),
        virtual_address: 0xffff_0000,
        physical_address: 0x0a00_0100,
    })
}

const ISV: u64 = 1 << 24;
const SSE: u64 = 1 << 21;
const SF: u64 = 1 << 15;
const WRITE: u64 = 1 << 6;
/// A translation fault at level 3.
const TRANSLATION: u64 = 7;

/// A data abort by a load or store.
fn access(detail: u64) -> Access {
    match event(0x24, ISV | TRANSLATION | detail) {
        Event::Access(access) => access,
        other => panic!("{other:?}"),
    }
}

fn reason(event: Event) -> (&'static str, u64) {
    match event {
        Event::Failed { reason, code } => (reason, code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reason_of_an_exit_is_decoded_and_an_unknown_one_kept() {
    let exit = |reason| {
        let exit = RawExit { reason, syndrome: 0, virtual_address: 0, physical_address: 0 };
        decode(&exit)
    };
    assert_eq!(exit(0), Event::Canceled);
    assert_eq!(exit(2), Event::Timer);
    assert_eq!(reason(exit(3)), ("unknown exit", 3));
    assert_eq!(reason(exit(u32::MAX)), ("unknown exit", u32::MAX.into()));
}

#[test]
fn load_or_store_has_its_width_register_and_direction() {
    for (size, width) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
        let load = access(size << 22 | 5 << 16);
        let expected = Access {
            address: 0x0a00_0100,
            width,
            register: 5,
            is_write: false,
            is_signed: false,
            is_wide: false,
        };
        assert_eq!(load, expected);
        let store = access(size << 22 | 31 << 16 | SF | WRITE);
        let expected = Access { register: 31, is_write: true, is_wide: true, ..expected };
        assert_eq!(store, expected);
    }
}

#[test]
fn loaded_value_is_extended_as_the_instruction_says() {
    let loaded = |size: u64, flags| {
        access(size << 22 | flags).loaded([0x81, 0x82, 0x83, 0x84, 5, 6, 7, 0x88])
    };
    assert_eq!(
        [0, 1, 2, 3].map(|size| loaded(size, SF)),
        [0x81, 0x8281, 0x8483_8281, 0x8807_0605_8483_8281]
    );
    assert_eq!(
        [0, 1, 2].map(|size| loaded(size, SSE | SF)),
        [0xffff_ffff_ffff_ff81, 0xffff_ffff_ffff_8281, 0xffff_ffff_8483_8281]
    );
    // A register of 32 bits has zeros above them.
    assert_eq!([0, 1].map(|size| loaded(size, SSE)), [0xffff_ff81, 0xffff_8281]);
    assert_eq!(access(SSE | SF).loaded([0x7f; 8]), 0x7f);
}

#[test]
fn accesses_that_cannot_be_decoded_fail_with_their_syndrome() {
    let failed = |detail| {
        let (reason, code) = reason(event(0x24, detail));
        assert_eq!(code, syndrome(0x24, detail));
        reason
    };
    assert!(failed(TRANSLATION).contains("not a load or store of one register"));
    assert!(failed(ISV | TRANSLATION | 1 << 9).contains("memory error"));
    assert!(failed(ISV | TRANSLATION | 1 << 7).contains("page table"));
    // An alignment fault, and a fault of the address's size.
    for fault in [0x21, 0] {
        assert!(failed(ISV | fault).contains("unknown fault"), "{fault:#x}");
    }
}

#[test]
fn write_to_memory_that_is_read_only_is_a_store() {
    let permission = 0xf;
    let Event::Access(store) = event(0x24, ISV | WRITE | permission) else { panic!() };
    assert!(store.is_write);
}

#[test]
fn cache_maintenance_has_no_effect() {
    assert_eq!(event(0x24, 1 << 8 | WRITE | TRANSLATION), Event::CacheMaintenance);
}

#[test]
fn waits_and_calls_are_distinguished() {
    assert_eq!([0, 2].map(|kind| event(1, kind)), [Event::Wfi; 2]);
    assert_eq!([1, 3].map(|kind| event(1, kind)), [Event::Wfe; 2]);
    assert_eq!(event(0x16, 0), Event::Call(Call { immediate: 0, is_before: false }));
    assert_eq!(event(0x16, 7), Event::Call(Call { immediate: 7, is_before: false }));
    assert_eq!(event(0x17, 0), Event::Call(Call { immediate: 0, is_before: true }));
}

#[test]
fn access_to_a_system_register_has_its_encoding() {
    // op0 3, op2 1, op1 3, CRn 14, X9, CRm 3, read: CNTV_CTL_EL0.
    let detail = 3 << 20 | 1 << 17 | 3 << 14 | 14 << 10 | 9 << 5 | 3 << 1 | 1;
    let expected =
        RegisterAccess { encoding: encoding(3, 3, 14, 3, 1), register: 9, is_read: true };
    assert_eq!(event(0x18, detail), Event::Register(expected));
    let write = RegisterAccess { is_read: false, ..expected };
    assert_eq!(event(0x18, detail & !1), Event::Register(write));
}

#[test]
fn other_exceptions_fail() {
    let fetch = reason(event(0x20, TRANSLATION));
    assert_eq!(fetch, ("instruction at an address without memory", 0x0a00_0100));
    for class in [0, 0x07, 0x25, 0x3c] {
        let expected = ("unknown exception", syndrome(class, 3));
        assert_eq!(reason(event(class, 3)), expected, "{class:#x}");
    }
}
