//! Clocks and the kernel's random generator.
//!
//! Reading a clock is a call of our own: rustix reads it through the vDSO, which it would have to
//! find in memory and parse first.

use linux_raw_sys::general as nr;
use linux_raw_sys::ioctl::{RNDADDENTROPY, RNDRESEEDCRNG};
use rustix::rand::GetRandomFlags;
use rustix::time::{ClockId, Timespec};

use super::fd::{Fd, ioctl, ioctl_number};
use super::{Result, call, flags};

const NANOSECONDS: u64 = 1_000_000_000;

#[repr(C)]
struct Pool<const N: usize> {
    bits: i32,
    size: i32,
    bytes: [u8; N],
}

/// Nanoseconds since some point before boot.
pub(crate) fn monotonic() -> u64 {
    read(nr::CLOCK_MONOTONIC)
}

/// The wall clock, in nanoseconds since 1970.
pub(crate) fn realtime() -> u64 {
    read(nr::CLOCK_REALTIME)
}

fn read(clock: u32) -> u64 {
    let mut time = Timespec { tv_sec: 0, tv_nsec: 0 };
    let address = core::ptr::from_mut(&mut time) as usize;
    // SAFETY: the kernel writes one time. Both clocks exist everywhere, so the call succeeds.
    let _ = unsafe { call(nr::__NR_clock_gettime, [flags(clock), address, 0, 0, 0, 0]) };
    time.tv_sec.unsigned_abs() * NANOSECONDS + time.tv_nsec.unsigned_abs()
}

/// Sets the wall clock.
pub(crate) fn set_realtime(nanoseconds: u64) -> Result<()> {
    rustix::time::clock_settime(ClockId::Realtime, time(nanoseconds))
}

/// A time or a span of nanoseconds as the kernel takes it.
pub(super) fn time(nanoseconds: u64) -> Timespec {
    Timespec {
        tv_sec: (nanoseconds / NANOSECONDS).cast_signed(),
        tv_nsec: (nanoseconds % NANOSECONDS).cast_signed(),
    }
}

/// Mixes secret bytes into the kernel's generator, all counted as entropy, and makes it use
/// them at once. `random` is /dev/random or /dev/urandom.
pub(crate) fn reseed<const N: usize>(random: &Fd, entropy: &[u8; N]) -> Result<()> {
    let size = i32::try_from(N).unwrap_or(0);
    let mut pool = Pool { bits: size.saturating_mul(8), size, bytes: *entropy };
    ioctl(random, RNDADDENTROPY, &mut pool)?;
    ioctl_number(random, RNDRESEEDCRNG, 0)
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole.
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
