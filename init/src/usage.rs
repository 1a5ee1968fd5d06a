//! How much memory is in use, from the kernel's own table.

use supermachine_formats::wire::{Failure, Memory};

use crate::failure::{OrFailure, failure};
use crate::sys::{Errno, fd};

/// Reads the table.
pub(crate) fn memory() -> Result<Memory, Failure> {
    let table = fd::read_file(c"/proc/meminfo").or_failure("read", "/proc/meminfo")?;
    parse(&table).ok_or_else(|| failure("read", "/proc/meminfo", Errno::BADMSG))
}

fn parse(table: &[u8]) -> Option<Memory> {
    let value = |name: &[u8]| {
        let line = table.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        let digits = line.trim_ascii().split(|byte| *byte == b' ').next()?;
        core::str::from_utf8(digits).ok()?.parse().ok()
    };
    Some(Memory { total_kib: value(b"MemTotal:")?, available_kib: value(b"MemAvailable:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_total_and_available_memory() {
        let table = b"MemTotal:         113560 kB\nMemFree:  9 kB\nMemAvailable:    1 kB\n";
        assert_eq!(parse(table), Some(Memory { total_kib: 113_560, available_kib: 1 }));
        assert_eq!(parse(b"MemTotal: x kB\nMemAvailable: 1 kB"), None);
        assert_eq!(parse(b"MemTotal: 1 kB"), None);
    }

    #[test]
    fn hosts_table_has_the_expected_form() {
        let memory = memory().unwrap();
        assert!(memory.available_kib > 0 && memory.available_kib < memory.total_kib);
    }
}
