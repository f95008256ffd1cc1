//! The pod's network on this machine: real namespaces, links and packets. Runs as root, needs iproute2.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coffer_node::net::{attach, detach, original_dst, redirect_loopback, rescan};
use coffer_node::record::{Netns, NewPod, PodKey, PodRecord, Resource};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// A named network namespace, removed with this value.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("coffer-test-{}-{number}-{role}", std::process::id());
        run(&["netns", "add", &name]);
        Namespace(name)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    fn ip(&self, arguments: &[&str]) {
        run(&[&["-n", &self.0], arguments].concat());
    }

    fn show(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(["-n", &self.0]).args(arguments).output().expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).expect("opened");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("entered");
                work()
            });
            thread.join().expect("it ends")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["netns", "del", &self.0]);
    }
}

fn run(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip starts");
    assert!(status.success(), "ip {arguments:?}: {status}");
}

/// A pod's namespace and that of its neighbour, joined by a veth pair.
struct Net {
    pod: Namespace,
    peer: Namespace,
    record: PodRecord,
    _root: TempDir,
}

impl Net {
    fn new() -> Self {
        let (pod, peer) = (Namespace::new("pod"), Namespace::new("peer"));
        let root = tempfile::tempdir().expect("a directory");
        let key = PodKey::new("test", "p1").expect("a valid key");
        let new = NewPod { key, bundle: "/bundle".into(), shim_address: None, trace_id: String::new() };
        let record = PodRecord::create(root.path(), new).expect("created");
        let net = Net { pod, peer, record, _root: root };
        net.add_link("eth0", "10.99.0");
        net
    }

    /// Adds a veth whose pod end is `name` with address `subnet`.2, and whose peer end has `subnet`.1.
    fn add_link(&self, name: &str, subnet: &str) {
        let end =
            ["link", "add", name, "mtu", "1400", "type", "veth", "peer", "name", name, "netns", &self.peer.0];
        self.pod.ip(&end);
        self.pod.ip(&["addr", "add", &format!("{subnet}.2/24"), "dev", name]);
        self.pod.ip(&["link", "set", name, "up"]);
        self.peer.ip(&["addr", "add", &format!("{subnet}.1/24"), "dev", name]);
        self.peer.ip(&["link", "set", name, "up"]);
    }
}

/// Size of the virtio-net header that a tap with IFF_VNET_HDR puts before a frame.
const VNET_HEADER: usize = 10;

/// The next frame with this EtherType.
fn next_frame(tap: &mut File, ether_type: [u8; 2]) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).expect("fits"), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&*tap, PollFlags::IN)], Some(&timeout)).expect("polled");
        assert!(ready > 0, "no frame of type {ether_type:x?} came");
        let length = tap.read(&mut buffer).expect("read");
        let frame = &buffer[VNET_HEADER..length];
        if frame[12..14] == ether_type {
            return frame.to_vec();
        }
    }
}

#[test]
fn packets_pass_both_ways_between_the_veth_and_the_tap() {
    let net = Net::new();
    let mut network = attach(&net.pod.path(), &net.record, 0).expect("attached");
    let nic = network.nics.remove(0);
    let mut tap = File::from(nic.tap);
    let sender = net.peer.inside(|| UdpSocket::bind("10.99.0.1:0").expect("bound"));
    sender.send_to(b"into the guest", "10.99.0.2:7").expect("sent");

    // The neighbour asks for the pod's hardware address; only the guest, played here, answers.
    let question = next_frame(&mut tap, [0x08, 0x06]);
    assert_eq!(&question[38..42], [10, 99, 0, 2]);
    let peer_mac: [u8; 6] = question[6..12].try_into().expect("six bytes");
    let mut answer = vec![0; VNET_HEADER];
    answer.extend_from_slice(&peer_mac);
    answer.extend_from_slice(&nic.mac);
    answer.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer.extend_from_slice(&nic.mac);
    answer.extend_from_slice(&[10, 99, 0, 2]);
    answer.extend_from_slice(&peer_mac);
    answer.extend_from_slice(&[10, 99, 0, 1]);
    tap.write_all(&answer).expect("written");

    let packet = next_frame(&mut tap, [0x08, 0x00]);
    assert!(packet.ends_with(b"into the guest"), "{packet:x?}");
}

#[test]
fn what_comes_for_a_tap_of_several_queues_is_spread_over_them_and_none_is_lost() {
    const DATAGRAMS: usize = 64;
    let net = Net::new();
    let nic = attach(&net.pod.path(), &net.record, 2).expect("attached").nics.remove(0);
    let mac: Vec<String> = nic.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    net.peer.ip(&["neigh", "add", "10.99.0.2", "lladdr", &mac.join(":"), "dev", "eth0"]);
    for _ in 0..DATAGRAMS {
        // Each from a port of its own, which makes it a flow of its own.
        let sender = net.peer.inside(|| UdpSocket::bind("10.99.0.1:0").expect("bound"));
        sender.send_to(b"spread", "10.99.0.2:7").expect("sent");
    }
    let queues: Vec<File> = std::iter::once(nic.tap).chain(nic.more).map(File::from).collect();
    let mut counts = vec![0; queues.len()];
    while counts.iter().sum::<usize>() < DATAGRAMS {
        let mut watched: Vec<PollFd<'_>> =
            queues.iter().map(|queue| PollFd::new(queue, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert!(poll(&mut watched, Some(&limit)).expect("polled") > 0, "{counts:?} of {DATAGRAMS} came");
        let ready: Vec<bool> = watched.iter().map(|queue| !queue.revents().is_empty()).collect();
        for (number, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            let mut buffer = [0; 4096];
            let length = (&queues[number]).read(&mut buffer).expect("read");
            counts[number] += usize::from(buffer[..length].ends_with(b"spread"));
        }
    }
    assert!(counts.len() == 3 && counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");
}

#[test]
fn the_guest_is_told_what_cni_set_up() {
    let net = Net::new();
    net.pod.ip(&["addr", "add", "fd00:99::2/64", "dev", "eth0", "nodad"]);
    net.pod.ip(&["route", "add", "default", "via", "10.99.0.1"]);
    net.pod.ip(&["route", "add", "169.254.1.1", "dev", "eth0", "scope", "link"]);
    net.pod.ip(&["route", "add", "10.1.0.0/16", "via", "192.0.2.1", "dev", "eth0", "onlink", "metric", "7"]);
    net.pod.ip(&["-6", "route", "add", "default", "via", "fd00:99::1", "dev", "eth0"]);
    net.pod.ip(&[
        "neigh",
        "add",
        "10.99.0.1",
        "lladdr",
        "02:00:00:00:00:01",
        "dev",
        "eth0",
        "nud",
        "permanent",
    ]);

    let network = attach(&net.pod.path(), &net.record, 0).expect("attached");

    assert_eq!((network.nics.len(), network.nics[0].mtu), (1, 1400));
    let interface = &network.config.interfaces[0];
    assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1400));
    assert!(interface.addresses.contains(&"10.99.0.2/24".to_owned()), "{:?}", interface.addresses);
    assert!(interface.addresses.contains(&"fd00:99::2/64".to_owned()), "{:?}", interface.addresses);
    let hex: Vec<String> = network.nics[0].mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(interface.mac, hex.join(":"));
    let routes: Vec<String> = network
        .config
        .routes
        .iter()
        .map(|r| format!("{}|{}|{}|{}|{}", r.destination, r.gateway, r.scope, r.flags, r.metric))
        .collect();
    assert_eq!(
        routes,
        [
            "169.254.1.1/32||253|0|0",
            "|10.99.0.1|0|0|0",
            "10.1.0.0/16|192.0.2.1|0|4|7",
            "|fd00:99::1|0|0|1024",
        ]
    );
    let neighbor = &network.config.neighbors[0];
    assert_eq!((neighbor.address.as_str(), neighbor.mac.as_str()), ("10.99.0.1", "02:00:00:00:00:01"));
}

#[test]
fn an_interface_that_comes_later_gets_its_tap() {
    let net = Net::new();
    let first = attach(&net.pod.path(), &net.record, 0).expect("attached");
    net.add_link("net1", "10.98.0");
    let second = rescan(&net.pod.path(), &net.record, 0).expect("rescanned");
    let names: Vec<&str> = second.config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!((first.nics.len(), second.nics.len(), names), (1, 1, vec!["eth0", "net1"]));
}

#[test]
fn detaching_removes_taps_and_redirections_and_leaves_the_interface() {
    let net = Net::new();
    let network = attach(&net.pod.path(), &net.record, 0).expect("attached");
    detach(&net.record).expect("detached");
    let links = net.pod.show("ip", &["-o", "link"]);
    assert!(links.contains("eth0") && !links.contains(": cof"), "{links}");
    assert!(!net.pod.show("tc", &["qdisc"]).contains("ingress"));
    assert_eq!(net.record.snapshot().resources, Vec::new());
    drop(network);
}

#[test]
fn detaching_twice_and_after_the_namespace_is_gone_is_fine() {
    let net = Net::new();
    drop(attach(&net.pod.path(), &net.record, 0).expect("attached"));
    detach(&net.record).expect("detached");
    net.record.add(some_tap(&net.pod)).expect("added");
    detach(&net.record).expect("detached again");
    net.record.add(some_tap(&net.pod)).expect("added");
    let Net { pod, peer, record, _root } = net;
    drop((pod, peer));
    detach(&record).expect("nothing there");
}

fn some_tap(namespace: &Namespace) -> Resource {
    let netns = Netns::at(&namespace.path()).expect("there");
    Resource::Tap { netns, tap: "cof2".to_owned(), link: "eth0".to_owned() }
}

#[test]
fn a_namespace_whose_pod_was_killed_takes_a_new_pod() {
    let net = Net::new();
    // Its machine has not ended yet, so its tap is still there.
    let _dying = attach(&net.pod.path(), &net.record, 0).expect("attached");
    net.record.update(|record| record.resources.clear()).expect("another pod's record");
    let network = attach(&net.pod.path(), &net.record, 0).expect("attached again");
    assert_eq!(network.nics.len(), 1);
    let filters = net.pod.show("tc", &["filter", "show", "dev", "eth0", "ingress"]);
    assert_eq!(filters.matches("mirred").count(), 1, "{filters}");
}

#[test]
fn an_empty_namespace_gives_no_interface() {
    let namespace = Namespace::new("empty");
    let root = tempfile::tempdir().expect("a directory");
    let key = PodKey::new("test", "p1").expect("a valid key");
    let new = NewPod { key, bundle: "/bundle".into(), shim_address: None, trace_id: String::new() };
    let record = PodRecord::create(root.path(), new).expect("created");
    let network = attach(&namespace.path(), &record, 0).expect("attached");
    assert_eq!((network.nics.len(), network.config.interfaces.len()), (0, 0));
}

#[test]
fn a_missing_namespace_is_reported_by_its_path() {
    let net = Net::new();
    let error = attach(Path::new("/run/netns/nonexistent"), &net.record, 0).expect_err("missing").to_string();
    assert!(error.contains("/run/netns/nonexistent"), "{error}");
}

#[test]
fn a_connection_to_the_pods_loopback_reaches_our_listener_with_its_port() {
    let net = Net::new();
    let redirect = redirect_loopback(&net.pod.path(), &net.record).expect("redirected");
    assert_eq!(redirect.listeners.len(), 2);
    let (v4, v6) = net.pod.inside(|| {
        let v4 = TcpStream::connect("127.0.0.1:8080").expect("connected");
        (v4, TcpStream::connect("[::1]:9090").expect("connected"))
    });
    let (served_v4, _) = redirect.listeners[0].accept().expect("accepted");
    let (served_v6, _) = redirect.listeners[1].accept().expect("accepted");
    assert_eq!(
        original_dst(&served_v4).expect("known"),
        "127.0.0.1:8080".parse::<SocketAddr>().expect("valid")
    );
    assert_eq!(original_dst(&served_v6).expect("known"), "[::1]:9090".parse::<SocketAddr>().expect("valid"));
    (&v4).write_all(b"ping").expect("written");
    let mut bytes = [0; 4];
    (&served_v4).read_exact(&mut bytes).expect("read");
    assert_eq!(&bytes, b"ping");
    drop(v6);
}

#[test]
fn a_table_that_an_earlier_pod_left_is_replaced() {
    let net = Net::new();
    drop(redirect_loopback(&net.pod.path(), &net.record).expect("redirected"));
    let redirect = redirect_loopback(&net.pod.path(), &net.record).expect("redirected again");
    let _client = net.pod.inside(|| TcpStream::connect("127.0.0.1:8080").expect("connected"));
    assert!(redirect.listeners[0].accept().is_ok());
}

#[test]
fn after_detaching_nobody_answers_on_the_loopback() {
    let net = Net::new();
    let redirect = redirect_loopback(&net.pod.path(), &net.record).expect("redirected");
    detach(&net.record).expect("detached");
    let refused = net.pod.inside(|| TcpStream::connect("127.0.0.1:8080")).expect_err("refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(redirect);
}

#[test]
fn connections_that_are_not_to_the_loopback_are_left_alone() {
    let net = Net::new();
    let _redirect = redirect_loopback(&net.pod.path(), &net.record).expect("redirected");
    let server = net.peer.inside(|| std::net::TcpListener::bind("10.99.0.1:8080").expect("bound"));
    let client = net.pod.inside(|| TcpStream::connect("10.99.0.1:8080").expect("connected"));
    assert_eq!(server.accept().expect("accepted").1, client.local_addr().expect("known"));
}
