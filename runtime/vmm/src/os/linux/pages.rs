//! Pages of mappings, made present or given back in bulk.

use std::io;

use vm_memory::MmapRegion;

use crate::os::unix::mmap::{Populate, copy_range, host_page_size, range_within};

/// Populates the host's pages around a range of `region` with one call.
///
/// # Errors
/// The range is outside of the region, or `madvise` fails.
pub(crate) fn populate(
    region: &MmapRegion,
    offset: u64,
    size: u64,
    how: Populate,
) -> io::Result<()> {
    let (offset, size) = around(offset, size, host_page_size());
    advise(
        region,
        offset,
        size,
        match how {
            Populate::Read => libc::MADV_POPULATE_READ,
            Populate::Write => libc::MADV_POPULATE_WRITE,
        },
    )
}

/// Restores the content of a range of `region`, which `pristine`, another mapping of the same files,
/// shows. Gives the private copies back to the host.
///
/// # Errors
/// The range is outside of the regions, or `madvise` fails.
pub(crate) fn discard(
    region: &MmapRegion,
    pristine: &MmapRegion,
    offset: u64,
    size: u64,
) -> io::Result<()> {
    discard_pages(region, pristine, (offset, size), host_page_size())
}

/// Gives back the whole pages of a range, and copies the content of the others: their other parts
/// may stay as they are.
fn discard_pages(
    region: &MmapRegion,
    pristine: &MmapRegion,
    (offset, size): (u64, u64),
    page: u64,
) -> io::Result<()> {
    let end = offset.checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
    let (first, last) = (offset.next_multiple_of(page).min(end), (end / page * page).max(offset));
    if first >= last {
        return copy_range(region, pristine, offset, size);
    }
    for (start, end) in [(offset, first), (last, end)] {
        if start < end {
            copy_range(region, pristine, start, end - start)?;
        }
    }
    advise(region, first, last - first, libc::MADV_DONTNEED)
}

fn advise(region: &MmapRegion, offset: u64, size: u64, advice: libc::c_int) -> io::Result<()> {
    let (start, size) = range_within(region, offset, size)?;
    // SAFETY: the range is within `region`, which is mapped. Populating changes no content, and
    // dropping pages changes none that a reference points to: guest memory is only accessed through
    // volatile copies.
    match unsafe { libc::madvise(start.cast(), size, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Rounds a range of bytes to whole pages around it.
fn around(offset: u64, size: u64, page: u64) -> (u64, u64) {
    let start = offset / page * page;
    let end = offset.saturating_add(size);
    (start, end.checked_next_multiple_of(page).unwrap_or(end) - start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::unix::mmap::{Protection, reserve};
    use vm_memory::VolatileMemory;

    #[test]
    fn range_grows_to_whole_pages_of_the_host() {
        assert_eq!(around(0x1000, 0x1000, 0x1000), (0x1000, 0x1000));
        assert_eq!(around(0x5000, 0x2000, 0x4000), (0x4000, 0x4000));
        assert_eq!(around(0x7000, 0x2000, 0x4000), (0x4000, 0x8000));
    }

    #[test]
    fn discarded_range_is_pristine_and_its_surroundings_stay_whatever_the_size_of_a_page() {
        const SIZE: usize = 1 << 18;
        const UNIT: usize = 0x1000;
        for page in [0x1000, 0x4000, 0x1_0000] {
            for (start, end) in [(1, 9), (4, 8), (5, 6), (0, 64), (15, 17), (63, 64), (7, 7)] {
                let [region, pristine] =
                    [(); 2].map(|()| reserve(SIZE as u64, Protection::ReadWrite).unwrap());
                region.as_volatile_slice().copy_from(&[7_u8; SIZE]);
                let range = ((start * UNIT) as u64, ((end - start) * UNIT) as u64);
                discard_pages(&region, &pristine, range, page).unwrap();
                let mut content = vec![0_u8; SIZE];
                region.as_volatile_slice().copy_to(&mut content[..]);
                let expected = |at: usize| if (start..end).contains(&(at / UNIT)) { 0 } else { 7 };
                let wrong = (0..SIZE).find(|at| content[*at] != expected(*at));
                assert_eq!(wrong, None, "{start} to {end}, pages of {page}");
            }
        }
        let region = reserve(SIZE as u64, Protection::ReadWrite).unwrap();
        for range in [(0, SIZE as u64 + 1), (u64::MAX, 2), (SIZE as u64, 0x1000)] {
            assert!(discard_pages(&region, &region, range, 0x1000).is_err());
        }
    }
}
