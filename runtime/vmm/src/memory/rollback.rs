//! Restores a machine's original memory, for its next user.
//!
//! Decides which written pages stay present: those of the working set, and [`SparePages`], which
//! former users wrote. Their original content is copied over them. All other written pages go back
//! to the host. A page that stays costs a copy. A page that goes back costs the next user that
//! writes it two page faults, in this host and in the hypervisor, each dearer than the copy.

use std::io;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};

use super::ram::Ram;
use crate::os::{self, PageMap};

/// The most spare pages of a machine: 4 MiB.
const SPARE_PAGES: usize = 1024;
/// A spare page goes back to the host after this many checks in a row that found it unchanged.
const UNUSED_CHECKS: u8 = 2;
/// Every such roll-back checks which spare pages its user has changed. The others copy all of them:
/// a comparison takes longer than a copy.
const CHECK_INTERVAL: u32 = 8;

/// Written pages outside of the working set that stay present, in rising order.
#[derive(Debug, Default)]
pub(crate) struct SparePages {
    pages: Vec<SparePage>,
    /// The number of roll-backs.
    turns: u32,
}

#[derive(Debug, Clone, Copy)]
struct SparePage {
    number: u64,
    /// The number of checks in a row that found it unchanged.
    unused: u8,
}

/// What to do with a written page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Copy its original content over it.
    Copy,
    /// Keep it: it has its original content.
    Defer,
    /// Give it back to the host.
    Drop,
}

/// Restores the content of every written page of `ram` from `pristine`, a second mapping of the
/// same files that was never written. The guest must be paused. The pages of `kept`, which is in
/// rising order, stay present, and so do spare ones; without `spare`, no written page does.
///
/// # Errors
/// The process's page map cannot be read, or pages cannot be dropped. Some pages may be restored
/// then, and others not.
pub(crate) fn roll_back(
    ram: &Ram,
    pristine: &Ram,
    kept: &[Run],
    spare: Option<&mut SparePages>,
) -> io::Result<()> {
    let mut map = PageMap::open()?;
    let (mut none, limit) = (SparePages::default(), spare.as_ref().map_or(0, |_| SPARE_PAGES));
    let spare = spare.unwrap_or(&mut none);
    let before = std::mem::take(&mut spare.pages);
    spare.turns = spare.turns.wrapping_add(1);
    let checks = spare.turns.is_multiple_of(CHECK_INTERVAL);
    let mut selector = Selector { before: before.into_iter().peekable(), spare, checks, limit };
    for ((window, region), (_, pristine)) in ram.windows().iter().zip(pristine.windows()) {
        let base = window.file_offset / PAGE_SIZE;
        let mut plan = WindowPlan { base, kept, ..WindowPlan::default() };
        map.in_place(region, PAGE_SIZE, |page, count, is_written| {
            let is_same = |page| os::is_same_page(region, pristine, page, PAGE_SIZE);
            plan.add(page, page + count, is_written, |page| {
                selector.select(base + page, || is_same(page))
            });
        })?;
        for (first, end) in plan.copies {
            os::copy_range(region, pristine, first * PAGE_SIZE, (end - first) * PAGE_SIZE)?;
        }
        for (first, end) in plan.drops {
            os::discard(region, pristine, first * PAGE_SIZE, (end - first) * PAGE_SIZE)?;
        }
    }
    Ok(())
}

/// Decides about written pages outside of the working set, in rising order.
struct Selector<'a, I: Iterator<Item = SparePage>> {
    /// The former spare pages.
    before: std::iter::Peekable<I>,
    spare: &'a mut SparePages,
    /// Whether spare pages are compared with their original content.
    checks: bool,
    /// The most spare pages.
    limit: usize,
}

impl<I: Iterator<Item = SparePage>> Selector<'_, I> {
    fn select(&mut self, number: u64, is_same: impl FnOnce() -> bool) -> Action {
        while self.before.next_if(|page| page.number < number).is_some() {}
        let known = self.before.next_if(|page| page.number == number);
        if self.spare.pages.len() >= self.limit {
            return Action::Drop;
        }
        let before = known.map_or(0, |page| page.unused);
        let (unused, action) = match self.checks {
            false => (before, Action::Copy),
            true if is_same() => (before + 1, Action::Defer),
            true => (0, Action::Copy),
        };
        if unused >= UNUSED_CHECKS {
            return Action::Drop;
        }
        self.spare.pages.push(SparePage { number, unused });
        action
    }
}

/// What to do with a window's pages. A range is its first page and the page after its last, both
/// counted in the window.
#[derive(Debug, Default)]
struct WindowPlan<'a> {
    /// The window's first page, counted as in `kept`.
    base: u64,
    kept: &'a [Run],
    copies: Vec<(u64, u64)>,
    drops: Vec<(u64, u64)>,
    /// Whether a page that stays follows the last drop.
    is_blocked: bool,
}

impl WindowPlan<'_> {
    /// Adds present pages, in rising order. `select` decides about each written page outside of
    /// `kept`.
    fn add(
        &mut self,
        first: u64,
        end: u64,
        is_written: bool,
        mut select: impl FnMut(u64) -> Action,
    ) {
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
                        match select(page) {
                            Action::Copy => self.copy(page, page + 1),
                            Action::Defer => self.is_blocked = true,
                            Action::Drop => self.drop(page, page + 1),
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

    /// Merges a drop with the one before it, if no page between them is present. Each call makes
    /// the hypervisor unmap the whole range.
    fn drop(&mut self, first: u64, end: u64) {
        match self.drops.last_mut().filter(|_| !self.is_blocked) {
            Some(last) => last.1 = end,
            None => self.drops.push((first, end)),
        }
        self.is_blocked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's spare pages after several users, each of which writes these pages.
    fn after(turns: &[&[u64]], checks: bool) -> (SparePages, Vec<(u64, Action)>) {
        let mut spare = SparePages::default();
        let mut last = Vec::new();
        for written in turns {
            let before = std::mem::take(&mut spare.pages);
            let mut there: Vec<u64> = before.iter().map(|page| page.number).collect();
            there.extend(*written);
            there.sort_unstable();
            there.dedup();
            let mut selector = Selector {
                before: before.into_iter().peekable(),
                spare: &mut spare,
                checks,
                limit: SPARE_PAGES,
            };
            let action = |page: u64| (page, selector.select(page, || !written.contains(&page)));
            last = there.into_iter().map(action).collect();
        }
        (spare, last)
    }

    #[test]
    fn spare_page_unused_at_two_checks_goes_back() {
        let after = |turns: &[&[u64]]| after(turns, true);
        assert_eq!(after(&[&[3, 9]]).1, [(3, Action::Copy), (9, Action::Copy)]);
        assert_eq!(after(&[&[3, 9], &[9]]).1, [(3, Action::Defer), (9, Action::Copy)]);
        assert_eq!(after(&[&[3, 9], &[9], &[3]]).1, [(3, Action::Copy), (9, Action::Defer)]);
        let (spare, last) = after(&[&[3, 9], &[9], &[4]]);
        assert_eq!(last, [(3, Action::Drop), (4, Action::Copy), (9, Action::Defer)]);
        assert_eq!(spare.pages.iter().map(|page| page.number).collect::<Vec<_>>(), [4, 9]);
    }

    #[test]
    fn between_checks_every_spare_page_is_copied() {
        let never = || panic!("compared");
        let mut spare = SparePages { pages: vec![SparePage { number: 3, unused: 1 }], turns: 1 };
        let before = std::mem::take(&mut spare.pages).into_iter().peekable();
        let mut selector =
            Selector { before, spare: &mut spare, checks: false, limit: SPARE_PAGES };
        assert_eq!([3, 9].map(|page| selector.select(page, never)), [Action::Copy; 2]);
        let kept: Vec<_> = spare.pages.iter().map(|page| (page.number, page.unused)).collect();
        assert_eq!(kept, [(3, 1), (9, 0)]);
    }

    #[test]
    fn written_pages_over_the_limit_go_back() {
        let many: Vec<u64> = (0..SPARE_PAGES as u64 + 10).collect();
        let (spare, last) = after(&[&many], true);
        assert_eq!(spare.pages.len(), SPARE_PAGES);
        assert_eq!(last.iter().filter(|(_, action)| *action == Action::Drop).count(), 10);
    }

    #[test]
    fn drops_merge_only_without_a_present_page_between() {
        let kept = [Run { first: 10, count: 2 }];
        let mut plan = WindowPlan { kept: &kept, ..WindowPlan::default() };
        let select = |page| if page == 31 { Action::Copy } else { Action::Drop };
        plan.add(2, 4, true, select);
        plan.add(6, 15, true, select);
        plan.add(20, 21, false, select);
        plan.add(30, 34, true, select);
        plan.add(40, 41, true, select);
        assert_eq!(plan.drops, [(2, 10), (12, 15), (30, 31), (32, 41)]);
        assert_eq!(plan.copies, [(10, 12), (31, 32)]);
    }
}
