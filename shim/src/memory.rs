#![allow(unsafe_code)] // mallopt has no safe wrapper.
//! Keeps the shim small: one per pod stays in memory for the pod's whole life.
//!
//! glibc makes an allocation arena per thread, each of which keeps what it once had. The shim has one busy thread, so
//! one arena serves, and freed memory at its top goes back to the kernel early.

/// Bytes of free memory at the top of the heap above which it is returned.
const TRIM_THRESHOLD: libc::c_int = 64 * 1024;

/// Sets the allocator up; call it before any thread is started.
pub(crate) fn save() {
    // SAFETY: mallopt takes two integers and may be called at any time; no thread runs yet, so no arena but the
    // first exists.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD) };
}
