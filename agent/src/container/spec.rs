//! The door for OCI documents: JSON becomes a [`ContainerSpec`] or a [`ProcessSpec`], or is refused with the field named.
//!
//! What a pod's guest gives a meaning of its own:
//! - network: always the guest's, which is the pod's; a path names a namespace of the host and is not looked at;
//! - ipc, uts: the pod's when absent or with a path, the container's own without a path;
//! - pid: own, or the pod's shared one when the caller of `create` hands it over;
//! - user: own, with the given mappings, also when a path names the pod's;
//! - AppArmor and SELinux labels name policies of the host's kernel: left out, with a note.

use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};

use super::capabilities::CapabilitySets;
use super::error::SpecError;
use super::mount_options::{self, Mount, MountOptions, MountSource};
use super::resources::{ACCESS_MKNOD, ACCESS_READ, ACCESS_WRITE, DEVICE_BLOCK, DeviceRule, ResourceUpdate};
use super::seccomp::{self, Filter};
use super::wire::{self, NamespaceKind};

/// Annotations in which containerd and CRI-O say what a pod's author calls a container.
const NAMES: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];

/// A container's specification, checked.
#[derive(Debug, Clone)]
pub(crate) struct ContainerSpec {
    /// What the pod's author calls it, as the host tells.
    pub(crate) name: Option<String>,
    /// The init process.
    pub(crate) process: ProcessSpec,
    /// Mounts, in order.
    pub(crate) mounts: Vec<Mount>,
    /// Device nodes beyond the usual ones.
    pub(crate) devices: Vec<DeviceNode>,
    /// What was left out and why, as sentences for a log.
    pub(crate) notes: Vec<String>,
    pub(super) namespaces: Namespaces,
    pub(super) root: RootOptions,
    pub(super) resources: ResourceUpdate,
    /// Device rules that hold beside those of the resources, whatever these become.
    pub(super) granted: Vec<DeviceRule>,
    pub(super) filter: Option<Filter>,
}

/// Properties of the file system tree and of the namespaces that init sets up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootOptions {
    pub(super) read_only: bool,
    /// `MS_SHARED` and the like with `MS_REC`.
    pub(super) propagation: Option<u32>,
    pub(super) masked: Vec<PathBuf>,
    pub(super) read_only_paths: Vec<PathBuf>,
    pub(super) hostname: String,
    pub(super) domainname: String,
    pub(super) sysctls: Vec<(String, String)>,
}

/// Which namespaces a container has for itself. A mount namespace it always has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Namespaces {
    pub(super) ipc: bool,
    pub(super) uts: bool,
    pub(super) cgroup: bool,
    pub(super) user: Option<UserMappings>,
    /// Clock name, seconds and nanoseconds.
    pub(super) time: Option<Vec<(String, i64, u32)>>,
}

/// Lines of `uid_map` and `gid_map`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UserMappings {
    pub(super) uids: String,
    pub(super) gids: String,
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    /// Absolute path in the container.
    pub(crate) path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and the permission bits.
    pub(crate) mode: u32,
    /// Major number, in the guest.
    pub(crate) major: u32,
    /// Minor number, in the guest.
    pub(crate) minor: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// One process, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) umask: Option<u32>,
    pub(super) capabilities: Option<CapabilitySets>,
    /// `RLIMIT_*`, soft, hard.
    pub(super) rlimits: Vec<(u32, u64, u64)>,
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    /// Whether the process wants a terminal.
    pub(crate) terminal: bool,
    /// Columns and rows that the specification gives for the terminal; 0 when it gives none.
    pub(crate) console_size: (u16, u16),
    /// What was left out and why.
    pub(crate) notes: Vec<String>,
}

impl ContainerSpec {
    /// Lets the container use a block device that one of its mounts shows it.
    pub(crate) fn allow_block_device(&mut self, (major, minor): (u32, u32), write: bool) {
        let access = ACCESS_READ | ACCESS_MKNOD | if write { ACCESS_WRITE } else { 0 };
        let (major, minor) = (Some(major), Some(minor));
        self.granted.push(DeviceRule { allow: true, kind: Some(DEVICE_BLOCK), major, minor, access });
    }

    /// Shows the container a directory of the guest, read-only, without programs or devices in it.
    pub(crate) fn show_read_only(&mut self, source: PathBuf, destination: PathBuf) {
        self.mounts.push(Mount {
            destination,
            kind: "bind".to_owned(),
            source: MountSource::Path(source),
            options: MountOptions::bound_read_only(),
        });
    }

    /// Parses a `config.json`.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, SpecError> {
        let wire: wire::Spec = wire::parse(json)?;
        if !wire.oci_version.starts_with("1.") {
            return Err(SpecError::Value {
                field: "ociVersion".to_owned(),
                value: wire.oci_version,
                rule: "only version 1 of the runtime specification is known",
            });
        }
        refuse_what_has_no_place(&wire)?;
        let process = wire.process.ok_or_else(|| SpecError::Missing { field: "process".to_owned() })?;
        let mut process = ProcessSpec::from_wire(process, "process.")?;
        let linux = wire.linux;
        let resources = ResourceUpdate::from_wire(&linux.resources.unwrap_or_default())?;
        let mut notes = std::mem::take(&mut process.notes);
        notes.extend(resources.notes.iter().cloned());
        if !linux.mount_label.is_empty() {
            notes.push("linux.mountLabel is left out: the guest's kernel has no SELinux policy".to_owned());
        }
        if linux.intel_rdt.is_some() || linux.memory_policy.is_some() {
            notes.push(
                "linux.intelRdt and linux.memoryPolicy are left out: they are about the host".to_owned(),
            );
        }
        check_text("hostname", &wire.hostname)?;
        check_text("domainname", &wire.domainname)?;
        Ok(ContainerSpec {
            name: NAMES.iter().find_map(|key| wire.annotations.get(*key)).cloned(),
            process,
            mounts: parse_mounts(wire.mounts)?,
            devices: parse_devices(linux.devices)?,
            namespaces: parse_namespaces(
                &linux.namespaces,
                (&linux.uid_mappings, &linux.gid_mappings),
                &linux.time_offsets,
            )?,
            root: RootOptions {
                read_only: wire.root.is_some_and(|root| root.readonly),
                propagation: match linux.rootfs_propagation.as_str() {
                    "" => None,
                    value => Some(mount_options::rootfs_propagation(value)?),
                },
                masked: absolute_all(linux.masked_paths, "linux.maskedPaths")?,
                read_only_paths: absolute_all(linux.readonly_paths, "linux.readonlyPaths")?,
                hostname: wire.hostname,
                domainname: wire.domainname,
                sysctls: parse_sysctls(linux.sysctl)?,
            },
            filter: linux.seccomp.as_ref().map(seccomp::compile).transpose()?,
            resources,
            granted: Vec::new(),
            notes,
        })
    }
}

impl ProcessSpec {
    /// Its environment, `NAME=value` each.
    pub(crate) fn environment_mut(&mut self) -> &mut Vec<String> {
        &mut self.env
    }

    /// Parses a `process` object, as an exec request carries it.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, SpecError> {
        Self::from_wire(wire::parse(json)?, "")
    }

    fn from_wire(wire: wire::Process, prefix: &str) -> Result<Self, SpecError> {
        let field = |name: &str| format!("{prefix}{name}");
        if wire.args.first().is_none_or(String::is_empty) {
            return Err(SpecError::Missing { field: field("args") });
        }
        for (position, arg) in wire.args.iter().enumerate() {
            check_text(&field(&format!("args[{position}]")), arg)?;
        }
        for (position, variable) in wire.env.iter().enumerate() {
            check_text(&field(&format!("env[{position}]")), variable)?;
        }
        let unsupported = [
            ("scheduler", wire.scheduler.is_some()),
            ("ioPriority", wire.io_priority.is_some()),
            ("execCPUAffinity", wire.exec_cpu_affinity.is_some()),
        ];
        if let Some((name, _)) = unsupported.iter().find(|(_, given)| *given) {
            return Err(SpecError::Unsupported {
                field: field(name),
                why: "leave it out; use cpu shares or nice(1)",
            });
        }
        let label = |name: &str, value: &str| {
            let note =
                format!("{} {value:?} is left out: it names a policy of the host's kernel", field(name));
            (!value.is_empty() && value != "unconfined").then_some(note)
        };
        let notes =
            [label("apparmorProfile", &wire.apparmor_profile), label("selinuxLabel", &wire.selinux_label)];
        let size = wire.console_size.map_or((0, 0), |size| (clamp(size.width), clamp(size.height)));
        let sets = wire.capabilities.map(|sets| CapabilitySets::parse(&sets, &field("capabilities")));
        Ok(ProcessSpec {
            cwd: absolute(PathBuf::from(wire.cwd), &field("cwd"))?,
            args: wire.args,
            env: wire.env,
            uid: id(wire.user.uid, &field("user.uid"))?,
            gid: id(wire.user.gid, &field("user.gid"))?,
            groups: wire.user.additional_gids,
            umask: wire.user.umask,
            capabilities: sets.transpose()?,
            rlimits: parse_rlimits(&wire.rlimits, &field("rlimits"))?,
            no_new_privileges: wire.no_new_privileges,
            oom_score_adj: oom_score_adj(wire.oom_score_adj, &field("oomScoreAdj"))?,
            terminal: wire.terminal,
            console_size: size,
            notes: notes.into_iter().flatten().collect(),
        })
    }
}

fn refuse_what_has_no_place(spec: &wire::Spec) -> Result<(), SpecError> {
    let hooks = spec.hooks.iter().flatten();
    if let Some((name, _)) =
        hooks.into_iter().find(|(_, hooks)| hooks.as_ref().is_some_and(|h| !h.is_empty()))
    {
        return Err(SpecError::Unsupported {
            field: format!("hooks.{name}"),
            why: "a hook is a program of the host, which is not in the guest; the shim runs those it can",
        });
    }
    if spec.linux.personality.is_some() {
        return Err(SpecError::Unsupported {
            field: "linux.personality".to_owned(),
            why: "the guest's kernel runs 64-bit programs only; leave it out",
        });
    }
    Ok(())
}

fn parse_mounts(mounts: Vec<wire::Mount>) -> Result<Vec<Mount>, SpecError> {
    let parse = |(position, mount): (usize, wire::Mount)| {
        let field = |name: &str| format!("mounts[{position}].{name}");
        if !mount_options::is_known_kind(&mount.kind) {
            return Err(SpecError::Value {
                field: field("type"),
                value: mount.kind,
                rule: "a container mounts no such file system itself; make it a volume",
            });
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(SpecError::Unsupported {
                field: field("uidMappings"),
                why: "an identity-mapped mount is made where its file system is mounted, not in the container",
            });
        }
        let options = MountOptions::parse(&mount.options, &mount.kind, position)?;
        if options.bind == 0 && matches!(mount.kind.as_str(), "" | "none" | "bind") {
            return Err(SpecError::Missing { field: field("type") });
        }
        if options.bind != 0 && mount.source.as_os_str().is_empty() {
            return Err(SpecError::Missing { field: field("source") });
        }
        Ok(Mount {
            destination: absolute(mount.destination, &field("destination"))?,
            kind: mount.kind,
            source: MountSource::Path(mount.source),
            options,
        })
    };
    mounts.into_iter().enumerate().map(parse).collect()
}

fn parse_devices(devices: Vec<wire::Device>) -> Result<Vec<DeviceNode>, SpecError> {
    let parse = |(position, device): (usize, wire::Device)| {
        let kind = match device.kind {
            wire::NodeKind::B => libc::S_IFBLK,
            wire::NodeKind::C | wire::NodeKind::U => libc::S_IFCHR,
            wire::NodeKind::P => libc::S_IFIFO,
        };
        Ok(DeviceNode {
            path: absolute(device.path, &format!("linux.devices[{position}].path"))?,
            mode: kind | (device.file_mode.unwrap_or(0o666) & 0o7777),
            major: device.major,
            minor: device.minor,
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
        })
    };
    devices.into_iter().enumerate().map(parse).collect()
}

fn parse_namespaces(
    namespaces: &[wire::Namespace],
    mappings: (&[wire::IdMapping], &[wire::IdMapping]),
    offsets: &std::collections::BTreeMap<String, wire::TimeOffset>,
) -> Result<Namespaces, SpecError> {
    let find = |kind| namespaces.iter().find(|namespace| namespace.kind == kind);
    for (position, namespace) in namespaces.iter().enumerate() {
        if namespaces.iter().take(position).any(|earlier| earlier.kind == namespace.kind) {
            return Err(SpecError::Value {
                field: format!("linux.namespaces[{position}].type"),
                value: format!("{:?}", namespace.kind).to_lowercase(),
                rule: "a namespace may be given once",
            });
        }
    }
    let own = |kind| find(kind).is_some_and(|namespace| namespace.path.is_empty());
    let shared = |why| SpecError::Unsupported { field: "linux.namespaces".to_owned(), why };
    if !own(NamespaceKind::Mount) {
        return Err(shared("a container has a mount namespace of its own; give one without a path"));
    }
    if find(NamespaceKind::Pid).is_none() {
        return Err(shared("a pod cannot see the host's processes; give a pid namespace"));
    }
    let user = match find(NamespaceKind::User) {
        None => None,
        Some(_) => Some(UserMappings {
            uids: mapping_lines(mappings.0, "linux.uidMappings")?,
            gids: mapping_lines(mappings.1, "linux.gidMappings")?,
        }),
    };
    let time = match own(NamespaceKind::Time) {
        false => None,
        true => Some(parse_offsets(offsets)?),
    };
    Ok(Namespaces {
        ipc: own(NamespaceKind::Ipc),
        uts: own(NamespaceKind::Uts),
        cgroup: own(NamespaceKind::Cgroup),
        user,
        time,
    })
}

fn mapping_lines(mappings: &[wire::IdMapping], field: &str) -> Result<String, SpecError> {
    if mappings.is_empty() {
        return Err(SpecError::Missing { field: field.to_owned() });
    }
    // The kernel's limit, user_namespaces(7).
    if mappings.len() > 340 {
        return Err(SpecError::Value {
            field: field.to_owned(),
            value: format!("{} entries", mappings.len()),
            rule: "the kernel takes at most 340",
        });
    }
    Ok(mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect())
}

fn parse_offsets(
    offsets: &std::collections::BTreeMap<String, wire::TimeOffset>,
) -> Result<Vec<(String, i64, u32)>, SpecError> {
    let parse = |(clock, offset): (&String, &wire::TimeOffset)| match clock.as_str() {
        "monotonic" | "boottime" => Ok((clock.clone(), offset.secs, offset.nanosecs)),
        _ => Err(SpecError::Value {
            field: "linux.timeOffsets".to_owned(),
            value: clock.clone(),
            rule: "only monotonic and boottime have offsets",
        }),
    };
    offsets.iter().map(parse).collect()
}

/// A name with dots or slashes becomes a path below `/proc/sys`.
fn parse_sysctls(
    sysctls: std::collections::BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, SpecError> {
    let parse = |(name, value): (String, String)| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        let odd = path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        if odd || !name.bytes().all(plain) {
            return Err(SpecError::Value {
                field: "linux.sysctl".to_owned(),
                value: name,
                rule: "a name is words joined by dots",
            });
        }
        Ok((path, value))
    };
    sysctls.into_iter().map(parse).collect()
}

fn parse_rlimits(rlimits: &[wire::Rlimit], field: &str) -> Result<Vec<(u32, u64, u64)>, SpecError> {
    let mut parsed: Vec<(u32, u64, u64)> = Vec::with_capacity(rlimits.len());
    for (position, limit) in rlimits.iter().enumerate() {
        let resource = resource_number(limit.kind);
        let field = || format!("{field}[{position}]");
        if limit.soft > limit.hard {
            return Err(SpecError::Value {
                field: format!("{}.soft", field()),
                value: limit.soft.to_string(),
                rule: "a soft limit is at most its hard limit",
            });
        }
        if parsed.iter().any(|(earlier, _, _)| *earlier == resource) {
            return Err(SpecError::Value {
                field: format!("{}.type", field()),
                value: format!("{:?}", limit.kind),
                rule: "a limit may be given once",
            });
        }
        parsed.push((resource, limit.soft, limit.hard));
    }
    Ok(parsed)
}

fn resource_number(kind: wire::RlimitKind) -> u32 {
    match kind {
        wire::RlimitKind::As => libc::RLIMIT_AS,
        wire::RlimitKind::Core => libc::RLIMIT_CORE,
        wire::RlimitKind::Cpu => libc::RLIMIT_CPU,
        wire::RlimitKind::Data => libc::RLIMIT_DATA,
        wire::RlimitKind::Fsize => libc::RLIMIT_FSIZE,
        wire::RlimitKind::Locks => libc::RLIMIT_LOCKS,
        wire::RlimitKind::Memlock => libc::RLIMIT_MEMLOCK,
        wire::RlimitKind::Msgqueue => libc::RLIMIT_MSGQUEUE,
        wire::RlimitKind::Nice => libc::RLIMIT_NICE,
        wire::RlimitKind::Nofile => libc::RLIMIT_NOFILE,
        wire::RlimitKind::Nproc => libc::RLIMIT_NPROC,
        wire::RlimitKind::Rss => libc::RLIMIT_RSS,
        wire::RlimitKind::Rtprio => libc::RLIMIT_RTPRIO,
        wire::RlimitKind::Rttime => libc::RLIMIT_RTTIME,
        wire::RlimitKind::Sigpending => libc::RLIMIT_SIGPENDING,
        wire::RlimitKind::Stack => libc::RLIMIT_STACK,
    }
}

fn oom_score_adj(value: Option<i32>, field: &str) -> Result<Option<i32>, SpecError> {
    match value {
        Some(value) if !(-1000..=1000).contains(&value) => Err(SpecError::Value {
            field: field.to_owned(),
            value: value.to_string(),
            rule: "it lies between -1000 and 1000",
        }),
        value => Ok(value),
    }
}

/// The last id means "no change" to the kernel.
fn id(value: u32, field: &str) -> Result<u32, SpecError> {
    match value {
        u32::MAX => Err(SpecError::Value {
            field: field.to_owned(),
            value: value.to_string(),
            rule: "an id is below 4294967295",
        }),
        value => Ok(value),
    }
}

/// The kernel's texts end at their first zero byte.
fn check_text(field: &str, value: &str) -> Result<(), SpecError> {
    match value.contains('\0') {
        true => Err(SpecError::Value {
            field: field.to_owned(),
            value: value.to_owned(),
            rule: "it may not hold a zero byte",
        }),
        false => Ok(()),
    }
}

fn absolute_all(paths: Vec<PathBuf>, field: &str) -> Result<Vec<PathBuf>, SpecError> {
    let check = |(position, path)| absolute(path, &format!("{field}[{position}]"));
    paths.into_iter().enumerate().map(check).collect()
}

/// An absolute path without `..`.
fn absolute(path: PathBuf, field: &str) -> Result<PathBuf, SpecError> {
    let rule = match path.to_str() {
        Some("") => return Err(SpecError::Missing { field: field.to_owned() }),
        Some(text) if text.contains('\0') => "it may not hold a zero byte",
        _ if !path.is_absolute() => "it is an absolute path",
        _ if path.components().any(|part| part == Component::ParentDir) => "it has no `..`",
        _ => return Ok(path),
    };
    Err(SpecError::Value { field: field.to_owned(), value: path.display().to_string(), rule })
}

/// A terminal side beyond 65535 is one of 65535.
fn clamp(side: u64) -> u16 {
    u16::try_from(side).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn minimal() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": { "args": ["a"], "cwd": "/" },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
        })
    }

    /// What is said about the minimal specification with one value set at a JSON pointer.
    fn refusal(pointer: &str, value: Value) -> String {
        let mut spec = minimal();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(list) => list.push(value),
            parent => parent[name] = value,
        }
        match ContainerSpec::parse(spec.to_string().as_bytes()) {
            Err(error) => error.to_string(),
            Ok(_) => "accepted".to_owned(),
        }
    }

    #[test]
    fn the_minimal_specification_is_accepted() {
        assert_eq!(refusal("/hostname", json!("box")), "accepted");
    }

    #[test]
    fn unknown_keys_are_ignored_and_null_lists_are_empty() {
        assert_eq!(refusal("/process/futureThing", json!({ "a": 1 })), "accepted");
        assert_eq!(refusal("/mounts", Value::Null), "accepted");
    }

    #[test]
    fn something_else_than_json_is_refused() {
        assert!(ContainerSpec::parse(b"{").unwrap_err().to_string().contains("EOF"));
        assert!(ContainerSpec::parse(b"{} x").is_err());
    }

    #[test]
    fn another_major_version_is_refused() {
        assert!(refusal("/ociVersion", json!("2.0")).starts_with("ociVersion has the value \"2.0\""));
    }

    #[test]
    fn an_unknown_namespace_is_refused_with_its_place() {
        let error = refusal("/linux/namespaces/-", json!({ "type": "dream" }));
        assert!(error.starts_with("linux.namespaces[2].type: unknown variant `dream`"), "{error}");
    }

    #[test]
    fn a_namespace_given_twice_is_refused() {
        let error = refusal("/linux/namespaces/-", json!({ "type": "pid" }));
        assert!(error.starts_with("linux.namespaces[2].type has the value \"pid\""), "{error}");
    }

    #[test]
    fn a_specification_without_a_pid_namespace_is_refused() {
        let error = refusal("/linux/namespaces", json!([{ "type": "mount" }]));
        assert!(error.contains("host's processes"), "{error}");
    }

    #[test]
    fn a_user_namespace_without_mappings_is_refused() {
        let error = refusal("/linux/namespaces/-", json!({ "type": "user" }));
        assert_eq!(error, "linux.uidMappings is missing");
    }

    #[test]
    fn an_unknown_capability_is_refused_with_its_place() {
        let error = refusal("/process/capabilities", json!({ "ambient": ["CAP_KILL", "CAP_FLY"] }));
        assert!(error.starts_with("process.capabilities.ambient[1] has the value \"CAP_FLY\""), "{error}");
    }

    #[test]
    fn an_unknown_limit_is_refused_with_its_place() {
        let error = refusal("/process/rlimits", json!([{ "type": "RLIMIT_LUCK", "soft": 1, "hard": 1 }]));
        assert!(error.starts_with("process.rlimits[0].type: unknown variant"), "{error}");
    }

    #[test]
    fn a_soft_limit_above_its_hard_limit_is_refused() {
        let error = refusal("/process/rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]));
        assert!(error.starts_with("process.rlimits[0].soft"), "{error}");
    }

    #[test]
    fn unknown_seccomp_words_are_refused_with_their_place() {
        let error = refusal("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_SHRUG" }));
        assert!(error.starts_with("linux.seccomp.defaultAction: unknown variant"), "{error}");
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"] });
        let error = refusal("/linux/seccomp", profile);
        assert!(error.starts_with("linux.seccomp.architectures[0]: unknown variant"), "{error}");
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["a"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 0, "op": "ISH" }] }] });
        let error = refusal("/linux/seccomp", profile);
        assert!(error.starts_with("linux.seccomp.syscalls[0].args[0].op: unknown variant"), "{error}");
    }

    #[test]
    fn a_mount_of_an_unknown_kind_is_refused() {
        let error = refusal("/mounts", json!([{ "destination": "/x", "type": "nfs", "source": "a:/b" }]));
        assert!(error.starts_with("mounts[0].type has the value \"nfs\""), "{error}");
    }

    #[test]
    fn a_mount_destination_that_climbs_is_refused() {
        let error = refusal("/mounts", json!([{ "destination": "/a/../../b", "type": "tmpfs" }]));
        assert!(error.starts_with("mounts[0].destination"), "{error}");
    }

    #[test]
    fn a_hook_is_refused_and_an_empty_list_of_hooks_is_not() {
        let error = refusal("/hooks", json!({ "poststart": [{ "path": "/x" }] }));
        assert!(error.starts_with("hooks.poststart is not supported"), "{error}");
        assert_eq!(refusal("/hooks", json!({ "poststart": [], "poststop": null })), "accepted");
    }

    #[test]
    fn a_process_without_arguments_is_refused() {
        assert_eq!(refusal("/process/args", json!([])), "process.args is missing");
    }

    #[test]
    fn a_zero_byte_in_an_argument_is_refused() {
        let error = refusal("/process/args", json!(["a", "b\0c"]));
        assert!(error.starts_with("process.args[1]"), "{error}");
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let error = refusal("/process/cwd", json!("tmp"));
        assert!(error.starts_with("process.cwd has the value \"tmp\""), "{error}");
    }

    #[test]
    fn a_user_id_of_another_type_is_refused_with_its_path() {
        let error = refusal("/process/user", json!({ "uid": "root" }));
        assert!(error.starts_with("process.user.uid: invalid type"), "{error}");
    }

    #[test]
    fn a_sysctl_that_climbs_is_refused() {
        let error = refusal("/linux/sysctl", json!({ "net/../../../etc/passwd": "x" }));
        assert!(error.starts_with("linux.sysctl"), "{error}");
    }

    #[test]
    fn a_sysctl_with_a_dotted_interface_name_is_spelled_with_slashes() {
        let sysctls = [("net/ipv4/conf/eth0.1/forwarding".to_owned(), "1".to_owned())];
        assert_eq!(parse_sysctls(sysctls.clone().into()), Ok(sysctls.to_vec()));
    }

    #[test]
    fn an_app_armor_profile_is_left_out_with_a_note() {
        let mut spec = minimal();
        spec["process"]["apparmorProfile"] = json!("cri-containerd.apparmor.d");
        let spec = ContainerSpec::parse(spec.to_string().as_bytes()).unwrap();
        assert!(spec.notes[0].contains("cri-containerd.apparmor.d"));
    }

    #[test]
    fn a_wrong_propagation_of_the_root_is_refused() {
        assert!(refusal("/linux/rootfsPropagation", json!("viral")).starts_with("linux.rootfsPropagation"));
    }
}
