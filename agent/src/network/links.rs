//! Links and their addresses.

use std::fs;
use std::io;

use super::message::{Message, Request, address, attributes, number};
use super::plan::{Mac, Prefix};
use super::socket::Netlink;

/// `sizeof(struct ifinfomsg)`
const LINK_HEADER: usize = 16;
/// `sizeof(struct ifaddrmsg)`
const ADDRESS_HEADER: usize = 8;

const CHANGE: i32 = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
const PUT: i32 = CHANGE | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
const DUMP: i32 = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;

/// A link that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    pub(super) up: bool,
}

/// Lists the links.
pub(super) fn list(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    let request = Request::new(libc::RTM_GETLINK, DUMP, &link_header(0, 0, 0));
    netlink.dump(request, |message| links.extend(parse_link(message)))?;
    Ok(links)
}

/// Takes a link up or down.
pub(super) fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> io::Result<()> {
    let flag = libc::IFF_UP.cast_unsigned();
    let header = link_header(index, if up { flag } else { 0 }, flag);
    netlink.change(Request::new(libc::RTM_SETLINK, CHANGE, &header))
}

/// Renames a link, which must be down.
pub(super) fn rename(netlink: &mut Netlink, index: u32, name: &str) -> io::Result<()> {
    let request = Request::new(libc::RTM_SETLINK, CHANGE, &link_header(index, 0, 0));
    netlink.change(request.string(libc::IFLA_IFNAME, name))
}

/// Sets a link's MTU.
pub(super) fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u32) -> io::Result<()> {
    let request = Request::new(libc::RTM_SETLINK, CHANGE, &link_header(index, 0, 0));
    netlink.change(request.number(libc::IFLA_MTU, mtu))
}

/// Keeps the kernel from asking the link for addresses and from doubting those it is given.
pub(super) fn no_autoconfiguration(name: &str) {
    for key in ["accept_ra", "autoconf", "accept_dad"] {
        // A kernel without IPv6 has none of these.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), "0");
    }
}

/// Lists a link's addresses.
pub(super) fn addresses(netlink: &mut Netlink, index: u32) -> io::Result<Vec<Prefix>> {
    let mut found = Vec::new();
    let request = Request::new(libc::RTM_GETADDR, DUMP, &[0; ADDRESS_HEADER]);
    netlink.dump(request, |message| {
        if number(message.body, 4) == Some(index) {
            found.extend(parse_address(message));
        }
    })?;
    Ok(found)
}

/// Adds an address, or does nothing when the link has it.
pub(super) fn add_address(netlink: &mut Netlink, index: u32, prefix: Prefix) -> io::Result<()> {
    let mut request = Request::new(libc::RTM_NEWADDR, PUT, &address_header(index, prefix));
    request = request.address(libc::IFA_LOCAL, prefix.address).address(libc::IFA_ADDRESS, prefix.address);
    if let Some(broadcast) = broadcast(prefix) {
        request = request.address(libc::IFA_BROADCAST, broadcast);
    }
    if prefix.address.is_ipv6() {
        request = request.number(libc::IFA_FLAGS, libc::IFA_F_NODAD);
    }
    netlink.change(request)
}

/// Removes an address.
pub(super) fn remove_address(netlink: &mut Netlink, index: u32, prefix: Prefix) -> io::Result<()> {
    let request = Request::new(libc::RTM_DELADDR, CHANGE, &address_header(index, prefix));
    netlink.change(request.address(libc::IFA_LOCAL, prefix.address))
}

fn parse_link(message: Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let index = number(message.body, 4)?;
    let up = number(message.body, 8)? & libc::IFF_UP.cast_unsigned() != 0;
    let mut link = Link { index, name: String::new(), mac: None, up };
    for (kind, value) in attributes(message.body.get(LINK_HEADER..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned();
            }
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(message: Message<'_>) -> Option<Prefix> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let length = *message.body.get(1)?;
    let mut own = None;
    for (kind, value) in attributes(message.body.get(ADDRESS_HEADER..)?) {
        match kind {
            libc::IFA_LOCAL => own = address(value),
            // IPv6 has no IFA_LOCAL.
            libc::IFA_ADDRESS if own.is_none() => own = address(value),
            _ => {}
        }
    }
    Some(Prefix { address: own?, length })
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    let (_, numbers) = header.split_at_mut(4);
    for (target, source) in numbers.chunks_mut(4).zip([index, flags, change]) {
        target.copy_from_slice(&source.to_ne_bytes());
    }
    header
}

fn address_header(index: u32, prefix: Prefix) -> [u8; ADDRESS_HEADER] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family(prefix.address), prefix.length, 0, 0, a, b, c, d]
}

/// `AF_INET` or `AF_INET6`, as a netlink header has it.
pub(super) fn family(address: std::net::IpAddr) -> u8 {
    // AF_INET is 2 and AF_INET6 is 10 on every Linux.
    if address.is_ipv4() { 2 } else { 10 }
}

fn broadcast(prefix: Prefix) -> Option<std::net::IpAddr> {
    let std::net::IpAddr::V4(address) = prefix.address else { return None };
    // A network of one or two addresses has no broadcast address (RFC 3021).
    if prefix.length >= 31 {
        return None;
    }
    let hosts = u32::MAX.checked_shr(u32::from(prefix.length)).unwrap_or(0);
    Some(std::net::Ipv4Addr::from(u32::from(address) | hosts).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broadcast_address_has_all_host_bits_set() {
        let prefix: Prefix = "10.88.3.7/16".parse().unwrap();
        assert_eq!(broadcast(prefix), Some("10.88.255.255".parse().unwrap()));
    }

    #[test]
    fn a_single_address_has_no_broadcast() {
        assert_eq!(broadcast("10.0.0.1/32".parse().unwrap()), None);
        assert_eq!(broadcast("fd00::1/64".parse().unwrap()), None);
    }
}
