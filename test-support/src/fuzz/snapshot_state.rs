//! The state file: any bytes are refused or mean one snapshot.

use supermachine_formats::Digest;
use supermachine_formats::snapshot::arch::aarch64::{self, encoding};
use supermachine_formats::snapshot::arch::x86_64::baseline::Processor;
use supermachine_formats::snapshot::arch::x86_64::{
    Clock, CpuidLeaf, DebugRegisters, IOAPIC_PINS, Ioapic, LAPIC_SIZE, Msr, Registers, RunState,
    Segment, SpecialRegisters, State, Table, Vcpu, XSAVE_SIZE,
};
use supermachine_formats::snapshot::arch::{ArchState, Baseline};
use supermachine_formats::snapshot::device::{
    Block, Net, Pmem, Queue, Serial, Share, ShareHandle, ShareNode, Slot, Virtio, Volume, Vsock,
    VsockConnection,
};
use supermachine_formats::snapshot::memory::Run;
use supermachine_formats::snapshot::{
    AfterRestore, Disk, HypervisorFamily, ImageCommand, Machine, Snapshot, Stage, Stop, WorkingSet,
    Workload,
};

/// Reads a state file both ways; tells whether its form was accepted.
pub fn run(data: &[u8]) -> bool {
    let checked = Snapshot::decode(data);
    let trusted = Snapshot::decode_trusted(data);
    if let Ok(snapshot) = &checked {
        assert_eq!(trusted.as_ref(), Ok(snapshot));
    }
    let Ok(snapshot) = trusted else { return false };
    // Unknown sections and features are passed over, so only what was read is the same again.
    assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    true
}

/// Valid state files.
pub fn samples() -> Vec<Vec<u8>> {
    let states = [false, true].map(|is_full| (is_full, x86_64_state(is_full)));
    let arm = [false, true].map(|is_full| (is_full, aarch64_state(is_full)));
    let mut samples: Vec<_> =
        states.into_iter().chain(arm).map(|(is_full, arch)| sample(is_full, arch)).collect();
    let mut opaque = samples[2].clone();
    if let ArchState::Aarch64(state) = &mut opaque.arch {
        let family = opaque.hypervisor;
        state.gic = aarch64::Gic::Opaque { family, state: b"opaque".to_vec() };
    }
    samples.push(opaque);
    samples.iter().map(Snapshot::encode).collect()
}

fn x86_64_state(is_full: bool) -> ArchState {
    ArchState::X86_64(State {
        processor: Processor {
            baseline: if is_full { Baseline::V3 } else { Baseline::Host },
            features: if is_full { Baseline::V3.required() } else { Vec::new() },
        },
        vcpus: vec![vcpu(is_full)],
        ioapic: Ioapic { id: 0, selected: 1, pins: [1 << 16; IOAPIC_PINS] },
        clock: Clock { monotonic_ns: 1, realtime_ns: 2, tsc_khz: 3 },
    })
}

fn aarch64_state(is_full: bool) -> ArchState {
    let register = |encoding, value| aarch64::SystemRegister { encoding, value };
    let identity = aarch64::Processor {
        baseline: if is_full { Baseline::Armv8_2 } else { Baseline::Host },
        midr: 0x413f_d0c1,
        registers: vec![register(aarch64::processor::ISAR0, 0x20)],
    };
    let timer = aarch64::Timer { control: 1, compare: 2 };
    let full = aarch64::Vcpu {
        mpidr: 0,
        power: aarch64::Power::On,
        core: Some(aarch64::CoreRegisters {
            x: [1; aarch64::GENERAL_REGISTERS],
            pc: 2,
            pstate: 0x3c5,
            sp_el0: 3,
            sp_el1: 4,
            elr_el1: 5,
            spsr_el1: 6,
        }),
        simd: Some(aarch64::SimdRegisters {
            v: [[1, 2]; aarch64::SIMD_REGISTERS],
            fpsr: 0,
            fpcr: 0,
        }),
        system: vec![register(encoding(3, 0, 1, 0, 0), 7)],
        timers: Some(aarch64::Timers { virtual_timer: timer, physical_timer: timer }),
        cpu_interface: vec![register(encoding(3, 0, 4, 6, 0), 0xf0)],
        events: Some(aarch64::Events { serror_pending: false, serror_syndrome: Some(8) }),
    };
    let registers = aarch64::GicRegisters {
        interrupts: 64,
        distributor: vec![aarch64::GicRegister { offset: 0, value: 0x12 }],
        lines: vec![0],
        redistributors: vec![aarch64::Redistributor {
            mpidr: 0,
            registers: vec![aarch64::GicRegister { offset: 0x1_0080, value: 1 }],
            lines: 0,
        }],
    };
    ArchState::Aarch64(aarch64::State {
        processor: if is_full { identity } else { aarch64::Processor::of(Baseline::AppleM1) },
        vcpus: vec![if is_full {
            full
        } else {
            aarch64::Vcpu::after_reset(0, aarch64::Power::Off)
        }],
        gic: if is_full { aarch64::Gic::Registers(registers) } else { aarch64::Gic::reset(64) },
        counter: aarch64::Counter { value: 1, frequency_hz: 24_000_000, realtime_ns: 3 },
    })
}

fn sample(is_full: bool, arch: ArchState) -> Snapshot {
    let runs = |first| vec![Run { first, count: 2 }, Run { first: first + 9, count: 1 }];
    Snapshot {
        hypervisor: HypervisorFamily::Kvm,
        machine: Machine {
            stage: Stage::Image,
            parent: is_full.then(|| Digest::of(b"parent")),
            memory_size: 1 << 20,
            vcpus: 1,
        },
        workload: is_full.then(|| Workload {
            reference: "nginx".into(),
            manifest: Digest::of(b"manifest"),
            argv: vec!["nginx".into(), "-g".into()],
            ready: "tcp:80".into(),
            exposed_ports: vec![80],
        }),
        stop: is_full.then_some(Stop { signal: 3 }),
        image_command: is_full.then(|| ImageCommand {
            entrypoint: vec!["/entry".into()],
            command: vec!["nginx".into()],
        }),
        after_restore: is_full.then(|| AfterRestore { action: "restart".into() }),
        arch,
        slots: if is_full { slots() } else { vec![Slot::Empty; 16] },
        serial: Serial {
            divisor: [12, 0],
            interrupt_enable: 0,
            interrupt_identification: 1,
            line_control: 3,
            line_status: 96,
            modem_control: 8,
            modem_status: 176,
            scratch: 0,
            input: b"in".to_vec(),
        },
        disks: vec![Disk { size: 1 << 21 }],
        working_set: WorkingSet { written: runs(3), read: runs(7) },
    }
}

fn slots() -> Vec<Slot> {
    let queue = Queue {
        max_size: 256,
        size: 128,
        ready: true,
        descriptors: 0x1000,
        available: 0x2000,
        used: 0x3000,
        next_available: 8,
        next_used: 9,
        event_index: false,
    };
    let virtio = Virtio {
        driver_features: 1 << 32,
        device_features_select: 0,
        driver_features_select: 1,
        queue_select: 0,
        status: 15,
        interrupt_status: 0,
        config_generation: 0,
        queues: vec![queue],
    };
    let connection = VsockConnection {
        host_port: 1,
        guest_port: 1024,
        peer_buffer: 1 << 18,
        peer_consumed: 3,
        sent: 4,
        consumed: 5,
    };
    let vsock = Vsock { guest_cid: 3, next_port: 1024, connections: vec![connection] };
    vec![
        Slot::Vsock(virtio.clone(), vsock),
        Slot::Rng(virtio.clone()),
        Slot::Pmem(virtio.clone(), Pmem { disk: 0, address: 1 << 37, size: 1 << 21 }),
        Slot::Block(virtio.clone(), Block { disk: 0 }),
        Slot::Net(virtio.clone(), Net { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }),
        Slot::Share(
            virtio.clone(),
            Share {
                tag: [b't'; 36],
                target: "/project".into(),
                nodes: vec![ShareNode { id: 2, parent: 1, name: b"a".to_vec(), lookups: 3 }],
                handles: vec![ShareHandle { id: 4, node: 2, flags: 5, is_folder: false }],
            },
        ),
        Slot::Volume(virtio, Volume { name: "data".into(), target: "/data".into() }),
        Slot::Empty,
    ]
}

fn vcpu(is_full: bool) -> Vcpu {
    let leaf =
        |function| CpuidLeaf { function, index: 0, indexed: false, eax: 1, ebx: 2, ecx: 3, edx: 4 };
    let special = SpecialRegisters {
        segments: [Segment::default(); 6],
        tr: Segment::default(),
        ldt: Segment::default(),
        gdt: Table::default(),
        idt: Table::default(),
        cr0: 1,
        cr2: 0,
        cr3: 0x1000,
        cr4: 0x20,
        cr8: 0,
        efer: 0x500,
        apic_base: 0xfee0_0900,
    };
    let registers = Registers {
        abcd: [1, 2, 3, 4],
        rsi: 5,
        rdi: 6,
        rsp: 7,
        rbp: 8,
        r8_r15: [9; 8],
        rip: 10,
        rflags: 2,
    };
    Vcpu {
        cpuid: vec![leaf(0), leaf(1)],
        registers: Some(registers),
        special: Some(special),
        run_state: RunState::Running,
        lapic: is_full.then_some([0; LAPIC_SIZE]),
        xsave: is_full.then_some([0; XSAVE_SIZE]),
        xcr0: is_full.then_some(7),
        debug: is_full.then_some(DebugRegisters {
            addresses: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
        }),
        events: None,
        msrs: vec![Msr { index: 0x10, value: 1 }],
    }
}
