//! From the wire's messages to the agent's own types.

use std::net::IpAddr;
use std::str::FromStr;

use coffer_protocol::agent::{
    self, AdmitImageRequest, CreateContainerRequest, CreateSandboxRequest, ExecProcessRequest, NetworkConfig,
    ProcessRef, Streams,
};

use crate::attest::{HostKey, Launched};
use crate::container::{StdioRequest, WindowSize};
use crate::gate::{Claim, NodePolicy, SignatureObject};
use crate::image::LayerSource;
use crate::network::{Interface, Mac, Neighbor, Plan, Prefix, Route};
use crate::pod::{NewContainer, NewProcess, PodError, ProcessId};
use crate::sandbox::{Settings, Space};

/// The highest signal number of Linux on x86.
const MAX_SIGNAL: i32 = 64;
/// `IFNAMSIZ` without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;
/// `RTNH_F_ONLINK` of linux/rtnetlink.h.
const ONLINK: u32 = 4;
const EROFS: &str = "erofs";
/// File systems of disks; anything else the kernel could mount is no layer.
const LAYER_TYPES: [&str; 3] = [EROFS, "squashfs", "ext4"];
/// What a terminal has that nobody has told its size.
const NO_SIZE: (u16, u16) = (0, 0);

type Parsed<T> = Result<T, PodError>;

/// CreateSandbox.
pub(super) fn settings(request: CreateSandboxRequest) -> Parsed<Settings> {
    let scratch = request.scratch.unwrap_or_default();
    let scratch = match scratch.serial.as_str() {
        "" if scratch.encrypted => {
            return Err(field("scratch.serial", "", "a disk's, for an encrypted scratch"));
        }
        "" => Space::Memory(scratch.tmpfs_bytes),
        serial if scratch.encrypted => Space::Encrypted(serial.to_owned()),
        serial => Space::Disk(serial.to_owned()),
    };
    let launched = request.attestation.into_option();
    let launched = launched.map(launched_as).transpose()?;
    if let (Some(_), Space::Disk(serial)) = (&launched, &scratch) {
        // It could be read and changed there, beneath everything that is checked.
        let expected = "nothing, or to be encrypted, where there is a secure processor";
        return Err(field("scratch.serial", serial, expected));
    }
    let image_policy = request.image_policy.into_option().map(node_policy);
    if launched.is_some() && image_policy.is_some() {
        let expected = "nothing where there is a secure processor: the initdata has the policy";
        return Err(field("image_policy", "the node's", expected));
    }
    Ok(Settings {
        launched,
        image_policy,
        hostname: request.hostname,
        network: network(request.network.unwrap_or_default())?,
        sysctls: request.sysctls.into_iter().collect(),
        shm_bytes: request.shm_bytes,
        scratch,
    })
}

fn launched_as(told: agent::Attestation) -> Parsed<Launched> {
    // Its value is for nobody to see.
    let host_key = HostKey::read(&told.host_key)
        .ok_or_else(|| field("attestation.host_key", "of another length", "32 bytes"))?;
    Ok(Launched { tee: told.tee, initdata: told.initdata, host_key })
}

fn node_policy(policy: agent::ImagePolicy) -> NodePolicy {
    NodePolicy { document: policy.document, dry_run: policy.dry_run }
}

/// AdmitImage: the container's id, and what is said of its image.
pub(super) fn claim(request: AdmitImageRequest) -> (String, Claim) {
    let image = request.image.unwrap_or_default();
    let object =
        |object: agent::SignatureObject| SignatureObject { manifest: object.manifest, blobs: object.blobs };
    let claim = Claim {
        reference: image.reference,
        manifest: image.manifest,
        index: image.index,
        configuration: image.config,
        signatures: image.signatures.into_iter().map(object).collect(),
    };
    (request.container_id, claim)
}

/// ConfigureNetwork.
pub(super) fn network(config: NetworkConfig) -> Parsed<Plan> {
    Ok(Plan {
        interfaces: config.interfaces.into_iter().map(interface).collect::<Parsed<_>>()?,
        routes: config.routes.into_iter().map(route).collect::<Parsed<_>>()?,
        neighbors: config.neighbors.into_iter().map(neighbor).collect::<Parsed<_>>()?,
    })
}

fn interface(message: agent::Interface) -> Parsed<Interface> {
    let prefix =
        |text: &String| parse("network.interfaces.addresses", text, "an address with its prefix length");
    Ok(Interface {
        name: interface_name(message.name)?,
        mac: parse::<Mac>("network.interfaces.mac", &message.mac, "aa:bb:cc:dd:ee:ff")?,
        mtu: message.mtu,
        addresses: message.addresses.iter().map(prefix).collect::<Parsed<_>>()?,
    })
}

/// The name becomes a part of paths below /proc/sys.
fn interface_name(name: String) -> Parsed<String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if (1..=MAX_INTERFACE_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(PodError::Field {
        field: "network.interfaces.name",
        value: name,
        expected: "1 to 15 visible characters",
    })
}

fn route(message: agent::Route) -> Parsed<Route> {
    let any = if message.ipv6 { "::/0" } else { "0.0.0.0/0" };
    let destination = if message.destination.is_empty() { any } else { &message.destination };
    let expected = "an address with its prefix length";
    Ok(Route {
        destination: parse::<Prefix>("network.routes.destination", destination, expected)?,
        gateway: address("network.routes.gateway", &message.gateway)?,
        source: address("network.routes.source", &message.source)?,
        scope: u8::try_from(message.scope)
            .map_err(|_| field("network.routes.scope", &message.scope.to_string(), "0 to 255"))?,
        onlink: message.flags & ONLINK != 0,
        metric: message.metric,
        device: message.device,
    })
}

fn neighbor(message: agent::Neighbor) -> Parsed<Neighbor> {
    let state = match message.state {
        0 => libc::NUD_PERMANENT,
        state => u16::try_from(state).map_err(|_| {
            field("network.neighbors.state", &state.to_string(), "NUD_* of linux/neighbour.h")
        })?,
    };
    Ok(Neighbor {
        address: parse("network.neighbors.address", &message.address, "an address")?,
        mac: parse("network.neighbors.mac", &message.mac, "aa:bb:cc:dd:ee:ff")?,
        state,
        device: message.device,
    })
}

/// CreateContainer.
pub(super) fn container(request: CreateContainerRequest) -> Parsed<NewContainer> {
    Ok(NewContainer {
        id: request.container_id,
        spec: request.spec,
        layers: request.layers.into_iter().map(layer).collect::<Parsed<_>>()?,
        stdio: stdio(request.streams.unwrap_or_default())?,
    })
}

fn layer(layer: agent::LayerDisk) -> Parsed<LayerSource> {
    let fs_type = if layer.fs_type.is_empty() { EROFS.to_owned() } else { layer.fs_type };
    if LAYER_TYPES.contains(&fs_type.as_str()) {
        return Ok(LayerSource { serial: layer.serial, fs_type });
    }
    Err(PodError::Field { field: "layers.fs_type", value: fs_type, expected: "erofs, squashfs or ext4" })
}

/// ExecProcess.
pub(super) fn exec(request: ExecProcessRequest) -> Parsed<NewProcess> {
    Ok(NewProcess {
        id: id(request.container_id, request.exec_id),
        process: request.process,
        stdio: stdio(request.streams.unwrap_or_default())?,
    })
}

fn stdio(streams: Streams) -> Parsed<StdioRequest> {
    let terminal = streams.terminal.then(|| size(streams.width, streams.height)).transpose()?;
    Ok(StdioRequest { stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr, terminal })
}

/// A process's name.
pub(super) fn process(reference: ProcessRef) -> ProcessId {
    id(reference.container_id, reference.exec_id)
}

/// A process's name.
pub(super) fn id(container: String, exec: String) -> ProcessId {
    ProcessId { container, exec }
}

/// A signal's number.
pub(super) fn signal(number: u32) -> Parsed<i32> {
    let signal = i32::try_from(number).ok().filter(|signal| (1..=MAX_SIGNAL).contains(signal));
    signal.ok_or_else(|| field("signal", &number.to_string(), "1 to 64"))
}

/// A terminal's size.
pub(super) fn size(width: u32, height: u32) -> Parsed<WindowSize> {
    let fits = |value: u32| u16::try_from(value).ok();
    let (columns, rows) = match (width, height) {
        (0, 0) => NO_SIZE,
        _ => fits(width)
            .zip(fits(height))
            .ok_or_else(|| field("width and height", &format!("{width}x{height}"), "at most 65535 each"))?,
    };
    Ok(WindowSize { columns, rows })
}

fn address(name: &'static str, text: &str) -> Parsed<Option<IpAddr>> {
    if text.is_empty() { Ok(None) } else { parse(name, text, "an address").map(Some) }
}

fn parse<T: FromStr>(name: &'static str, text: &str, expected: &'static str) -> Parsed<T> {
    text.parse().map_err(|_| field(name, text, expected))
}

fn field(field: &'static str, value: &str, expected: &'static str) -> PodError {
    PodError::Field { field, value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_protocol::HOST_KEY_BYTES;

    #[test]
    fn a_disk_of_the_node_is_no_scratch_beside_a_secure_processor() {
        let attestation = agent::Attestation { host_key: vec![7; HOST_KEY_BYTES], ..Default::default() };
        let asked = |serial: &str, encrypted: bool, attestation: Option<agent::Attestation>| {
            let scratch = agent::Scratch { serial: serial.to_owned(), encrypted, ..Default::default() };
            settings(CreateSandboxRequest {
                scratch: Some(scratch).into(),
                attestation: attestation.into(),
                ..Default::default()
            })
        };
        let space = |asked: Parsed<Settings>| asked.unwrap().scratch;
        assert_eq!(space(asked("s", false, None)), Space::Disk("s".to_owned()));
        assert_eq!(space(asked("s", true, None)), Space::Encrypted("s".to_owned()));
        assert_eq!(space(asked("s", true, Some(attestation.clone()))), Space::Encrypted("s".to_owned()));
        assert_eq!(space(asked("", false, Some(attestation.clone()))), Space::Memory(0));
        let refused = asked("s", false, Some(attestation)).unwrap_err().to_string();
        assert!(refused.contains("to be encrypted"), "{refused}");
    }

    #[test]
    fn an_empty_destination_is_the_default_route_of_its_family() {
        let v4 = route(agent::Route { device: "eth0".to_owned(), ..Default::default() }).unwrap();
        let v6 = route(agent::Route { ipv6: true, ..Default::default() }).unwrap();
        assert_eq!(
            (v4.destination.to_string(), v6.destination.to_string()),
            ("0.0.0.0/0".into(), "::/0".into())
        );
    }

    #[test]
    fn an_interface_named_like_a_path_is_refused() {
        assert!(interface_name("../../x".to_owned()).is_err());
        assert!(interface_name("a/b".to_owned()).is_err());
        assert!(interface_name("eth0.100".to_owned()).is_ok());
    }

    #[test]
    fn a_layer_is_erofs_unless_it_says_otherwise() {
        assert_eq!(layer(agent::LayerDisk::new()).unwrap().fs_type, "erofs");
    }

    #[test]
    fn a_layer_that_is_no_disk_is_refused() {
        let proc = agent::LayerDisk { fs_type: "proc".to_owned(), ..Default::default() };
        assert!(layer(proc).is_err());
    }

    #[test]
    fn a_node_has_no_say_where_there_is_a_secure_processor() {
        let told = agent::Attestation { host_key: vec![0; 32], ..Default::default() };
        let request = CreateSandboxRequest {
            attestation: Some(told).into(),
            image_policy: Some(agent::ImagePolicy::new()).into(),
            ..Default::default()
        };
        let error = settings(request).unwrap_err();
        assert!(error.to_string().contains("image_policy"), "{error}");
    }

    #[test]
    fn a_signal_out_of_range_is_refused() {
        assert!(signal(0).is_err());
        assert!(signal(65).is_err());
        assert_eq!(signal(9).unwrap(), 9);
    }

    #[test]
    fn a_terminal_larger_than_the_kernel_can_say_is_refused() {
        assert!(size(70_000, 24).is_err());
    }

    #[test]
    fn a_broken_address_is_refused_with_its_field() {
        let broken = agent::Interface {
            name: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            addresses: vec!["10.0.0.1".to_owned()],
            ..Default::default()
        };
        let error = interface(broken).unwrap_err();
        assert!(error.to_string().contains("network.interfaces.addresses"), "{error}");
    }
}
