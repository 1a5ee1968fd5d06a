//! Clocks and the kernel's random generator.

use linux_raw_sys::general as nr;
use linux_raw_sys::ioctl::{RNDADDENTROPY, RNDRESEEDCRNG};

use super::fd::{Fd, ioctl, ioctl_number};
use super::{Result, call, flags};

const NANOSECONDS: u64 = 1_000_000_000;

#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

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
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    let address = core::ptr::from_mut(&mut time) as usize;
    // SAFETY: the kernel writes one time. Both clocks exist everywhere, so the call succeeds.
    let _ = unsafe { call(nr::__NR_clock_gettime, [flags(clock), address, 0, 0, 0, 0]) };
    time.seconds.unsigned_abs() * NANOSECONDS + time.nanoseconds.unsigned_abs()
}

/// Sets the wall clock.
pub(crate) fn set_realtime(nanoseconds: u64) -> Result<()> {
    let time = Time {
        seconds: (nanoseconds / NANOSECONDS).cast_signed(),
        nanoseconds: (nanoseconds % NANOSECONDS).cast_signed(),
    };
    let address = core::ptr::from_ref(&time) as usize;
    // SAFETY: the kernel reads one time.
    unsafe { call(nr::__NR_clock_settime, [flags(nr::CLOCK_REALTIME), address, 0, 0, 0, 0]) }
        .map(drop)
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
    let address = bytes.as_mut_ptr() as usize;
    // SAFETY: the kernel writes at most N bytes; up to 256 come whole.
    unsafe { call(nr::__NR_getrandom, [address, N, 0, 0, 0, 0]) }?;
    Ok(bytes)
}
