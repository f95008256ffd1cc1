//! Ends the guest: by request, or because the agent cannot go on.
//!
//! The machine is reset, not powered off: without ACPI nothing would take a power-off, and the hypervisor is told
//! to end at the first reset.

use std::process;

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::unistd::getpid;

use super::console;

/// Makes a panic, in whichever task, print its reason and end the guest.
pub(crate) fn on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        console::last_words(&format!("coffer-agent: {panic}"));
        if getpid().as_raw() == 1 {
            reset();
        }
    }));
}

/// Ctrl-Alt-Del of a console must not reset the guest.
pub(crate) fn ignore_keyboard() {
    if let Err(errno) = set_cad_enabled(false) {
        tracing::warn!(%errno, "Ctrl-Alt-Del stays enabled");
    }
}

/// Prints why, then resets the machine.
pub(crate) fn give_up(reason: &str) -> ! {
    console::last_words(&format!("coffer-agent: {reason}"));
    reset()
}

/// Resets the machine; what is not on a disk yet is lost.
pub(crate) fn reset() -> ! {
    if getpid().as_raw() != 1 {
        process::exit(1);
    }
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
    console::last_words(&format!("coffer-agent: reboot refused: {errno}"));
    // When PID 1 exits the kernel panics, which resets the machine too (panic=-1).
    process::exit(1)
}
