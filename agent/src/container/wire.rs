//! The parts of the OCI runtime specification that Coffer reads, as they stand in JSON.
//!
//! Keys that are not listed are ignored, as the specification asks; a listed key with a value of another type, and an
//! enumeration's unknown value, are refused by serde, whose path tracker names the field. What the values mean is
//! decided in `spec.rs`. Own structures rather than the `oci-spec` crate, which brings a regular expression library along
//! and whose getters hide which fields are read at all.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::error::SpecError;

/// Parses JSON; an error names the field by its path.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, SpecError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        SpecError::Malformed { field: error.path().to_string(), problem: error.into_inner().to_string() }
    })?;
    deserializer
        .end()
        .map_err(|error| SpecError::Malformed { field: ".".to_owned(), problem: error.to_string() })?;
    Ok(parsed)
}

/// Go writes an empty slice as `null` where a field lacks `omitempty`.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) oci_version: String,
    pub(super) root: Option<Root>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) mounts: Vec<Mount>,
    pub(super) process: Option<Process>,
    #[serde(default)]
    pub(super) hostname: String,
    #[serde(default)]
    pub(super) domainname: String,
    pub(super) hooks: Option<BTreeMap<String, Option<Vec<Hook>>>>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) linux: Linux,
}

/// A hook's contents do not matter: none can run here.
#[derive(Debug, Deserialize)]
pub(super) struct Hook {}

#[derive(Debug, Deserialize)]
pub(super) struct Root {
    #[serde(default)]
    pub(super) readonly: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) source: PathBuf,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) options: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) gid_mappings: Vec<IdMapping>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    #[serde(default)]
    pub(super) terminal: bool,
    pub(super) console_size: Option<ConsoleSize>,
    #[serde(default)]
    pub(super) user: User,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) cwd: String,
    pub(super) capabilities: Option<Capabilities>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub(super) no_new_privileges: bool,
    #[serde(default)]
    pub(super) apparmor_profile: String,
    #[serde(default)]
    pub(super) selinux_label: String,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) scheduler: Option<Unread>,
    pub(super) io_priority: Option<Unread>,
    #[serde(rename = "execCPUAffinity")]
    pub(super) exec_cpu_affinity: Option<Unread>,
}

/// An object whose presence matters and whose contents do not.
#[derive(Debug, Deserialize)]
pub(super) struct Unread {}

#[derive(Debug, Deserialize)]
pub(super) struct ConsoleSize {
    #[serde(default)]
    pub(super) height: u64,
    #[serde(default)]
    pub(super) width: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(default)]
    pub(super) gid: u32,
    pub(super) umask: Option<u32>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Capabilities {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) bounding: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) effective: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) inheritable: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) permitted: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) ambient: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub(super) kind: RlimitKind,
    pub(super) hard: u64,
    pub(super) soft: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum RlimitKind {
    #[serde(rename = "RLIMIT_AS")]
    As,
    #[serde(rename = "RLIMIT_CORE")]
    Core,
    #[serde(rename = "RLIMIT_CPU")]
    Cpu,
    #[serde(rename = "RLIMIT_DATA")]
    Data,
    #[serde(rename = "RLIMIT_FSIZE")]
    Fsize,
    #[serde(rename = "RLIMIT_LOCKS")]
    Locks,
    #[serde(rename = "RLIMIT_MEMLOCK")]
    Memlock,
    #[serde(rename = "RLIMIT_MSGQUEUE")]
    Msgqueue,
    #[serde(rename = "RLIMIT_NICE")]
    Nice,
    #[serde(rename = "RLIMIT_NOFILE")]
    Nofile,
    #[serde(rename = "RLIMIT_NPROC")]
    Nproc,
    #[serde(rename = "RLIMIT_RSS")]
    Rss,
    #[serde(rename = "RLIMIT_RTPRIO")]
    Rtprio,
    #[serde(rename = "RLIMIT_RTTIME")]
    Rttime,
    #[serde(rename = "RLIMIT_SIGPENDING")]
    Sigpending,
    #[serde(rename = "RLIMIT_STACK")]
    Stack,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Linux {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) gid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) sysctl: BTreeMap<String, String>,
    pub(super) resources: Option<Resources>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) devices: Vec<Device>,
    pub(super) seccomp: Option<Seccomp>,
    #[serde(default)]
    pub(super) rootfs_propagation: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) masked_paths: Vec<PathBuf>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) readonly_paths: Vec<PathBuf>,
    #[serde(default)]
    pub(super) mount_label: String,
    pub(super) intel_rdt: Option<Unread>,
    pub(super) memory_policy: Option<Unread>,
    pub(super) personality: Option<Unread>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) time_offsets: BTreeMap<String, TimeOffset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(super) container_id: u32,
    #[serde(rename = "hostID")]
    pub(super) host_id: u32,
    pub(super) size: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct TimeOffset {
    #[serde(default)]
    pub(super) secs: i64,
    #[serde(default)]
    pub(super) nanosecs: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: NamespaceKind,
    #[serde(default)]
    pub(super) path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) path: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: NodeKind,
    #[serde(default)]
    pub(super) major: u32,
    #[serde(default)]
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeKind {
    B,
    C,
    U,
    P,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resources {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) devices: Vec<DeviceRule>,
    pub(super) memory: Option<Memory>,
    pub(super) cpu: Option<Cpu>,
    pub(super) pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    pub(super) block_io: Option<BlockIo>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) hugepage_limits: Vec<HugepageLimit>,
    pub(super) network: Option<Unread>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) rdma: BTreeMap<String, Unread>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) unified: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeviceRule {
    pub(super) allow: bool,
    #[serde(default, rename = "type")]
    pub(super) kind: DeviceRuleKind,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    #[serde(default)]
    pub(super) access: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum DeviceRuleKind {
    #[default]
    #[serde(rename = "a", alias = "")]
    All,
    #[serde(rename = "b")]
    Block,
    #[serde(rename = "c", alias = "u")]
    Char,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    pub(super) limit: Option<i64>,
    pub(super) reservation: Option<i64>,
    pub(super) swap: Option<i64>,
    #[serde(rename = "disableOOMKiller")]
    pub(super) disable_oom_killer: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cpu {
    pub(super) shares: Option<u64>,
    pub(super) quota: Option<i64>,
    pub(super) burst: Option<u64>,
    pub(super) period: Option<u64>,
    pub(super) realtime_runtime: Option<i64>,
    pub(super) realtime_period: Option<u64>,
    #[serde(default)]
    pub(super) cpus: String,
    #[serde(default)]
    pub(super) mems: String,
    pub(super) idle: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pids {
    pub(super) limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockIo {
    pub(super) weight: Option<u16>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) weight_device: Vec<Unread>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) throttle_read_bps_device: Vec<Unread>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) throttle_write_bps_device: Vec<Unread>,
    #[serde(default, rename = "throttleReadIOPSDevice", deserialize_with = "null_is_default")]
    pub(super) throttle_read_iops_device: Vec<Unread>,
    #[serde(default, rename = "throttleWriteIOPSDevice", deserialize_with = "null_is_default")]
    pub(super) throttle_write_iops_device: Vec<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HugepageLimit {
    pub(super) page_size: String,
    pub(super) limit: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seccomp {
    pub(super) default_action: Action,
    pub(super) default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) architectures: Vec<Architecture>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) flags: Vec<FilterFlag>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) syscalls: Vec<SyscallRule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SyscallRule {
    pub(super) names: Vec<String>,
    pub(super) action: Action,
    pub(super) errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) args: Vec<SyscallArg>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SyscallArg {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// The architectures of the runtime specification. Those that an x86-64 kernel never runs add nothing to a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Architecture {
    #[serde(rename = "SCMP_ARCH_X86_64", alias = "SCMP_ARCH_NATIVE")]
    X86_64,
    #[serde(rename = "SCMP_ARCH_X86")]
    X86,
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    #[serde(
        rename = "SCMP_ARCH_ARM",
        alias = "SCMP_ARCH_AARCH64",
        alias = "SCMP_ARCH_MIPS",
        alias = "SCMP_ARCH_MIPS64",
        alias = "SCMP_ARCH_MIPS64N32",
        alias = "SCMP_ARCH_MIPSEL",
        alias = "SCMP_ARCH_MIPSEL64",
        alias = "SCMP_ARCH_MIPSEL64N32",
        alias = "SCMP_ARCH_PPC",
        alias = "SCMP_ARCH_PPC64",
        alias = "SCMP_ARCH_PPC64LE",
        alias = "SCMP_ARCH_S390",
        alias = "SCMP_ARCH_S390X",
        alias = "SCMP_ARCH_PARISC",
        alias = "SCMP_ARCH_PARISC64",
        alias = "SCMP_ARCH_RISCV64",
        alias = "SCMP_ARCH_LOONGARCH64",
        alias = "SCMP_ARCH_M68K",
        alias = "SCMP_ARCH_SH",
        alias = "SCMP_ARCH_SHEB"
    )]
    Foreign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum FilterFlag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}
