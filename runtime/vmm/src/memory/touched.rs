//! The pages that a guest touched.
//!
//! They are in this process's page table. A fault on a page of a file usually maps its neighbours
//! too, so those count as read unless a [`ReadRecorder`] is alive.

use std::io;

use supermachine_formats::snapshot::WorkingSet;
use supermachine_formats::snapshot::memory::PAGE_SIZE;

use super::dirty::append;
use super::ram::Ram;
use crate::os::{PageMap, Userfault};

/// While this is alive, pages are mapped one by one.
#[derive(Debug)]
pub struct ReadRecorder {
    #[expect(dead_code, reason = "it is kept open")]
    userfault: Userfault,
}

impl ReadRecorder {
    /// Begins with the next page that the guest touches.
    ///
    /// # Errors
    /// The host's kernel lacks this, or does not allow it to this user.
    pub(crate) fn start(ram: &Ram) -> io::Result<Self> {
        let userfault = Userfault::open_for_single_pages()?;
        ram.windows().iter().try_for_each(|(_, region)| userfault.map_singly(region))?;
        Ok(Self { userfault })
    }
}

/// The present pages: those that were written, and those that were only read.
pub(crate) fn touched(ram: &Ram) -> io::Result<WorkingSet> {
    let mut map = PageMap::open()?;
    let mut touched = WorkingSet::default();
    for (window, region) in ram.windows() {
        let first = window.file_offset / PAGE_SIZE;
        map.in_place(region, PAGE_SIZE, |page, count, is_written| {
            let runs = if is_written { &mut touched.written } else { &mut touched.read };
            append(runs, first + page, count);
        })?;
    }
    Ok(touched)
}
