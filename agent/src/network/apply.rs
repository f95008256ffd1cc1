//! Carries a plan out.

use std::io;

use super::links::{self, Link};
use super::plan::{Interface, Mac, Neighbor, Plan, Prefix, Route};
use super::routes;
use super::socket::Netlink;

/// Routes that the kernel made of addresses by itself.
const RTPROT_KERNEL: u8 = libc::RTPROT_KERNEL;
/// Routes of router advertisements, which a plan leaves out.
const METRIC_DEFAULT_V6: u32 = 1024;

/// Why the network is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The kernel gives no socket, or no list.
    #[error("asking the kernel for the network's state")]
    Query {
        /// Its answer.
        source: io::Error,
    },
    /// No link has the MAC address.
    #[error("interface {name}: the guest has no link with MAC address {mac}")]
    NoLink {
        /// The interface's name in the plan.
        name: String,
        /// Its MAC address.
        mac: Mac,
    },
    /// A route or neighbour names an interface that the plan does not have.
    #[error("{what} names interface {device}, which is not in the plan")]
    NoDevice {
        /// The route or neighbour.
        what: String,
        /// The unknown name.
        device: String,
    },
    /// The kernel refused a change of an interface.
    #[error("interface {name}: {step} refused")]
    Interface {
        /// Its name.
        name: String,
        /// What was tried.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a route.
    #[error("route {route} refused")]
    Route {
        /// The route.
        route: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a neighbour.
    #[error("neighbour {address} on {device} refused")]
    Neighbor {
        /// Its address.
        address: String,
        /// Its interface.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Takes the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // The loopback link is the first one of every network namespace.
    links::set_up(&mut Netlink::open()?, 1, true)
}

/// Makes the network what `plan` says.
pub(crate) fn apply(plan: &Plan) -> Result<(), NetworkError> {
    let mut netlink = Netlink::open().map_err(query)?;
    let found = find_links(&mut netlink, plan)?;
    make_room_for_names(&mut netlink, &found)?;
    for (interface, link) in &found {
        set_interface(&mut netlink, interface, link)?;
    }
    set_routes(&mut netlink, plan, &found)?;
    plan.neighbors.iter().try_for_each(|neighbor| set_neighbor(&mut netlink, neighbor, &found))
}

type Found<'a> = Vec<(&'a Interface, Link)>;

fn find_links<'a>(netlink: &mut Netlink, plan: &'a Plan) -> Result<Found<'a>, NetworkError> {
    let links = links::list(netlink).map_err(query)?;
    let find = |interface: &'a Interface| match links.iter().find(|link| link.mac == Some(interface.mac)) {
        Some(link) => Ok((interface, link.clone())),
        None => Err(NetworkError::NoLink { name: interface.name.clone(), mac: interface.mac }),
    };
    plan.interfaces.iter().map(find).collect()
}

/// Two links may want each other's names: those that must change get a name out of the way first.
fn make_room_for_names(netlink: &mut Netlink, found: &Found<'_>) -> Result<(), NetworkError> {
    for (interface, link) in found.iter().filter(|(interface, link)| link.name != interface.name) {
        step(interface, "taking it down", links::set_up(netlink, link.index, false))?;
        let aside = format!("coffer{}", link.index);
        step(interface, "renaming it", links::rename(netlink, link.index, &aside))?;
    }
    Ok(())
}

fn set_interface(netlink: &mut Netlink, interface: &Interface, link: &Link) -> Result<(), NetworkError> {
    let index = link.index;
    if link.name != interface.name {
        let what = format!("the name in place of {}", link.name);
        step(interface, &what, links::rename(netlink, index, &interface.name))?;
    }
    if interface.mtu > 0 {
        let what = format!("mtu {}", interface.mtu);
        step(interface, &what, links::set_mtu(netlink, index, interface.mtu))?;
    }
    links::no_autoconfiguration(&interface.name);
    for old in links::addresses(netlink, index).map_err(query)? {
        if !interface.addresses.contains(&old) && !is_link_local(&old) {
            step(interface, &format!("removing {old}"), links::remove_address(netlink, index, old))?;
        }
    }
    if !link.up || link.name != interface.name {
        step(interface, "taking it up", links::set_up(netlink, index, true))?;
    }
    for new in &interface.addresses {
        step(interface, &format!("address {new}"), links::add_address(netlink, index, *new))?;
    }
    Ok(())
}

/// The kernel makes an IPv6 link-local address by itself, and neighbour discovery needs it.
fn is_link_local(prefix: &Prefix) -> bool {
    matches!(prefix.address, std::net::IpAddr::V6(address) if address.is_unicast_link_local())
}

fn set_routes(netlink: &mut Netlink, plan: &Plan, found: &Found<'_>) -> Result<(), NetworkError> {
    for old in routes::list(netlink).map_err(query)? {
        let ours = found.iter().any(|(_, link)| link.index == old.link);
        if ours && old.protocol != RTPROT_KERNEL && !plan.routes.iter().any(|route| same_place(route, &old)) {
            let refused =
                |source| NetworkError::Route { route: format!("{} (removing it)", old.destination), source };
            routes::remove(netlink, &old).map_err(refused)?;
        }
    }
    // A gateway must be reachable before a route can go through it.
    let (direct, through): (Vec<&Route>, Vec<&Route>) =
        plan.routes.iter().partition(|route| route.gateway.is_none());
    for route in direct.into_iter().chain(through) {
        let link = index_of(found, &route.device, || format!("route {route}"))?;
        let refused = |source| NetworkError::Route { route: route.to_string(), source };
        routes::put(netlink, link, route).map_err(refused)?;
    }
    Ok(())
}

/// Whether putting `route` replaces `old`: the kernel tells routes apart by destination and metric.
fn same_place(route: &Route, old: &routes::Installed) -> bool {
    let metric = match route.metric {
        0 if route.destination.address.is_ipv6() => METRIC_DEFAULT_V6,
        metric => metric,
    };
    route.destination == old.destination && metric == old.metric
}

fn set_neighbor(netlink: &mut Netlink, neighbor: &Neighbor, found: &Found<'_>) -> Result<(), NetworkError> {
    let link = index_of(found, &neighbor.device, || format!("neighbour {}", neighbor.address))?;
    routes::put_neighbor(netlink, link, neighbor).map_err(|source| NetworkError::Neighbor {
        address: neighbor.address.to_string(),
        device: neighbor.device.clone(),
        source,
    })
}

fn index_of(found: &Found<'_>, device: &str, what: impl Fn() -> String) -> Result<u32, NetworkError> {
    let of_plan = found.iter().find(|(interface, _)| interface.name == device).map(|(_, link)| link.index);
    // The loopback interface is in no plan, and may carry routes all the same.
    let link = of_plan.or_else(|| (device == "lo").then_some(1));
    link.ok_or_else(|| NetworkError::NoDevice { what: what(), device: device.to_owned() })
}

fn step(interface: &Interface, step: &str, result: io::Result<()>) -> Result<(), NetworkError> {
    let refused =
        |source| NetworkError::Interface { name: interface.name.clone(), step: step.to_owned(), source };
    result.map_err(refused)
}

fn query(source: io::Error) -> NetworkError {
    NetworkError::Query { source }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::super::message::Request;
    use super::*;

    const FIRST: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SECOND: Mac = Mac([2, 0, 0, 0, 0, 2]);

    /// Runs `test` in a network namespace with two Ethernet links, `a` and `b`.
    fn with_two_links(test: fn(&mut Netlink)) {
        let run = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut netlink = Netlink::open().unwrap();
            loopback_up().unwrap();
            add_link(&mut netlink, "a", FIRST);
            add_link(&mut netlink, "b", SECOND);
            test(&mut netlink);
        });
        run.join().unwrap();
    }

    /// Adds one end of a virtual Ethernet pair; its other end keeps the name that the kernel gives it.
    fn add_link(netlink: &mut Netlink, name: &str, mac: Mac) {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        // One attribute, IFLA_INFO_KIND.
        let kind = [&[9, 0, 1, 0][..], b"veth\0\0\0\0"].concat();
        let request = Request::new(libc::RTM_NEWLINK, flags, &[0; 16])
            .string(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_ADDRESS, &mac.0)
            .attribute(libc::IFLA_LINKINFO, &kind);
        netlink.change(request).unwrap();
    }

    fn interface(name: &str, mac: Mac, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Interface { name: name.to_owned(), mac, mtu: 1400, addresses }
    }

    fn route(destination: &str, gateway: Option<&str>) -> Route {
        Route {
            device: "eth0".to_owned(),
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            source: None,
            scope: if gateway.is_none() { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE },
            onlink: false,
            metric: 0,
        }
    }

    fn plan() -> Plan {
        Plan {
            interfaces: vec![interface("eth0", FIRST, &["10.1.2.3/24", "fd00:1::3/64"])],
            routes: vec![
                // In this order only the sorting makes the first one possible.
                route("0.0.0.0/0", Some("169.254.1.1")),
                route("169.254.1.1/32", None),
                route("::/0", Some("fd00:1::1")),
            ],
            neighbors: vec![Neighbor {
                device: "eth0".to_owned(),
                address: "169.254.1.1".parse().unwrap(),
                mac: SECOND,
                state: libc::NUD_PERMANENT,
            }],
        }
    }

    fn link(netlink: &mut Netlink, mac: Mac) -> Link {
        links::list(netlink).unwrap().into_iter().find(|link| link.mac == Some(mac)).unwrap()
    }

    /// Addresses and routes of the first link, without what the kernel made.
    fn state(netlink: &mut Netlink) -> (Vec<Prefix>, Vec<Prefix>) {
        let index = link(netlink, FIRST).index;
        let mut addresses = links::addresses(netlink, index).unwrap();
        addresses.retain(|address| !is_link_local(address));
        let mut routes = routes::list(netlink).unwrap();
        routes.retain(|route| route.link == index && route.protocol != RTPROT_KERNEL);
        (addresses, routes.into_iter().map(|route| route.destination).collect())
    }

    #[test]
    fn a_link_gets_the_name_addresses_and_routes_of_its_plan() {
        with_two_links(|netlink| {
            apply(&plan()).unwrap();
            let link = link(netlink, FIRST);
            assert_eq!((link.name.as_str(), link.up), ("eth0", true));
            let (addresses, mut routes) = state(netlink);
            assert_eq!(addresses, ["10.1.2.3/24", "fd00:1::3/64"].map(|a| a.parse().unwrap()));
            routes.sort_by_key(Prefix::to_string);
            assert_eq!(routes, ["0.0.0.0/0", "169.254.1.1/32", "::/0"].map(|a| a.parse().unwrap()));
        });
    }

    #[test]
    fn a_plan_applied_twice_changes_nothing() {
        with_two_links(|netlink| {
            apply(&plan()).unwrap();
            let before = state(netlink);
            apply(&plan()).unwrap();
            assert_eq!(state(netlink), before);
        });
    }

    #[test]
    fn what_a_new_plan_lacks_is_removed() {
        with_two_links(|netlink| {
            apply(&plan()).unwrap();
            let smaller =
                Plan { interfaces: vec![interface("eth0", FIRST, &["10.1.2.9/24"])], ..Plan::default() };
            apply(&smaller).unwrap();
            assert_eq!(state(netlink), (vec!["10.1.2.9/24".parse().unwrap()], vec![]));
        });
    }

    #[test]
    fn two_links_can_exchange_their_names() {
        with_two_links(|netlink| {
            let crossed = Plan {
                interfaces: vec![interface("b", FIRST, &[]), interface("a", SECOND, &[])],
                ..Plan::default()
            };
            apply(&crossed).unwrap();
            assert_eq!(link(netlink, FIRST).name, "b");
            assert_eq!(link(netlink, SECOND).name, "a");
        });
    }

    #[test]
    fn a_gateway_off_the_link_works_when_it_is_declared_onlink() {
        with_two_links(|netlink| {
            let mut plan = plan();
            plan.routes = vec![Route { onlink: true, metric: 50, ..route("10.9.0.0/16", Some("192.0.2.1")) }];
            apply(&plan).unwrap();
            let routes = routes::list(netlink).unwrap();
            assert!(routes.iter().any(|r| r.destination == "10.9.0.0/16".parse().unwrap() && r.metric == 50));
        });
    }

    #[test]
    fn an_unreachable_gateway_is_refused_with_its_route() {
        with_two_links(|_| {
            let mut plan = plan();
            plan.routes = vec![route("10.9.0.0/16", Some("192.0.2.1"))];
            let error = apply(&plan).unwrap_err();
            assert_eq!(error.to_string(), "route 10.9.0.0/16 via 192.0.2.1 dev eth0 refused");
        });
    }

    #[test]
    fn an_interface_without_a_link_is_refused_by_name() {
        with_two_links(|_| {
            let plan = Plan { interfaces: vec![interface("net1", Mac([9; 6]), &[])], ..Plan::default() };
            let error = apply(&plan).unwrap_err();
            assert!(error.to_string().contains("net1") && error.to_string().contains("09:09"), "{error}");
        });
    }

    #[test]
    fn a_route_on_an_interface_outside_the_plan_is_refused() {
        with_two_links(|_| {
            let plan = Plan { routes: vec![route("10.0.0.0/8", None)], ..Plan::default() };
            assert!(matches!(apply(&plan), Err(NetworkError::NoDevice { .. })));
        });
    }
}
