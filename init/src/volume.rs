//! The image's volumes: directories that are writable whatever the root is, as mounts of their own.
//!
//! A volume begins with the image's files, their owners and modes. An empty one is a directory of the
//! tmpfs that holds the root's writable layer, so overlayfs can write to it: container engines keep
//! their layers in a volume. One with files is an overlay over the image's directory, so that they
//! are not copied. Both count towards the limit of the writable layer.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::failure::{OrFailure, failure};
use crate::place::{ensure_directory, make_directories, path};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, tree};

/// Directories of the image can be renamed, hard links stay linked when they are written to, inode
/// numbers do not change then, and files have handles.
pub(crate) const OVERLAY_OPTIONS: &str = "redirect_dir=on,index=on,nfs_export=on,xino=on";
/// The bits of a mode that a mount takes over from the directory that it covers.
pub(crate) const MODE: u32 = 0o7777;

/// The two layers of the root, which have no path once it is entered.
#[derive(Debug)]
pub(crate) struct Layers {
    image: Fd,
    writable: Fd,
}

impl Layers {
    /// Opens the directories where the image and the tmpfs of the writable layer are mounted.
    pub(crate) fn open(image: &CStr, writable: &CStr) -> Result<Self, Failure> {
        Ok(Self { image: directory(image)?, writable: directory(writable)? })
    }

    /// The directory where the writable layer's tmpfs is mounted.
    pub(crate) fn writable(&self) -> String {
        own_path(&self.writable)
    }

    /// Mounts the `number`th volume at `name`, which is created if it is missing.
    pub(crate) fn mount_volume(&self, number: usize, name: &[u8]) -> Result<(), Failure> {
        make_directories(name)?;
        let target = path(name)?;
        let status = mount::status(&target).or_failure("stat", name)?;
        if u32::from(status.stx_mode) & nr::S_IFMT != nr::S_IFDIR {
            return Err(failure("mount a volume", name, Errno::NOTDIR));
        }
        let own = format!("{}/volume-{number}", own_path(&self.writable));
        let files = text_path(&format!("{own}/files"))?;
        ensure_directory(&text_path(&own)?)?;
        ensure_directory(&files)?;
        let mode = u32::from(status.stx_mode) & MODE;
        mount::set_owner_and_mode(&files, status.stx_uid, status.stx_gid, mode)
            .or_failure("chmod", name)?;
        match self.image_directory(&target, name)? {
            None => mount::mount(&files, &target, c"", nr::MS_BIND, c"").or_failure("mount", name),
            Some(image) => {
                ensure_directory(&text_path(&format!("{own}/work"))?)?;
                let data = format!(
                    "lowerdir={},upperdir={own}/files,workdir={own}/work,{OVERLAY_OPTIONS}",
                    own_path(&image)
                );
                mount::mount(c"overlay", &target, c"overlay", 0, &text_path(&data)?)
                    .or_failure("mount", name)
            }
        }
    }

    /// The image's directory behind `target`, which may lead through links. `None` if nothing is in it.
    fn image_directory(&self, target: &CStr, name: &[u8]) -> Result<Option<Fd>, Failure> {
        if tree::names(target).or_failure("read", name)?.is_empty() {
            return Ok(None);
        }
        let real = real_path(target, name)?;
        let below: Vec<u8> = [b".".as_slice(), &real].concat();
        let how = nr::O_PATH | nr::O_DIRECTORY;
        fd::open_at(&self.image, &path(&below)?, how).or_failure("open", name).map(Some)
    }
}

pub(crate) fn directory(path: &CStr) -> Result<Fd, Failure> {
    fd::open(path, nr::O_PATH | nr::O_DIRECTORY, 0).or_failure("open", path.to_bytes())
}

/// Where a directory is, without links on the way. `name` names it in a failure.
pub(crate) fn real_path(target: &CStr, name: &[u8]) -> Result<Vec<u8>, Failure> {
    let opened = directory(target)?;
    tree::link_target(&text_path(&own_path(&opened))?).or_failure("readlink", name)
}

/// A path to what is open, wherever that is mounted.
pub(crate) fn own_path(fd: &Fd) -> String {
    format!("/proc/self/fd/{}", fd.number())
}

pub(crate) fn text_path(text: &str) -> Result<CString, Failure> {
    path(text.as_bytes())
}
