//! Memory put back to how it began, for the next user.
//!
//! Owns which written pages of a machine stay in place: those of the working set, and
//! [`Spare`] ones, which users were seen to write. They are written over with what they began
//! as. All others are given back to the host. A page that stays costs a copy; one that is given
//! back costs the next user who writes it two page faults, in this host and in the hypervisor,
//! each dearer than the copy.

use std::io;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use vm_memory::{MmapRegion, VolatileMemory};

use super::memory::Ram;
use super::sys::{self, PageMap};

/// How many spare pages a machine may have: 4 MiB.
const SPARE_PAGES: usize = 1024;
/// After how many users in turn who leave a spare page alone it is given back.
const UNUSED_TURNS: u8 = 2;

/// Written pages beside the working set that stay in place, in rising order.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    pages: Vec<SparePage>,
}

#[derive(Debug, Clone, Copy)]
struct SparePage {
    number: u64,
    /// How many users in turn have left it as it began.
    unused: u8,
}

/// What becomes of a written page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It gets back what it began as.
    Copy,
    /// It is as it began.
    Stay,
    /// It is given back to the host.
    Drop,
}

/// Puts back in every written page of `ram` what `pristine` has there, which was mapped in the
/// same way and never written. The guest stands still. The pages of `kept`, which is in rising
/// order, stay in place, and so do spare ones.
///
/// # Errors
/// The process's page map cannot be read, or pages cannot be dropped. Some pages may be back
/// then, and others not.
pub(crate) fn reset(ram: &Ram, pristine: &Ram, kept: &[Run], spare: &mut Spare) -> io::Result<()> {
    let mut map = PageMap::open()?;
    let before = std::mem::take(&mut spare.pages);
    let mut judge = Judge { before: before.into_iter().peekable(), spare };
    for ((window, region), (_, pristine)) in ram.windows().iter().zip(pristine.windows()) {
        let base = window.file_offset / PAGE_SIZE;
        let mut plan = Plan { base, kept, ..Plan::default() };
        map.in_place(region, PAGE_SIZE, |page, count, is_written| {
            let is_same = |page| sys::is_same_page(region, pristine, page, PAGE_SIZE);
            plan.add(page, page + count, is_written, |page| {
                judge.judge(base + page, || is_same(page))
            });
        })?;
        for (first, end) in plan.copies {
            copy_pages(region, pristine, first, end)?;
        }
        for (first, end) in plan.drops {
            sys::drop_pages(region, first * PAGE_SIZE, (end - first) * PAGE_SIZE)?;
        }
    }
    Ok(())
}

/// Judges written pages beside the working set, which come in rising order.
struct Judge<'a, I: Iterator<Item = SparePage>> {
    /// Those that were spare before.
    before: std::iter::Peekable<I>,
    spare: &'a mut Spare,
}

impl<I: Iterator<Item = SparePage>> Judge<'_, I> {
    fn judge(&mut self, number: u64, is_same: impl FnOnce() -> bool) -> Fate {
        while self.before.next_if(|page| page.number < number).is_some() {}
        let known = self.before.next_if(|page| page.number == number);
        if self.spare.pages.len() >= SPARE_PAGES {
            return Fate::Drop;
        }
        let (unused, fate) = if is_same() {
            (known.map_or(1, |page| page.unused + 1), Fate::Stay)
        } else {
            (0, Fate::Copy)
        };
        if unused >= UNUSED_TURNS {
            return Fate::Drop;
        }
        self.spare.pages.push(SparePage { number, unused });
        fate
    }
}

/// What becomes of a window's pages: from the first to before the end, counted in the window.
#[derive(Debug, Default)]
struct Plan<'a> {
    /// The window's first page, counted as in `kept`.
    base: u64,
    kept: &'a [Run],
    copies: Vec<(u64, u64)>,
    drops: Vec<(u64, u64)>,
    /// Whether something stands behind the last drop that must stay.
    is_blocked: bool,
}

impl Plan<'_> {
    /// Adds pages that are in place, in rising order. What is written and not among those to be
    /// kept is judged page by page.
    fn add(&mut self, first: u64, end: u64, is_written: bool, mut judge: impl FnMut(u64) -> Fate) {
        if !is_written {
            self.is_blocked = true;
            return;
        }
        let mut at = first;
        while at < end {
            let page = self.base + at;
            let after = self.kept.partition_point(|run| run.end() <= page);
            let within = |border: u64| (border - self.base).min(end);
            at = match self.kept.get(after) {
                Some(run) if run.first <= page => {
                    let next = within(run.end());
                    self.copy(at, next);
                    next
                }
                found => {
                    let next = found.map_or(end, |run| within(run.first));
                    for page in at..next {
                        match judge(page) {
                            Fate::Copy => self.copy(page, page + 1),
                            Fate::Stay => self.is_blocked = true,
                            Fate::Drop => self.drop(page, page + 1),
                        }
                    }
                    next
                }
            };
        }
    }

    fn copy(&mut self, first: u64, end: u64) {
        self.is_blocked = true;
        match self.copies.last_mut().filter(|last| last.1 == first) {
            Some(last) => last.1 = end,
            None => self.copies.push((first, end)),
        }
    }

    /// Drops pages in one go with those before, if nothing is in place between them: each call
    /// has the hypervisor forget what it has of the stretch.
    fn drop(&mut self, first: u64, end: u64) {
        match self.drops.last_mut().filter(|_| !self.is_blocked) {
            Some(last) => last.1 = end,
            None => self.drops.push((first, end)),
        }
        self.is_blocked = false;
    }
}

/// Copies pages, from the first to before the end, from one region to the same place in another.
fn copy_pages(to: &MmapRegion, from: &MmapRegion, first: u64, end: u64) -> io::Result<()> {
    let (offset, size) = ((first * PAGE_SIZE) as usize, ((end - first) * PAGE_SIZE) as usize);
    let from = from.as_volatile_slice().subslice(offset, size).map_err(io::Error::other)?;
    let to = to.as_volatile_slice().subslice(offset, size).map_err(io::Error::other)?;
    from.copy_to_volatile_slice(to);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's spare pages after each of several users, who write the pages named.
    fn after(turns: &[&[u64]]) -> (Spare, Vec<(u64, Fate)>) {
        let mut spare = Spare::default();
        let mut last = Vec::new();
        for written in turns {
            let before = std::mem::take(&mut spare.pages);
            let mut there: Vec<u64> = before.iter().map(|page| page.number).collect();
            there.extend(*written);
            there.sort_unstable();
            there.dedup();
            let mut judge = Judge { before: before.into_iter().peekable(), spare: &mut spare };
            let fate = |page: u64| (page, judge.judge(page, || !written.contains(&page)));
            last = there.into_iter().map(fate).collect();
        }
        (spare, last)
    }

    #[test]
    fn a_page_that_two_users_in_turn_leave_alone_is_given_back() {
        assert_eq!(after(&[&[3, 9]]).1, [(3, Fate::Copy), (9, Fate::Copy)]);
        assert_eq!(after(&[&[3, 9], &[9]]).1, [(3, Fate::Stay), (9, Fate::Copy)]);
        assert_eq!(after(&[&[3, 9], &[9], &[3]]).1, [(3, Fate::Copy), (9, Fate::Stay)]);
        let (spare, last) = after(&[&[3, 9], &[9], &[4]]);
        assert_eq!(last, [(3, Fate::Drop), (4, Fate::Copy), (9, Fate::Stay)]);
        assert_eq!(spare.pages.iter().map(|page| page.number).collect::<Vec<_>>(), [4, 9]);
    }

    #[test]
    fn no_more_pages_stay_than_may() {
        let many: Vec<u64> = (0..SPARE_PAGES as u64 + 10).collect();
        let (spare, last) = after(&[&many]);
        assert_eq!(spare.pages.len(), SPARE_PAGES);
        assert_eq!(last.iter().filter(|(_, fate)| *fate == Fate::Drop).count(), 10);
    }

    #[test]
    fn drops_go_in_one_only_where_nothing_stands_between() {
        let kept = [Run { first: 10, count: 2 }];
        let mut plan = Plan { kept: &kept, ..Plan::default() };
        let judge = |page| if page == 31 { Fate::Copy } else { Fate::Drop };
        plan.add(2, 4, true, judge);
        plan.add(6, 15, true, judge);
        plan.add(20, 21, false, judge);
        plan.add(30, 34, true, judge);
        plan.add(40, 41, true, judge);
        assert_eq!(plan.drops, [(2, 10), (12, 15), (30, 31), (32, 41)]);
        assert_eq!(plan.copies, [(10, 12), (31, 32)]);
    }
}
