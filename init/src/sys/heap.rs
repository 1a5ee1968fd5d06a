//! The agent's allocator: free lists by size class, large blocks straight from the kernel.
//!
//! Single-threaded, like the agent. Freed blocks go to the front of their list, so that the
//! next request gets the page that was touched last: after a restore each first touch of a
//! page costs an exit to the host.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

const SMALLEST_SHIFT: u32 = 4;
const LARGEST_SHIFT: u32 = 16;
const CLASSES: usize = (LARGEST_SHIFT - SMALLEST_SHIFT + 1) as usize;
const REGION: usize = 256 << 10;
const PAGE: usize = 4096;

/// A free block holds the address of the next one of its class.
struct State {
    free: [*mut u8; CLASSES],
    next: *mut u8,
    left: usize,
}

/// The allocator. See the module.
pub struct Heap {
    state: UnsafeCell<State>,
}

// SAFETY: the agent has one thread. A child that shares its memory never allocates, and the
// agent does not run until that child has left.
unsafe impl Sync for Heap {}

impl core::fmt::Debug for Heap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Heap").finish_non_exhaustive()
    }
}

impl Heap {
    /// An empty heap; memory comes with the first allocation.
    #[must_use]
    pub const fn new() -> Self {
        let state = State { free: [null_mut(); CLASSES], next: null_mut(), left: 0 };
        Self { state: UnsafeCell::new(state) }
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

/// The size class of a layout: index and block size. `None` if the kernel maps it directly.
fn class(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size().max(layout.align()).max(1 << SMALLEST_SHIFT);
    let size = size.checked_next_power_of_two()?;
    let shift = size.trailing_zeros();
    (shift <= LARGEST_SHIFT).then(|| ((shift - SMALLEST_SHIFT) as usize, size))
}

impl State {
    /// Cuts a block off the current region, aligned to its size or to a page.
    fn cut(&mut self, size: usize) -> *mut u8 {
        let skip = (self.next as usize).wrapping_neg() & (size.min(PAGE) - 1);
        if self.left < skip + size {
            let Ok(region) = super::map(REGION) else { return null_mut() };
            self.next = region;
            self.left = REGION;
            return self.cut_aligned(size, 0);
        }
        self.cut_aligned(size, skip)
    }

    fn cut_aligned(&mut self, size: usize, skip: usize) -> *mut u8 {
        let block = self.next.wrapping_add(skip);
        self.next = block.wrapping_add(size);
        self.left -= skip + size;
        block
    }
}

// SAFETY: blocks are at least as large and as aligned as asked, and never handed out twice:
// they come from a region once, and from a free list after they were given back. Alignments
// over a page are not used by the agent and refused.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((index, size)) = class(layout) else {
            return super::map(layout.size()).unwrap_or(null_mut());
        };
        // SAFETY: one thread, and no reference to the state outlives its call.
        let state = unsafe { &mut *self.state.get() };
        let Some(head) = state.free.get_mut(index) else { return null_mut() };
        let block = *head;
        if block.is_null() {
            return state.cut(size);
        }
        // SAFETY: a block on a free list holds the next one's address.
        *head = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    // A copy in each caller would make the agent larger by several kilobytes.
    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((index, _)) = class(layout) else {
            // SAFETY: mapped by `alloc` for a layout of this size, and the caller's to give back.
            unsafe { super::unmap(block, layout.size()) };
            return;
        };
        // SAFETY: one thread, and no reference to the state outlives its call.
        let state = unsafe { &mut *self.state.get() };
        if let Some(head) = state.free.get_mut(index) {
            // SAFETY: the block is the caller's to give back, and at least 16 bytes large.
            unsafe { block.cast::<*mut u8>().write(*head) };
            *head = block;
        }
    }
}
