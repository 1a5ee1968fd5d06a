//! Folders of the host: each is mounted where the container's programs look for it.
//!
//! Set up at each resume, before hooks and requests. What a snapshot has already mounted stays, so that open
//! files stay usable.

use alloc::ffi::CString;
use alloc::vec::Vec;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Share};

use crate::container::Container;
use crate::failure::{OrFailure, failure};
use crate::joined::{Joined, everywhere};
use crate::place::{make_directories, path};
use crate::slot::probe;
use crate::sys::{Errno, mount};

/// All files seem to be the same user's, so none of the host's programs may run as their owner; and none
/// of the host's devices is one of this machine.
const SAFE: u32 = nr::MS_NOSUID | nr::MS_NODEV;

/// The shares that are mounted, here or in the snapshot, by their slots.
#[derive(Debug, Default)]
pub(crate) struct Shares(Vec<Share>);

impl Shares {
    /// Where shares will be mounted, by those that are not mounted yet.
    pub(crate) fn new_targets<'a>(&self, shares: &'a [Share]) -> Vec<&'a [u8]> {
        let is_new = |share: &&Share| self.0.iter().all(|known| known.slot != share.slot);
        shares.iter().filter(is_new).map(|share| share.target.as_slice()).collect()
    }

    /// Mounts what is not mounted yet, parents first.
    pub(crate) fn set_up(
        &mut self,
        shares: &[Share],
        container: Option<&Container>,
        joined: Option<&Joined>,
    ) -> Result<(), Failure> {
        let mut shares: Vec<&Share> = shares.iter().collect();
        shares.sort_by(|one, other| one.target.cmp(&other.target));
        for share in shares {
            let container =
                container.ok_or_else(|| failure("mount", &share.target, Errno::NOENT))?;
            match self.0.iter_mut().find(|known| known.slot == share.slot) {
                None => {
                    probe(share.slot)?;
                    make_target(share, container)?;
                    everywhere(joined, || attach(share, 0))?;
                    self.0.push(share.clone());
                }
                Some(known) if known.read_only != share.read_only => {
                    everywhere(joined, || attach(share, nr::MS_REMOUNT | nr::MS_BIND))?;
                    known.read_only = share.read_only;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Makes the folder that a share covers, in another share perhaps.
fn make_target(share: &Share, container: &Container) -> Result<(), Failure> {
    make_directories(&share.target)
        .or_else(|_| container.in_writable_root(|| make_directories(&share.target)))
}

fn attach(share: &Share, how: u32) -> Result<(), Failure> {
    let target = path(&share.target)?;
    let tag = CString::new(share.tag.as_bytes())
        .map_err(|_| failure("mount", &share.target, Errno::INVAL))?;
    let how = how | SAFE | if share.read_only { nr::MS_RDONLY } else { 0 };
    mount::mount(&tag, &target, c"virtiofs", how, c"").or_failure("mount", &share.target)
}
