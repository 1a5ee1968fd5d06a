//! The first steps of a machine that was restored from a snapshot.
//!
//! Every machine of one snapshot starts with the same memory: the same random state, clock and
//! names. [`Resumer::resume`] makes them different. It runs between restore and first output, so its
//! descriptors are opened beforehand, and each step is one system call.

use alloc::ffi::CString;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Resume};

use crate::failure::OrFailure;
use crate::network;
use crate::place::make_directories;
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, clock, mount};

const HEX: &[u8; 16] = b"0123456789abcdef";
const ID_SIZE: usize = 16;
/// An id as a line: its digits and a line end.
const LINE: usize = 2 * ID_SIZE + 1;
const GENERATION_FOLDER: &[u8] = b"/run/supermachine";
/// Changes at every restore. Programs may watch it.
const GENERATION: &CStr = c"/run/supermachine/generation";
/// Where journald keeps its files.
const JOURNALS: [&[u8]; 2] = [b"/run/log/journal/", b"/var/log/journal/"];
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
    /// The id that was written last.
    own_id: Option<[u8; LINE]>,
    generation: Option<Fd>,
    /// Whether the interface was set up, here or in the snapshot.
    has_network: bool,
}

impl Resumer {
    /// Opens the generator.
    pub(crate) fn new() -> Result<Self, Failure> {
        let random = fd::open(c"/dev/urandom", nr::O_RDWR, 0).or_failure("open", "/dev/urandom")?;
        Ok(Self { random, machine_id: None, own_id: None, generation: None, has_network: false })
    }

    /// Replaces the container's machine id, if it has one, and creates the generation file. Renews both,
    /// now and at each resume.
    pub(crate) fn adopt_root(&mut self) -> Result<(), Failure> {
        self.machine_id = match fd::open(c"/etc/machine-id", nr::O_WRONLY | nr::O_NONBLOCK, 0) {
            Ok(file) => Some(file),
            // No file, or no plain file.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => None,
            Err(errno) => return Err(errno).or_failure("open", "/etc/machine-id"),
        };
        make_directories(GENERATION_FOLDER)?;
        let how = nr::O_WRONLY | nr::O_CREAT | nr::O_TRUNC;
        let file = fd::open(GENERATION, how, 0o444).or_failure("open", GENERATION.to_bytes())?;
        self.generation = Some(file);
        self.renew_ids(false)
    }

    /// Sets the clock, reseeds the generator, renews the machine id and the generation, and sets up the
    /// network. `has_init`: whether the entrypoint is PID 1, with a journal perhaps.
    ///
    /// The kernel draws the boot id when it is first read: it differs between machines unless a
    /// program read it before their snapshot.
    pub(crate) fn resume(&mut self, resume: &Resume, has_init: bool) -> Result<(), Failure> {
        clock::set_realtime(resume.realtime_ns).or_failure("clock_settime", "CLOCK_REALTIME")?;
        clock::reseed(&self.random, &resume.entropy).or_failure("ioctl", "/dev/urandom")?;
        self.renew_ids(has_init)?;
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

    fn renew_ids(&mut self, has_init: bool) -> Result<(), Failure> {
        if self.machine_id.is_none() && self.generation.is_none() {
            return Ok(());
        }
        let random = clock::random::<{ 2 * ID_SIZE }>().or_failure("getrandom", "")?;
        let (machine_id, generation) = random.split_at(ID_SIZE);
        if let Some(file) = &self.machine_id {
            let id = line(machine_id);
            renew(file, &id, "/etc/machine-id")?;
            if let Some(old) = self.own_id.replace(id).filter(|_| has_init) {
                JOURNALS.into_iter().for_each(|folder| link_journal(folder, &old, &id));
            }
        }
        match &self.generation {
            Some(file) => renew(file, &line(generation), GENERATION.to_bytes()),
            None => Ok(()),
        }
    }
}

/// Writes a new id in one call, so that no reader sees parts of two.
fn renew(file: &Fd, id: &[u8], name: impl AsRef<[u8]>) -> Result<(), Failure> {
    fd::overwrite(file, id).or_failure("write", name)
}

/// Lets readers of the journal find what a running journald wrote and writes: it reads the machine id
/// once, and its folder has that name. Readers look into the folder of the present id.
fn link_journal(folder: &[u8], old: &[u8; LINE], new: &[u8; LINE]) {
    let place = |id: &[u8; LINE]| CString::new([folder, id.trim_ascii_end()].concat());
    if let (Ok(from), Ok(to)) = (place(old), place(new))
        && mount::status(&from).is_ok()
    {
        // Without the link, the journal is whole but hard to find: no reason to stop the machine.
        let _ = mount::link(&from, &to);
    }
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
fn line(random: &[u8]) -> [u8; LINE] {
    let mut text = [b'\n'; LINE];
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
    fn journal_is_found_under_the_new_id_if_there_is_one() {
        let folder =
            std::env::temp_dir().join(format!("supermachine-journal-{}", std::process::id()));
        let ids = [1, 2, 3].map(|n| line(&[n; ID_SIZE]));
        let path = |id: &[u8]| folder.join(str::from_utf8(id.trim_ascii_end()).unwrap());
        std::fs::create_dir_all(path(&ids[0])).unwrap();
        let name = format!("{}/", folder.display());
        link_journal(name.as_bytes(), &ids[2], &ids[1]);
        assert!(path(&ids[1]).symlink_metadata().is_err());
        link_journal(name.as_bytes(), &ids[0], &ids[1]);
        link_journal(name.as_bytes(), &ids[1], &ids[2]);
        std::fs::write(path(&ids[0]).join("system.journal"), "entries").unwrap();
        let read = std::fs::read_to_string(path(&ids[2]).join("system.journal")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read, "entries");
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
