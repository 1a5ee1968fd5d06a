//! The initial file system: an archive in the kernel's `newc` form with the agent as `/init`.

const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Major and minor number of the system console.
const CONSOLE: (u32, u32) = (5, 1);

/// An archive that holds `agent` and what the kernel needs to start it.
pub(super) fn archive(agent: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(agent.len() + 1024);
    let mut inode = 0;
    let mut add = |name: &str, mode, device: (u32, u32), content: &[u8]| {
        inode += 1;
        let length = content.len();
        let header = format!(
            "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{links:08x}{zero:08x}{length:08x}\
             {zero:08x}{zero:08x}{major:08x}{minor:08x}{name_length:08x}{zero:08x}{name}\0",
            zero = 0,
            links = 1,
            major = device.0,
            minor = device.1,
            name_length = name.len() + 1,
        );
        out.extend_from_slice(header.as_bytes());
        pad(&mut out);
        out.extend_from_slice(content);
        pad(&mut out);
    };
    add("dev", DIRECTORY, (0, 0), &[]);
    add("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
    add("init", PROGRAM, (0, 0), agent);
    add(TRAILER, 0, (0, 0), &[]);
    out
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
