//! Searches each block of memory that is freed for secrets that it still holds.
//!
//! A secret in a freed block stays in the process until the block is used again: a core dump or a
//! read past a buffer's end shows it. A test declares the allocator and the secrets:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: perennial_freed::Allocator = perennial_freed::Allocator;
//!
//! perennial_freed::watch(&[b"a-secret-of-this-test"]);
//! drop(String::from("a-secret-of-this-test"));
//! assert_eq!(perennial_freed::found().len(), 1);
//! ```
//!
//! Stacks are not searched, nor memory that was not allocated by Rust.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

/// The system's allocator, with a search of what is freed.
#[derive(Debug)]
pub struct Allocator;

/// A freed block that held a secret.
#[derive(Clone, Debug)]
pub struct Freed {
    /// Which of the secrets, counted from 0.
    pub secret: usize,
    /// The block's content when it was freed.
    pub block: Vec<u8>,
}

static WATCHED: AtomicPtr<Vec<Vec<u8>>> = AtomicPtr::new(std::ptr::null_mut());
static FOUND: Mutex<Vec<Freed>> = Mutex::new(Vec::new());

thread_local! {
    /// A finding is allocated, too, and must not be searched.
    static SEARCHES: Cell<bool> = const { Cell::new(false) };
}

/// From now on, searches for these secrets, of at least 8 bytes each, and forgets what was found.
pub fn watch(secrets: &[&[u8]]) {
    assert!(secrets.iter().all(|secret| secret.len() >= 8));
    // Never freed: another thread may be searching.
    let list = Box::leak(Box::new(
        secrets.iter().map(|secret| secret.to_vec()).collect(),
    ));
    WATCHED.store(list, Ordering::SeqCst);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    // Not freed either, since they hold secrets.
    Box::leak(Box::new(std::mem::take(&mut *found)));
}

/// The freed blocks that held a secret.
pub fn found() -> Vec<Freed> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

// SAFETY: every call is passed on to the system's allocator. `realloc` is the default one,
// which frees the former block through `dealloc`.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that what an earlier block left there does not count as this block's.
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is still allocated, was zeroed as a whole, and is only read.
        search(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

fn search(block: &[u8]) {
    let watched = WATCHED.load(Ordering::SeqCst);
    if watched.is_null() || block.len() < 8 {
        return;
    }
    // SAFETY: it is never freed, and not changed once it is stored.
    let watched = unsafe { &*watched };
    // An error: the thread is ending.
    let is_free = SEARCHES.try_with(|searches| !searches.replace(true));
    if is_free != Ok(true) {
        return;
    }
    for (secret, bytes) in watched.iter().enumerate() {
        if block.windows(bytes.len()).any(|window| window == bytes) {
            let block = block.to_vec();
            let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
            found.push(Freed { secret, block });
        }
    }
    let _ = SEARCHES.try_with(|searches| searches.set(false));
}
