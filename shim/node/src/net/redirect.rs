//! Port-forwarding: whatever containerd dials on the namespace's loopback reaches one listener of the shim.
//!
//! containerd enters the pod's namespace and connects to `localhost:PORT`, where in a VM runtime nobody listens. The
//! kernel redirects every such connection to our listener, which asks for the port that was meant and opens a
//! stream to it in the guest. So also servers that listen only on the pod's loopback are reached.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;

use rtnetlink::LinkUnspec;
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};

use super::NetError;
use super::link::name_error;
use super::namespace::{inside, netlink};
use super::nft::{self, Family};
use crate::record::{Netns, PodRecord, Resource};

/// Name of the table in the pod's namespace.
const TABLE: &str = "coffer";

/// How often a port that is free for IPv4 may be taken for IPv6.
const PORT_TRIES: usize = 16;

/// Listeners, one per address family that the namespace has. Each keeps the namespace alive: drop them when the pod
/// stops, before its network is torn down.
#[derive(Debug)]
pub struct Redirect {
    /// 127.0.0.1, and ::1 where there is one; in non-blocking mode.
    pub listeners: Vec<TcpListener>,
}

/// Redirects every TCP connection to the namespace's loopback to the returned listeners.
pub fn redirect_loopback(netns: &Path, record: &PodRecord) -> Result<Redirect, NetError> {
    let here = Netns::at(netns).map_err(|source| NetError::Namespace { path: netns.to_owned(), source })?;
    record.add(Resource::NftTable { netns: here, table: TABLE.to_owned() }).map_err(NetError::Record)?;
    let refused = |action: &str, reason: String| NetError::Netlink {
        action: action.to_owned(),
        path: netns.to_owned(),
        reason,
    };
    inside(netns, || {
        set_loopback_up().map_err(|reason| refused("set lo up", reason))?;
        let (port, listeners) =
            listen().map_err(|source| NetError::Listen { path: netns.to_owned(), source })?;
        let families: &[Family] = if listeners.len() > 1 { &[Family::V4, Family::V6] } else { &[Family::V4] };
        nft::create_table(TABLE, port, families).map_err(|err| {
            refused("redirect the loopback (nf_tables with nat is needed)", err.to_string())
        })?;
        Ok(Redirect { listeners })
    })
}

/// The address that a redirected connection was made to; its port is the one to forward to.
pub fn original_dst(stream: &impl AsFd) -> io::Result<SocketAddr> {
    match ip_original_dst(stream.as_fd()) {
        Ok(address) => Ok(SocketAddr::V4(address)),
        Err(_) => Ok(SocketAddr::V6(ipv6_original_dst(stream.as_fd())?)),
    }
}

fn set_loopback_up() -> Result<(), String> {
    netlink(async |handle| {
        let up = LinkUnspec::new_with_index(1).up().build();
        name_error("set", handle.link().set(up).execute().await)
    })
    .map_err(|err| err.to_string())?
}

/// Listens on one port of both families, or of IPv4 alone where there is no ::1.
fn listen() -> io::Result<(u16, Vec<TcpListener>)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES {
        let v4 = listener(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)?;
        let port = v4.local_addr()?.port();
        match listener(IpAddr::V6(Ipv6Addr::LOCALHOST), port) {
            Ok(v6) => return Ok((port, vec![v4, v6])),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => last = err,
            Err(_) => return Ok((port, vec![v4])),
        }
    }
    Err(last)
}

fn listener(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((ip, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
