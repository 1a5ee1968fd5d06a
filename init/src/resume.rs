//! The first steps of a machine that was restored from a snapshot.
//!
//! Every machine of one snapshot starts with the same memory: the same random state, clock and
//! names. [`Resumer::resume`] makes them different. It runs between restore and first output, so its
//! descriptors are opened beforehand, and each step is one system call.

use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Resume};

use crate::failure::OrFailure;
use crate::network;
use crate::place::make_directories;
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, clock};

const HEX: &[u8; 16] = b"0123456789abcdef";
const ID_SIZE: usize = 16;
const GENERATION_FOLDER: &[u8] = b"/run/supermachine";
/// Changes at every restore. Programs may watch it.
const GENERATION: &CStr = c"/run/supermachine/generation";
/// A clock that is behind by less is right.
const BEHIND: u64 = 500_000_000;
/// A clock that is ahead by less may be right: on a busy machine the message may have been delayed by
/// this much.
const AHEAD: u64 = 5_000_000_000;

/// Holds the descriptors that a resume writes to.
#[derive(Debug)]
pub(crate) struct Resumer {
    random: Fd,
    machine_id: Option<Fd>,
    generation: Option<Fd>,
    /// Whether the interface was set up, here or in the snapshot.
    has_network: bool,
}

impl Resumer {
    /// Opens the generator.
    pub(crate) fn new() -> Result<Self, Failure> {
        let random = fd::open(c"/dev/urandom", nr::O_RDWR, 0).or_failure("open", "/dev/urandom")?;
        Ok(Self { random, machine_id: None, generation: None, has_network: false })
    }

    /// Replaces the container's machine id, if it has one, and creates the generation file. Renews both,
    /// now and at each resume.
    pub(crate) fn adopt_root(&mut self) -> Result<(), Failure> {
        self.machine_id = match fd::open(c"/etc/machine-id", nr::O_WRONLY | nr::O_NONBLOCK, 0) {
            Ok(file) => Some(file),
            // No file, or no plain file.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => {
                None
            }
            Err(errno) => return Err(errno).or_failure("open", "/etc/machine-id"),
        };
        make_directories(GENERATION_FOLDER)?;
        let how = nr::O_WRONLY | nr::O_CREAT | nr::O_TRUNC;
        let file = fd::open(GENERATION, how, 0o444).or_failure("open", GENERATION.to_bytes())?;
        self.generation = Some(file);
        self.renew_ids()
    }

    /// Sets the clock, reseeds the generator, renews the machine id and the generation, and sets up the
    /// network.
    ///
    /// The kernel draws the boot id when it is first read: it differs between machines unless a
    /// program read it before their snapshot.
    pub(crate) fn resume(&mut self, resume: &Resume) -> Result<(), Failure> {
        clock::set_realtime(resume.realtime_ns).or_failure("clock_settime", "CLOCK_REALTIME")?;
        clock::reseed(&self.random, &resume.entropy).or_failure("ioctl", "/dev/urandom")?;
        self.renew_ids()?;
        if self.has_network {
            network::leave();
        }
        match &resume.network {
            Some(network) => {
                self.has_network = true;
                network::set_up(network)
            }
            None if self.has_network => network::set_down(),
            None => Ok(()),
        }
    }

    fn renew_ids(&self) -> Result<(), Failure> {
        if self.machine_id.is_none() && self.generation.is_none() {
            return Ok(());
        }
        let random = clock::random::<{ 2 * ID_SIZE }>().or_failure("getrandom", "")?;
        let (machine_id, generation) = random.split_at(ID_SIZE);
        renew(self.machine_id.as_ref(), machine_id, "/etc/machine-id")?;
        renew(self.generation.as_ref(), generation, GENERATION.to_bytes())
    }
}

/// Writes a new id in one call, so that no reader sees parts of two.
fn renew(file: Option<&Fd>, id: &[u8], name: impl AsRef<[u8]>) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    fd::overwrite(file, &line(id)).or_failure("write", name)
}

/// Corrects the clock after a pause of the machine, or a change of the host's clock.
pub(crate) fn correct_clock(realtime_ns: u64) {
    if is_wrong(clock::realtime(), realtime_ns) {
        // A resume sets it with the same rights.
        let _ = clock::set_realtime(realtime_ns);
    }
}

/// Whether a clock that shows `now` is wrong, given that the time is `told` or later.
fn is_wrong(now: u64, told: u64) -> bool {
    told.saturating_sub(now) > BEHIND || now.saturating_sub(told) > AHEAD
}

/// 32 hexadecimal digits and a line end.
fn line(random: &[u8]) -> [u8; 33] {
    let mut text = [b'\n'; 33];
    for (place, digit) in text.iter_mut().zip(digits(random)) {
        *place = digit;
    }
    text
}

fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.map(|nibble| HEX[usize::from(nibble)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_32_digits_and_a_line_end() {
        let random: Vec<u8> = (0..16).map(|n| n * 17).collect();
        assert_eq!(line(&random), *b"00112233445566778899aabbccddeeff\n");
    }

    #[test]
    fn clock_ahead_of_a_late_message_is_right() {
        let second = 1_000_000_000;
        let told = 1_000_000 * second;
        // The time in the message is never in the future.
        assert!(is_wrong(told - second, told) && is_wrong(0, told));
        assert!(!is_wrong(told, told) && !is_wrong(told - second / 4, told));
        assert!(!is_wrong(told + 5 * second, told));
        assert!(is_wrong(told + 6 * second, told) && is_wrong(u64::MAX, told));
    }
}
