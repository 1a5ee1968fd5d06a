//! Small hand-made programs for macOS, with everything that a real one has.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) const ARM64: u32 = 0x0100_000c;
pub(crate) const X86_64: u32 = 0x0100_0007;
/// The offset of the linker's data, behind one page of code.
pub(crate) const CODE: usize = 0x4000;

/// An unsigned program for one architecture that returns zero.
pub(crate) fn program(processor: u32) -> Vec<u8> {
    let code: &[u8] = match processor {
        ARM64 => &[0x00, 0x00, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6],
        _ => &[0x31, 0xc0, 0xc3],
    };
    let code_at = CODE - 16;
    let strings = b" \0_main\0\0\0\0\0\0\0\0\0";
    let mut linkedit = Vec::new();
    // One symbol: name offset, type, section, address.
    words(&mut linkedit, &[2, 0x0000_010f]);
    linkedit.extend((0x1_0000_0000 + code_at as u64).to_le_bytes());
    linkedit.extend(strings);

    let mut text = segment("__TEXT", 0x1_0000_0000, CODE, 0, CODE, 5, 1);
    text.extend(name("__text"));
    text.extend(name("__TEXT"));
    text.extend((0x1_0000_0000 + code_at as u64).to_le_bytes());
    text.extend((code.len() as u64).to_le_bytes());
    words(&mut text, &[code_at as u32, 2, 0, 0, 0x8000_0400, 0, 0, 0]);

    let at = CODE as u32;
    let commands = [
        segment("__PAGEZERO", 0, 0x1_0000_0000_usize, 0, 0, 0, 0),
        text,
        segment("__LINKEDIT", 0x1_0000_4000, 0x4000, CODE, linkedit.len(), 1, 0),
        // LC_SYMTAB
        command(0x2, &[at, 1, at + 16, strings.len() as u32], b""),
        // LC_LOAD_DYLINKER
        command(0xe, &[12], b"/usr/lib/dyld\0"),
        // LC_BUILD_VERSION: macOS 11.0, SDK 14.0
        command(0x32, &[1, 0x000b_0000, 0x000e_0000, 0], b""),
        // LC_MAIN
        command(0x8000_0028, &[code_at as u32, 0, 0, 0], b""),
        // LC_LOAD_DYLIB
        command(0xc, &[24, 2, 0x0001_0000, 0x0001_0000], b"/usr/lib/libSystem.B.dylib\0"),
    ];
    let mut file = Vec::new();
    let size: usize = commands.iter().map(Vec::len).sum();
    words(&mut file, &[0xfeed_facf, processor, 0, 2, commands.len() as u32, size as u32, 0x85, 0]);
    file.extend(commands.concat());
    file.resize(code_at, 0);
    file.extend(code);
    file.resize(CODE, 0);
    file.extend(linkedit);
    file
}

/// A universal file.
pub(crate) fn universal(slices: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut big = |numbers: &[u32]| file.extend(numbers.iter().flat_map(|n| n.to_be_bytes()));
    big(&[0xcafe_babe, slices.len() as u32]);
    let mut at = CODE;
    for (processor, slice) in slices {
        big(&[*processor, 0, at as u32, slice.len() as u32, 14]);
        at = (at + slice.len()).next_multiple_of(CODE);
    }
    for (_, slice) in slices {
        file.resize(file.len().next_multiple_of(CODE), 0);
        file.extend(slice);
    }
    file
}

fn segment(
    called: &str,
    address: u64,
    memory: usize,
    offset: usize,
    size: usize,
    rights: u32,
    sections: u32,
) -> Vec<u8> {
    let mut out = Vec::new();
    words(&mut out, &[0x19, 72 + 80 * sections]);
    out.extend(name(called));
    out.extend(address.to_le_bytes());
    for number in [memory, offset, size] {
        out.extend((number as u64).to_le_bytes());
    }
    words(&mut out, &[rights, rights, sections, 0]);
    out
}

fn command(kind: u32, numbers: &[u32], text: &[u8]) -> Vec<u8> {
    let size = (8 + 4 * numbers.len() + text.len()).next_multiple_of(8);
    let mut out = Vec::new();
    words(&mut out, &[kind, size as u32]);
    words(&mut out, numbers);
    out.extend(text);
    out.resize(size, 0);
    out
}

fn words(out: &mut Vec<u8>, numbers: &[u32]) {
    out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}
