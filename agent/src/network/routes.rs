//! Routes of the main table, and static neighbours.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::links::family;
use super::message::{Message, Request, address, attributes, number};
use super::plan::{Neighbor, Prefix, Route};
use super::socket::Netlink;

/// `sizeof(struct rtmsg)`
const ROUTE_HEADER: usize = 12;
/// linux/rtnetlink.h
const RTNH_F_ONLINK: u32 = 4;

const CHANGE: i32 = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
const PUT: i32 = CHANGE | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
const DUMP: i32 = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;

/// A route that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) link: u32,
    pub(super) destination: Prefix,
    pub(super) metric: u32,
    pub(super) protocol: u8,
}

/// Lists the unicast routes of the main table.
pub(super) fn list(netlink: &mut Netlink) -> io::Result<Vec<Installed>> {
    let mut routes = Vec::new();
    let request = Request::new(libc::RTM_GETROUTE, DUMP, &[0; ROUTE_HEADER]);
    netlink.dump(request, |message| routes.extend(parse(message)))?;
    Ok(routes)
}

/// Adds a route, or replaces the one with its destination and metric.
pub(super) fn put(netlink: &mut Netlink, link: u32, route: &Route) -> io::Result<()> {
    let flags = if route.onlink { RTNH_F_ONLINK } else { 0 };
    let header = header(route.destination, route.scope, flags);
    let mut request = Request::new(libc::RTM_NEWROUTE, PUT, &header).number(libc::RTA_OIF, link);
    if route.destination.length > 0 {
        request = request.address(libc::RTA_DST, route.destination.address);
    }
    if let Some(gateway) = route.gateway {
        request = match (route.destination.address, gateway) {
            (IpAddr::V4(_), IpAddr::V6(gateway)) => request.attribute(libc::RTA_VIA, &via(gateway)),
            _ => request.address(libc::RTA_GATEWAY, gateway),
        };
    }
    if let Some(source) = route.source {
        request = request.address(libc::RTA_PREFSRC, source);
    }
    if route.metric > 0 {
        request = request.number(libc::RTA_PRIORITY, route.metric);
    }
    netlink.change(request)
}

/// Removes a route.
pub(super) fn remove(netlink: &mut Netlink, route: &Installed) -> io::Result<()> {
    let header = header(route.destination, libc::RT_SCOPE_NOWHERE, 0);
    let mut request = Request::new(libc::RTM_DELROUTE, CHANGE, &header).number(libc::RTA_OIF, route.link);
    if route.destination.length > 0 {
        request = request.address(libc::RTA_DST, route.destination.address);
    }
    if route.metric > 0 {
        request = request.number(libc::RTA_PRIORITY, route.metric);
    }
    netlink.change(request)
}

/// Adds or replaces a neighbour.
pub(super) fn put_neighbor(netlink: &mut Netlink, link: u32, neighbor: &Neighbor) -> io::Result<()> {
    let [a, b, c, d] = link.to_ne_bytes();
    let [e, g] = neighbor.state.to_ne_bytes();
    let header = [family(neighbor.address), 0, 0, 0, a, b, c, d, e, g, 0, 0];
    let request = Request::new(libc::RTM_NEWNEIGH, PUT, &header)
        .address(libc::NDA_DST, neighbor.address)
        .attribute(libc::NDA_LLADDR, &neighbor.mac.0);
    netlink.change(request)
}

fn header(destination: Prefix, scope: u8, flags: u32) -> [u8; ROUTE_HEADER] {
    let [a, b, c, d] = flags.to_ne_bytes();
    let family = family(destination.address);
    let table = libc::RT_TABLE_MAIN;
    [family, destination.length, 0, 0, table, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST, a, b, c, d]
}

/// `struct rtvia`: a gateway of the other family.
fn via(gateway: Ipv6Addr) -> Vec<u8> {
    let mut value = u16::from(family(gateway.into())).to_ne_bytes().to_vec();
    value.extend_from_slice(&gateway.octets());
    value
}

fn parse(message: Message<'_>) -> Option<Installed> {
    let body = message.body;
    let (kind, table) = (*body.get(7)?, *body.get(4)?);
    if message.kind != libc::RTM_NEWROUTE || kind != libc::RTN_UNICAST || table != libc::RT_TABLE_MAIN {
        return None;
    }
    let any: IpAddr =
        if *body.first()? == 2 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut route = Installed {
        link: 0,
        destination: Prefix { address: any, length: *body.get(1)? },
        metric: 0,
        protocol: *body.get(5)?,
    };
    for (kind, value) in attributes(body.get(ROUTE_HEADER..)?) {
        match kind {
            libc::RTA_DST => route.destination.address = address(value)?,
            libc::RTA_OIF => route.link = number(value, 0)?,
            libc::RTA_PRIORITY => route.metric = number(value, 0)?,
            _ => {}
        }
    }
    Some(route)
}
