//! `userfaultfd`: serves page faults on missing pages from this process, and has the kernel map
//! pages one by one.
//!
//! Owns the descriptor and the layout of its calls.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use vm_memory::MmapRegion;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iowr_nr};

use super::device_file::USERFAULT;
use crate::os::unix::mmap::host_page_size;

const TYPE: u32 = 0xaa;
const API_VERSION: u64 = 0xaa;
const EVENT_PAGEFAULT: u8 = 0x12;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WRITE_PROTECT: u64 = 2;
/// The kernel itself resolves faults on protected pages, of which there are none here.
const FEATURE_WRITE_PROTECT_ASYNC: u64 = 1 << 15;
/// Bytes of an event.
const MESSAGE: usize = 32;

ioctl_io_nr!(USERFAULTFD_IOC_NEW, TYPE, 0x00);
ioctl_iowr_nr!(UFFDIO_API, TYPE, 0x3f, Api);
ioctl_iowr_nr!(UFFDIO_REGISTER, TYPE, 0x00, Register);
ioctl_ior_nr!(UFFDIO_UNREGISTER, TYPE, 0x01, Range);
ioctl_ior_nr!(UFFDIO_WAKE, TYPE, 0x02, Range);
ioctl_iowr_nr!(UFFDIO_COPY, TYPE, 0x03, Copy);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, TYPE, 0x04, Zero);

#[repr(C)]
#[derive(Debug, Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Range {
    start: u64,
    length: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Copy {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Zero {
    range: Range,
    mode: u64,
    zeroed: i64,
}

/// A `userfaultfd` that reports faults of user mode and of the kernel, where KVM's occur.
#[derive(Debug)]
pub(crate) struct Userfault {
    file: File,
}

impl Userfault {
    /// Opens one.
    ///
    /// # Errors
    /// The system has no `userfaultfd`, or does not allow it to this user.
    pub(crate) fn open() -> io::Result<Self> {
        Self::with_features(0)
    }

    /// Opens one, for [`map_singly`](Self::map_singly) only.
    ///
    /// # Errors
    /// As for [`open`](Self::open); kernels before 6.7 do not have it.
    pub(crate) fn open_for_single_pages() -> io::Result<Self> {
        Self::with_features(FEATURE_WRITE_PROTECT_ASYNC)
    }

    fn with_features(features: u64) -> io::Result<Self> {
        let file = File::from(by_device().or_else(|_| by_call())?);
        let mut api = Api { api: API_VERSION, features, ..Api::default() };
        // SAFETY: the kernel reads and writes one `uffdio_api`, which `api` is.
        let answer = unsafe { ioctl_with_mut_ref(&file, UFFDIO_API(), &mut api) };
        checked(answer)?;
        Ok(Self { file })
    }

    /// Starts to report faults on missing pages of `region`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn watch(&self, region: &MmapRegion) -> io::Result<()> {
        self.register(region, REGISTER_MODE_MISSING)
    }

    /// Has a fault on a page of `region` map this page alone, without its neighbours in the file, for
    /// as long as this is open.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn map_singly(&self, region: &MmapRegion) -> io::Result<()> {
        // A kernel that keeps track of protection page by page maps no neighbours.
        self.register(region, REGISTER_MODE_WRITE_PROTECT)
    }

    fn register(&self, region: &MmapRegion, mode: u64) -> io::Result<()> {
        let mut register = Register { range: range_of(region), mode, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_register`, which `register` is.
        checked(unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_REGISTER(), &mut register) })
    }

    /// Stops to report faults. Threads that wait resume, and read zeros.
    pub(crate) fn forget(&self, region: &MmapRegion) {
        let range = range_of(region);
        // SAFETY: the kernel reads one `uffdio_range`, which `range` is. A range that
        // is not watched makes it fail, which is harmless.
        let _ = unsafe { ioctl_with_ref(&self.file, UFFDIO_UNREGISTER(), &range) };
    }

    /// The address of the next pending fault; `None` if there is none.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub(crate) fn next_fault(&self) -> io::Result<Option<u64>> {
        loop {
            let mut message = [0; MESSAGE];
            match (&self.file).read(&mut message) {
                Ok(MESSAGE) if message.first() == Some(&EVENT_PAGEFAULT) => {
                    let address = message.get(16..24).and_then(|bytes| bytes.try_into().ok());
                    return Ok(address.map(u64::from_ne_bytes));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills in `content` at `offset` of `region`, and wakes the threads that wait for it. Pages that
    /// are present already stay.
    ///
    /// # Errors
    /// The range is outside the region, or the kernel's own.
    pub(crate) fn put(&self, region: &MmapRegion, offset: u64, content: &[u8]) -> io::Result<()> {
        let length = content.len() as u64;
        self.stepwise(region, offset, length, |done, to| {
            let from = content.as_ptr() as u64 + done;
            let mut copy = Copy { to, from, length: length - done, ..Copy::default() };
            // SAFETY: the kernel reads and writes one `uffdio_copy`, reads the rest of
            // `content`, and writes only to pages of `region` that are not there yet.
            let answer = unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_COPY(), &mut copy) };
            (checked(answer), copy.copied)
        })
    }

    /// Fills in zeros, as [`Userfault::put`] does.
    ///
    /// # Errors
    /// The range is outside the region, or the kernel's own.
    pub(crate) fn put_zeros(&self, region: &MmapRegion, offset: u64, size: u64) -> io::Result<()> {
        self.stepwise(region, offset, size, |done, to| {
            let range = Range { start: to, length: size - done };
            let mut zero = Zero { range, ..Zero::default() };
            // SAFETY: the kernel reads and writes one `uffdio_zeropage`, and writes only to
            // pages of `region` that are not there yet.
            let answer = unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_ZEROPAGE(), &mut zero) };
            (checked(answer), zero.zeroed)
        })
    }

    /// Repeats a call that can stop half-way, until the whole range is filled in.
    fn stepwise(
        &self,
        region: &MmapRegion,
        offset: u64,
        size: u64,
        mut step: impl FnMut(u64, u64) -> (io::Result<()>, i64),
    ) -> io::Result<()> {
        let end = offset.checked_add(size);
        if end.is_none_or(|end| end > region.size() as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = region.as_ptr() as u64 + offset;
        let page = host_page_size();
        let mut done = 0;
        while done < size {
            let (result, moved) = step(done, start + done);
            done += u64::try_from(moved).unwrap_or(0);
            match result {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    // The next page is present already, so the kernel has woken no thread for it.
                    self.wake(start + done, page);
                    done += page;
                }
                // The address space is being changed, or was moved in part.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Wakes the threads that wait for present pages.
    fn wake(&self, start: u64, length: u64) {
        let range = Range { start, length };
        // SAFETY: the kernel reads one `uffdio_range`, which `range` is. It fails only for a
        // range that is not of whole pages, where no thread can wait.
        let _ = unsafe { ioctl_with_ref(&self.file, UFFDIO_WAKE(), &range) };
    }
}

impl AsRawFd for Userfault {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// By the device, which an administrator can allow to users.
fn by_device() -> io::Result<OwnedFd> {
    let device = USERFAULT.open()?;
    // SAFETY: the call takes flags by value and touches no memory.
    let fd = unsafe {
        vmm_sys_util::ioctl::ioctl_with_val(
            &device,
            USERFAULTFD_IOC_NEW(),
            (libc::O_CLOEXEC | libc::O_NONBLOCK) as libc::c_ulong,
        )
    };
    owned(i64::from(fd))
}

/// By the system call, which the kernel may keep for administrators.
fn by_call() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags by value and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    owned(fd)
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made the descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn checked(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn range_of(region: &MmapRegion) -> Range {
    Range { start: region.as_ptr() as u64, length: region.size() as u64 }
}
