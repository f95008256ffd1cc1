//! The order of the boot.

use super::{BootError, console, limits, modules, mounts, reset, root};
use crate::network;

/// Sets the guest up. Call once, as PID 1, before the runtime starts.
pub(crate) fn start() -> Result<(), BootError> {
    root::refuse_other_than_initramfs()?;
    console::install(console::level_from(std::env::var("COFFER_LOG").ok().as_deref()));
    reset::ignore_keyboard();
    modules::load_listed();
    root::enter()?;
    tracing::debug!("root");
    mounts::mount_all()?;
    tracing::debug!("mounts");
    limits::apply();
    tracing::debug!("limits");
    if let Err(error) = network::loopback_up() {
        tracing::error!(%error, "loopback stays down");
    }
    Ok(())
}
