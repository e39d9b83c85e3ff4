//! The allocator of this program: mimalloc, as in the `dstreams` command and the hand-written program; it counts if
//! a measurement asks for it.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use mimalloc::MiMalloc;

/// mimalloc with counters. While they are off, they cost a load and a branch that is not taken.
pub struct Counting;

static COUNTING_ON: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// Allocations since counting began.
#[derive(Debug, Clone, Copy)]
pub struct Allocated {
    /// Number of allocations.
    pub calls: u64,
    /// Bytes of all allocations.
    pub bytes: u64,
    /// Bytes that are not yet freed.
    pub held: u64,
}

/// Starts to count.
pub fn count() {
    COUNTING_ON.store(true, Relaxed);
}

/// The counters so far.
pub fn allocated() -> Allocated {
    let (calls, bytes) = (CALLS.load(Relaxed), ALLOCATED.load(Relaxed));
    Allocated {
        calls,
        bytes,
        held: bytes.wrapping_sub(FREED.load(Relaxed)),
    }
}

#[inline]
fn taken(bytes: usize) {
    if COUNTING_ON.load(Relaxed) {
        CALLS.fetch_add(1, Relaxed);
        ALLOCATED.fetch_add(bytes as u64, Relaxed);
    }
}

#[inline]
fn given(bytes: usize) {
    if COUNTING_ON.load(Relaxed) {
        FREED.fetch_add(bytes as u64, Relaxed);
    }
}

// SAFETY: each call is forwarded to mimalloc unchanged. Allocations can only be counted by implementing this trait.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        given(layout.size());
        unsafe { MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given(layout.size());
        taken(size);
        unsafe { MiMalloc.realloc(at, layout, size) }
    }
}
