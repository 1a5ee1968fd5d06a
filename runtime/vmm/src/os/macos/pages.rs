//! Pages of mappings, made present or restored in bulk.

use std::io;

use vm_memory::MmapRegion;

use crate::os::unix::mmap::{Populate, copy_range, range_within};

/// Has the system read the pages of a range ahead. It cannot make private copies in bulk.
///
/// # Errors
/// The range is outside of the region, private copies are asked for, or `madvise` fails.
pub(crate) fn populate(
    region: &MmapRegion,
    offset: u64,
    size: u64,
    how: Populate,
) -> io::Result<()> {
    let (start, size) = range_within(region, offset, size)?;
    if how == Populate::Write {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the range is within `region`, which is mapped; reading ahead changes no content.
    match unsafe { libc::madvise(start.cast(), size, libc::MADV_WILLNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Restores the content of a range of `region`, which `pristine`, another mapping of the same files,
/// shows. The private copies stay: the hypervisor would continue to use a page that this process
/// has replaced.
///
/// # Errors
/// The range is outside of the regions.
pub(crate) fn discard(
    region: &MmapRegion,
    pristine: &MmapRegion,
    offset: u64,
    size: u64,
) -> io::Result<()> {
    copy_range(region, pristine, offset, size)?;
    let (start, size) = range_within(region, offset, size)?;
    // The guest may have run code that was there.
    // SAFETY: the range is within `region`, which is mapped; its content stays.
    unsafe { sys_icache_invalidate(start.cast(), size) };
    Ok(())
}

unsafe extern "C" {
    /// Makes processors fetch the instructions of a range again.
    fn sys_icache_invalidate(start: *mut libc::c_void, size: libc::size_t);
}
