//! Reads what CNI set up in a namespace: links, addresses, routes, neighbours. Netlink's types stop here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use coffer_protocol::agent::{Interface, Neighbor, NetworkConfig, Route};
use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

/// One link of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Index in its namespace.
    pub(super) index: u32,
    /// Name.
    pub(super) name: String,
    /// Hardware address.
    pub(super) mac: [u8; 6],
    /// Largest packet.
    pub(super) mtu: u32,
    /// Whether it is a tap.
    pub(super) is_tap: bool,
    is_up: bool,
}

/// All of a namespace that concerns a guest.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Ethernet links that a guest gets, and taps.
    pub(super) links: Vec<Link>,
    addresses: BTreeMap<u32, Vec<String>>,
    routes: Vec<(u32, Route)>,
    neighbors: Vec<(u32, Neighbor)>,
}

/// Reads the namespace that `handle`'s socket was opened in.
pub(super) async fn survey(handle: &Handle) -> Result<Survey, String> {
    let links: Vec<LinkMessage> = collected("list links", handle.link().get().execute().try_collect().await)?;
    let addresses: Vec<AddressMessage> =
        collected("list addresses", handle.address().get().execute().try_collect().await)?;
    let neighbors: Vec<NeighbourMessage> =
        collected("list neighbours", handle.neighbours().get().execute().try_collect().await)?;
    let v4 = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
    let v6 = handle.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build());
    let mut routes: Vec<RouteMessage> = collected("list routes", v4.execute().try_collect().await)?;
    routes.extend(collected::<Vec<_>>("list IPv6 routes", v6.execute().try_collect().await)?);

    let mut survey = Survey::default();
    for message in &addresses {
        if let Some(text) = address(message) {
            survey.addresses.entry(message.header.index).or_default().push(text);
        }
    }
    survey.links = links.into_iter().filter_map(link).collect();
    survey.routes = routes.iter().filter_map(route).collect();
    survey.neighbors = neighbors.iter().filter_map(neighbor).collect();
    Ok(survey)
}

impl Survey {
    /// Links that a guest gets: Ethernet, not a tap, and up or with an address. (Some kernels put idle tunnel devices
    /// into every namespace.)
    pub(super) fn pod_links(&self) -> impl Iterator<Item = &Link> {
        self.links
            .iter()
            .filter(|link| !link.is_tap && (link.is_up || self.addresses.contains_key(&link.index)))
    }

    /// What the agent sets up for these links.
    pub(super) fn config(&self) -> NetworkConfig {
        let names: BTreeMap<u32, &str> =
            self.pod_links().map(|link| (link.index, link.name.as_str())).collect();
        let name = |index: &u32| names.get(index).map(|name| (*name).to_owned());
        let mut config = NetworkConfig::new();
        config.interfaces = self.pod_links().map(|link| self.interface(link)).collect();
        let named = self
            .routes
            .iter()
            .filter_map(|(index, route)| name(index).map(|device| Route { device, ..route.clone() }));
        config.routes = named.collect();
        // A gateway must be reachable before a route names it.
        config.routes.sort_by_key(|route| !route.gateway.is_empty());
        let named = self.neighbors.iter().filter_map(|(index, neighbor)| {
            name(index).map(|device| Neighbor { device, ..neighbor.clone() })
        });
        config.neighbors = named.collect();
        config
    }

    fn interface(&self, link: &Link) -> Interface {
        Interface {
            name: link.name.clone(),
            mac: mac_text(&link.mac),
            mtu: link.mtu,
            addresses: self.addresses.get(&link.index).cloned().unwrap_or_default(),
            ..Interface::default()
        }
    }
}

/// Names what was tried in front of netlink's answer.
pub(super) fn name_error(action: &str, outcome: Result<(), Error>) -> Result<(), String> {
    outcome.map_err(|err| format!("{action}: {}", describe(&err)))
}

/// Whether netlink answered with this error number.
pub(super) fn is_errno(err: &Error, errno: i32) -> bool {
    matches!(err, Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn describe(err: &Error) -> String {
    match err {
        Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}

fn collected<T>(action: &str, outcome: Result<T, Error>) -> Result<T, String> {
    outcome.map_err(|err| format!("{action}: {}", describe(&err)))
}

fn link(message: LinkMessage) -> Option<Link> {
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    if !is_ethernet || message.header.flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 1500,
        is_tap: false,
        is_up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok()?,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => link.is_tap = infos.contains(&LinkInfo::Kind(InfoKind::Tun)),
            _ => {}
        }
    }
    Some(link)
}

/// `address/prefix`; not one that failed duplicate detection.
fn address(message: &AddressMessage) -> Option<String> {
    if message.header.flags.contains(AddressHeaderFlags::Dadfailed) {
        return None;
    }
    let mut found: Option<IpAddr> = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link this one is ours and `Address` is the peer's.
            AddressAttribute::Local(ip) => found = Some(*ip),
            AddressAttribute::Address(ip) => found = found.or(Some(*ip)),
            _ => {}
        }
    }
    found.map(|ip| format!("{ip}/{}", message.header.prefix_len))
}

/// Unicast routes of the main table. Those that the kernel makes for an address come with the address.
fn route(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let in_main = table.unwrap_or(u32::from(header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN);
    let wanted = in_main
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel
        && !header.flags.contains(RouteFlags::Cloned);
    if !wanted {
        return None;
    }
    let mut route = Route {
        scope: u32::from(u8::from(header.scope)),
        flags: (header.flags & RouteFlags::Onlink).bits(),
        ipv6: header.address_family == netlink_packet_route::AddressFamily::Inet6,
        ..Route::default()
    };
    let index = read_hop(&message.attributes, &mut route, header.destination_prefix_length)?;
    Some((index, route))
}

/// Fills in a route's attributes and returns its link. Of a route with several hops the first is taken: a guest's
/// interface is one cable.
fn read_hop(attributes: &[RouteAttribute], route: &mut Route, prefix: u8) -> Option<u32> {
    let mut index = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(to) if prefix > 0 => {
                route.destination = format!("{}/{prefix}", ip_text(to)?)
            }
            RouteAttribute::Gateway(via) => route.gateway = ip_text(via)?,
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.gateway = via.to_string(),
            RouteAttribute::PrefSource(from) => route.source = ip_text(from)?,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.first()?;
                read_hop(&hop.attributes, route, prefix);
                index = Some(hop.interface_index);
            }
            _ => {}
        }
    }
    index
}

/// Entries that somebody set for good; learned ones the guest learns itself.
fn neighbor(message: &NeighbourMessage) -> Option<(u32, Neighbor)> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut neighbor = Neighbor { state: u32::from(u16::from(message.header.state)), ..Neighbor::default() };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => neighbor.address = ip.to_string(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => neighbor.address = ip.to_string(),
            NeighbourAttribute::LinkLayerAddress(mac) => neighbor.mac = mac_text(mac),
            _ => {}
        }
    }
    let complete = !neighbor.address.is_empty() && !neighbor.mac.is_empty();
    complete.then_some((message.header.ifindex, neighbor))
}

fn ip_text(address: &RouteAddress) -> Option<String> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.to_string()),
        RouteAddress::Inet6(ip) => Some(ip.to_string()),
        _ => None,
    }
}

fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
