//! The operator's configuration, parsed once into types.
//!
//! `/etc/coffer/config.toml` → [`Config`]. A missing default file means defaults; a missing named file, an
//! unreadable file, an unknown key or a value out of bounds is an error that names the file. Nothing here looks at
//! the machine: whether a path exists is [`crate::host`]'s question.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coffer_vmm::spec::Limits;
use serde::Deserialize;

use crate::images::config::Images;
use crate::tee::Tee;

/// Where the configuration is looked for when no other path is given.
pub const DEFAULT_PATH: &str = "/etc/coffer/config.toml";

/// Environment variable that names another configuration file.
pub const PATH_VARIABLE: &str = "COFFER_CONFIG";

/// Host memory in MiB that a pod costs beside the memory its containers asked for: hypervisor, shim, device process,
/// and the guest's kernel. The `RuntimeClass`'s `overhead.podFixed` is made from it.
pub const DEFAULT_OVERHEAD_MIB: u32 = 192;

/// Size of a scratch disk, if none is given.
const DEFAULT_SCRATCH_BYTES: u64 = 10 << 30;

/// Everything the operator can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which hypervisor runs the guests.
    pub hypervisor: HypervisorChoice,
    /// QEMU's binary: a path, or a name that is looked up in PATH.
    pub qemu: PathBuf,
    /// The `coffer-vmm` binary, which serves the guests' vsock device.
    pub vmm: PathBuf,
    /// Directory with `manifest.json`, kernel and initrd.
    pub guest_dir: PathBuf,
    /// Sizes of machines.
    pub machine: MachineSizes,
    /// How much machines may move.
    pub limits: Limits,
    /// What containers write to.
    pub scratch: Scratch,
    /// Directory of the layer cache.
    pub layers_dir: PathBuf,
    /// Directory of the pods' run directories; on a tmpfs.
    pub run_dir: PathBuf,
    /// Pod annotations below `io.coffer.` that pod authors may set.
    pub allowed_annotations: Vec<String>,
    /// Users that the pods' processes run as.
    pub users: UserRange,
    /// Which secure processor the pods' machines have.
    pub tee: Tee,
    /// Which images may run, and where their signatures are.
    pub images: Images,
    /// How much the shim logs.
    pub log_level: LogLevel,
}

/// Which hypervisor runs the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorChoice {
    /// The built-in monitor where the CPU virtualizes and `/dev/kvm` opens, QEMU with software emulation elsewhere.
    Auto,
    /// The built-in monitor, coffer-vmm; a pod is refused where it cannot run.
    Builtin,
    /// QEMU, with KVM where the CPU can and with software emulation elsewhere.
    Qemu,
}

/// Sizes of machines whose pod names none, and the bounds of those that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineSizes {
    /// Virtual CPUs of a pod without a CPU limit.
    pub default_vcpus: u8,
    /// Most virtual CPUs.
    pub max_vcpus: u8,
    /// Memory in MiB of a pod without a memory limit.
    pub default_memory_mib: u32,
    /// Most memory in MiB.
    pub max_memory_mib: u32,
    /// Memory in MiB added to the sum of a pod's limits; see [`DEFAULT_OVERHEAD_MIB`].
    pub overhead_mib: u32,
}

/// What containers write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scratch {
    /// A sparse file on the host, of this size in bytes.
    Disk {
        /// Size in bytes.
        bytes: u64,
    },
    /// The same, which the guest encrypts and authenticates under a key of its own.
    Encrypted {
        /// Size in bytes.
        bytes: u64,
    },
    /// The guest's own memory.
    Tmpfs,
}

/// A range of user ids, none of which is 0 or belongs to anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRange {
    /// Lowest.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is odd.
    Warn,
    /// And what happened.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {path}; make it readable for root, or remove it to use the defaults"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file is not TOML, or has a key or type that is not known.
    #[error("configuration {path}, line {line}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// What is wrong; for an unknown key it lists the known ones.
        reason: String,
    },
    /// A value is out of bounds.
    #[error("configuration {path}: {key} is {found}, it must be {allowed}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with its table.
        key: &'static str,
        /// As given.
        found: String,
        /// What would be accepted.
        allowed: String,
    },
}

impl LogLevel {
    /// The name that a log filter takes.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hypervisor: HypervisorChoice::Auto,
            qemu: PathBuf::from("qemu-system-x86_64"),
            vmm: PathBuf::from("/usr/lib/coffer/current/coffer-vmm"),
            guest_dir: PathBuf::from("/usr/lib/coffer/guest"),
            machine: MachineSizes {
                default_vcpus: 1,
                max_vcpus: 64,
                default_memory_mib: 256,
                max_memory_mib: 1 << 20,
                overhead_mib: DEFAULT_OVERHEAD_MIB,
            },
            limits: Limits::default(),
            scratch: Scratch::Disk { bytes: DEFAULT_SCRATCH_BYTES },
            layers_dir: PathBuf::from("/var/lib/coffer/layers"),
            run_dir: PathBuf::from("/run/coffer"),
            allowed_annotations: Vec::new(),
            // Above the ids that systemd hands to its containers, below those it reserves at the top.
            users: UserRange { first: 1_880_000_000, count: 65_536 },
            tee: Tee::default(),
            images: Images::default(),
            log_level: LogLevel::Info,
        }
    }
}

impl Config {
    /// Reads the configuration: from `named` (the runtime option), else from the file in the environment variable's
    /// `value`, else from the default place.
    pub fn find(named: Option<&Path>, value: Option<&Path>) -> Result<Self, ConfigError> {
        match named.or(value) {
            Some(path) => Self::load(path),
            None => Self::load_if_there(Path::new(DEFAULT_PATH)),
        }
    }

    /// Reads a file that must be there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a file, and takes the defaults if there is none.
    pub fn load_if_there(path: &Path) -> Result<Self, ConfigError> {
        match Self::load(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            other => other,
        }
    }

    /// Reads configuration text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: file::File = toml::from_str(text).map_err(|err| ConfigError::Parse {
            path: path.to_owned(),
            line: line_of(text, err.span().map_or(0, |span| span.start)),
            reason: err.message().replace('\n', " "),
        })?;
        check::Check { path }.config(file)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// The file's form. Each key is optional; none but these is known.
mod file {
    use super::{HypervisorChoice, LogLevel};
    use serde::Deserialize;
    use std::path::PathBuf;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct File {
        pub(super) hypervisor: Option<HypervisorChoice>,
        pub(super) log_level: Option<LogLevel>,
        pub(super) allowed_annotations: Option<Vec<String>>,
        pub(super) paths: Option<Paths>,
        pub(super) machine: Option<Machine>,
        pub(super) limits: Option<crate::limits::Table>,
        pub(super) scratch: Option<ScratchTable>,
        pub(super) users: Option<Users>,
        pub(super) tee: Option<crate::tee::Table>,
        pub(super) image: Option<crate::images::config::Table>,
    }

    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Paths {
        pub(super) qemu: Option<PathBuf>,
        pub(super) vmm: Option<PathBuf>,
        pub(super) guest_dir: Option<PathBuf>,
        pub(super) layers_dir: Option<PathBuf>,
        pub(super) run_dir: Option<PathBuf>,
    }

    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Machine {
        pub(super) default_vcpus: Option<u8>,
        pub(super) max_vcpus: Option<u8>,
        pub(super) default_memory_mib: Option<u32>,
        pub(super) max_memory_mib: Option<u32>,
        pub(super) overhead_mib: Option<u32>,
    }

    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    pub(super) struct ScratchTable {
        pub(super) kind: Option<ScratchKind>,
        pub(super) size_mib: Option<u64>,
    }

    #[derive(Deserialize, Clone, Copy, PartialEq)]
    #[serde(rename_all = "lowercase")]
    pub(super) enum ScratchKind {
        Disk,
        Encrypted,
        Tmpfs,
    }

    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Users {
        pub(super) first: Option<u32>,
        pub(super) count: Option<u32>,
    }
}

/// From the file's form to [`Config`], with every bound checked.
mod check {
    use super::file::{File, Machine, Paths, ScratchKind, ScratchTable, Users};
    use super::{Config, ConfigError, MachineSizes, Scratch, UserRange};
    use std::fmt::Display;
    use std::path::{Path, PathBuf};

    /// The smallest guest that our kernel and agent start in.
    const MIN_MEMORY_MIB: u32 = 64;

    /// The smallest scratch that holds an ext4 file system with room in it.
    const MIN_SCRATCH_MIB: u64 = 64;

    /// What ext4 with 32-bit block numbers takes.
    const MAX_DISK_MIB: u64 = 16 << 20;

    /// The guest makes the file system while its pod waits, and what it writes and holds for that grows with the disk.
    const MAX_ENCRYPTED_MIB: u64 = 1 << 20;
    const ENCRYPTED_BOUND: &str =
        " when scratch is encrypted, as the guest makes the file system at each start";

    pub(super) struct Check<'a> {
        pub(super) path: &'a Path,
    }

    impl Check<'_> {
        pub(super) fn config(&self, file: File) -> Result<Config, ConfigError> {
            let default = Config::default();
            let paths = file.paths.unwrap_or_default();
            let tee = self.tee(file.tee.unwrap_or_default())?;
            Ok(Config {
                hypervisor: file.hypervisor.unwrap_or(default.hypervisor),
                log_level: file.log_level.unwrap_or(default.log_level),
                allowed_annotations: self.annotations(file.allowed_annotations.unwrap_or_default())?,
                machine: self.machine(file.machine.unwrap_or_default(), default.machine)?,
                limits: file.limits.unwrap_or_default().into(),
                scratch: self.scratch(file.scratch.unwrap_or_default(), tee.simulated.is_some())?,
                users: self.users(file.users.unwrap_or_default(), default.users)?,
                images: self.images(file.image.unwrap_or_default(), tee.simulated.is_some())?,
                tee,
                ..self.paths(paths, default)?
            })
        }

        fn paths(&self, given: Paths, default: Config) -> Result<Config, ConfigError> {
            let qemu = given.qemu.unwrap_or(default.qemu);
            if qemu.is_relative() && qemu.components().count() != 1 {
                return self.refuse("paths.qemu", qemu.display(), "an absolute path or a bare name");
            }
            Ok(Config {
                qemu,
                vmm: self.absolute("paths.vmm", given.vmm, default.vmm)?,
                guest_dir: self.absolute("paths.guest_dir", given.guest_dir, default.guest_dir)?,
                layers_dir: self.absolute("paths.layers_dir", given.layers_dir, default.layers_dir)?,
                run_dir: self.absolute("paths.run_dir", given.run_dir, default.run_dir)?,
                ..Config::default()
            })
        }

        fn absolute(
            &self,
            key: &'static str,
            given: Option<PathBuf>,
            default: PathBuf,
        ) -> Result<PathBuf, ConfigError> {
            match given {
                None => Ok(default),
                Some(path) if path.is_absolute() => Ok(path),
                Some(path) => self.refuse(key, path.display(), "an absolute path"),
            }
        }

        fn machine(&self, given: Machine, default: MachineSizes) -> Result<MachineSizes, ConfigError> {
            let sizes = MachineSizes {
                default_vcpus: given.default_vcpus.unwrap_or(default.default_vcpus),
                max_vcpus: given.max_vcpus.unwrap_or(default.max_vcpus),
                default_memory_mib: given.default_memory_mib.unwrap_or(default.default_memory_mib),
                max_memory_mib: given.max_memory_mib.unwrap_or(default.max_memory_mib),
                overhead_mib: given.overhead_mib.unwrap_or(default.overhead_mib),
            };
            self.within("machine.max_vcpus", sizes.max_vcpus, 1, 64)?;
            self.within("machine.default_vcpus", sizes.default_vcpus, 1, sizes.max_vcpus)?;
            self.within("machine.max_memory_mib", sizes.max_memory_mib, MIN_MEMORY_MIB, 1 << 22)?;
            self.within(
                "machine.default_memory_mib",
                sizes.default_memory_mib,
                MIN_MEMORY_MIB,
                sizes.max_memory_mib,
            )?;
            self.within("machine.overhead_mib", sizes.overhead_mib, 32, 16_384)?;
            Ok(sizes)
        }

        /// Pods with a secure processor (`measured`) refuse a disk that anybody on the node could read and change.
        fn scratch(&self, given: ScratchTable, measured: bool) -> Result<Scratch, ConfigError> {
            let default = if measured { ScratchKind::Encrypted } else { ScratchKind::Disk };
            let kind = given.kind.unwrap_or(default);
            let bytes = |mib: Option<u64>| mib.map_or(super::DEFAULT_SCRATCH_BYTES, |mib| mib << 20);
            match (kind, given.size_mib) {
                (ScratchKind::Disk, _) if measured => {
                    let allowed = "\"encrypted\" or \"tmpfs\" where tee.kind is not \"none\"";
                    self.refuse("scratch.kind", "disk", allowed)
                }
                (ScratchKind::Tmpfs, Some(size)) => {
                    self.refuse("scratch.size_mib", size, "left out when scratch is in memory")
                }
                (ScratchKind::Tmpfs, None) => Ok(Scratch::Tmpfs),
                (ScratchKind::Disk, mib) => {
                    self.scratch_size(mib, MAX_DISK_MIB, "")?;
                    Ok(Scratch::Disk { bytes: bytes(mib) })
                }
                (ScratchKind::Encrypted, mib) => {
                    self.scratch_size(mib, MAX_ENCRYPTED_MIB, ENCRYPTED_BOUND)?;
                    Ok(Scratch::Encrypted { bytes: bytes(mib) })
                }
            }
        }

        fn scratch_size(&self, mib: Option<u64>, most: u64, why: &str) -> Result<(), ConfigError> {
            match mib {
                Some(mib) if !(MIN_SCRATCH_MIB..=most).contains(&mib) => {
                    self.refuse("scratch.size_mib", mib, format!("from {MIN_SCRATCH_MIB} to {most}{why}"))
                }
                _ => Ok(()),
            }
        }

        fn users(&self, given: Users, default: UserRange) -> Result<UserRange, ConfigError> {
            let range = UserRange {
                first: given.first.unwrap_or(default.first),
                count: given.count.unwrap_or(default.count),
            };
            // A pod's end kills whatever runs as its user, so people and services must be out of reach: they are below
            // 65536. The two highest ids mean "unchanged" and "nobody" to the kernel.
            self.within("users.first", range.first, 65_536, u32::MAX - 2)?;
            self.within("users.count", range.count, 1, u32::MAX - 1 - range.first)?;
            Ok(range)
        }

        fn tee(&self, given: crate::tee::Table) -> Result<crate::tee::Tee, ConfigError> {
            given.checked().or_else(|(key, found, allowed)| self.refuse(key, found, allowed))
        }

        fn images(
            &self,
            given: crate::images::config::Table,
            measured: bool,
        ) -> Result<crate::images::config::Images, ConfigError> {
            given.checked(measured).or_else(|(key, found, allowed)| self.refuse(key, found, allowed))
        }

        fn annotations(&self, given: Vec<String>) -> Result<Vec<String>, ConfigError> {
            match given.iter().find(|name| !name.starts_with("io.coffer.")) {
                None => Ok(given),
                Some(name) => self.refuse("allowed_annotations", name, "names that begin with io.coffer."),
            }
        }

        fn within<T: PartialOrd + Display>(
            &self,
            key: &'static str,
            value: T,
            low: T,
            high: T,
        ) -> Result<(), ConfigError> {
            if low <= value && value <= high {
                return Ok(());
            }
            self.refuse(key, value, format!("from {low} to {high}"))
        }

        fn refuse<T>(
            &self,
            key: &'static str,
            found: impl Display,
            allowed: impl Display,
        ) -> Result<T, ConfigError> {
            Err(ConfigError::Value {
                path: self.path.to_owned(),
                key,
                found: found.to_string(),
                allowed: allowed.to_string(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_vmm::spec::{Limit, Rate};
    use std::num::NonZeroU64;

    const EIGHT: Rate = Rate { per_second: NonZeroU64::new(8).unwrap(), burst: NonZeroU64::new(8).unwrap() };

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/coffer/config.toml"))
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse("").expect("parses"), Config::default());
    }

    #[test]
    fn a_missing_default_file_means_the_defaults() {
        let found = Config::load_if_there(Path::new("/nonexistent/config.toml"));
        assert_eq!(found.expect("defaults"), Config::default());
    }

    #[test]
    fn a_missing_named_file_is_an_error() {
        let found = Config::find(Some(Path::new("/nonexistent/config.toml")), None);
        assert!(matches!(found, Err(ConfigError::Read { .. })));
    }

    #[test]
    fn a_directory_in_the_files_place_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(Config::load_if_there(dir.path()), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn an_unknown_key_names_itself_the_file_the_line_and_the_known_keys() {
        let message = parse("log_level = \"info\"\n[machine]\nvcpu = 2\n").expect_err("refused").to_string();
        assert!(message.contains("/etc/coffer/config.toml, line 3"), "{message}");
        assert!(message.contains("`vcpu`") && message.contains("`default_vcpus`"), "{message}");
    }

    #[test]
    fn an_unknown_hypervisor_names_the_known_ones() {
        let message = parse("hypervisor = \"xen\"").expect_err("refused").to_string();
        assert!(message.contains("`xen`") && message.contains("`qemu`"), "{message}");
    }

    #[test]
    fn every_key_is_taken_over() {
        let text = r#"
            hypervisor = "qemu"
            log_level = "debug"
            allowed_annotations = ["io.coffer.vcpus"]
            [paths]
            qemu = "/opt/qemu"
            vmm = "/opt/vmm"
            guest_dir = "/opt/guest"
            layers_dir = "/data/layers"
            run_dir = "/run/c"
            [machine]
            default_vcpus = 2
            max_vcpus = 4
            default_memory_mib = 512
            max_memory_mib = 2048
            overhead_mib = 100
            [limits]
            nic_bytes = { per_second = 8, burst = 8 }
            [scratch]
            kind = "tmpfs"
            [users]
            first = 70000
            count = 10
            [tee]
            kind = "sim"
            verifier = "verifier.example.com:8443"
            simulated_dir = "/data/simulated"
            simulated_microcode = 9
            insecure_debug = true
            [image]
            policy = "/data/policy.json"
            signatures = "/data/signatures"
        "#;
        let expected = Config {
            hypervisor: HypervisorChoice::Qemu,
            log_level: LogLevel::Debug,
            allowed_annotations: vec!["io.coffer.vcpus".to_owned()],
            qemu: "/opt/qemu".into(),
            vmm: "/opt/vmm".into(),
            guest_dir: "/opt/guest".into(),
            layers_dir: "/data/layers".into(),
            run_dir: "/run/c".into(),
            machine: MachineSizes {
                default_vcpus: 2,
                max_vcpus: 4,
                default_memory_mib: 512,
                max_memory_mib: 2048,
                overhead_mib: 100,
            },
            limits: Limits { nics: Limit { bytes: Some(EIGHT), operations: None }, ..Limits::default() },
            scratch: Scratch::Tmpfs,
            users: UserRange { first: 70_000, count: 10 },
            tee: Tee {
                simulated: Some(crate::tee::Simulated {
                    dir: "/data/simulated".into(),
                    microcode: 9,
                    debug: true,
                }),
                verifier: Some("verifier.example.com:8443".to_owned()),
            },
            images: Images {
                policy: Some("/data/policy.json".into()),
                dry_run: false,
                signatures: "/data/signatures".into(),
            },
        };
        assert_eq!(parse(text).expect("parses"), expected);
    }

    #[test]
    fn a_dry_run_of_a_nodes_policy_is_taken() {
        let config = parse("[image]\npolicy = \"/p.json\"\ndry_run = true").expect("parses");
        assert!(config.images.dry_run);
    }

    #[test]
    fn a_dry_run_beside_a_secure_processor_is_refused() {
        let found = parse("[tee]\nkind = \"sim\"\n[image]\npolicy = \"/p.json\"\ndry_run = true");
        assert!(matches!(found, Err(ConfigError::Value { key: "image.dry_run", .. })), "{found:?}");
    }

    #[test]
    fn a_dry_run_of_nothing_is_refused() {
        assert!(matches!(
            parse("[image]\ndry_run = true"),
            Err(ConfigError::Value { key: "image.dry_run", .. })
        ));
    }

    #[test]
    fn a_relative_policy_is_refused() {
        let found = parse("[image]\npolicy = \"policy.json\"");
        assert!(matches!(found, Err(ConfigError::Value { key: "image.policy", .. })));
    }

    #[test]
    fn more_default_cpus_than_the_most_are_refused() {
        let message = parse("[machine]\nmax_vcpus = 2\ndefault_vcpus = 3").expect_err("refused").to_string();
        assert!(message.contains("machine.default_vcpus is 3, it must be from 1 to 2"), "{message}");
    }

    #[test]
    fn a_user_range_that_holds_people_is_refused() {
        assert!(matches!(parse("[users]\nfirst = 1000"), Err(ConfigError::Value { key: "users.first", .. })));
    }

    #[test]
    fn a_user_range_that_wraps_around_is_refused() {
        let found = parse("[users]\nfirst = 4294967000\ncount = 4000");
        assert!(matches!(found, Err(ConfigError::Value { key: "users.count", .. })));
    }

    #[test]
    fn a_relative_directory_is_refused() {
        let found = parse("[paths]\nrun_dir = \"run\"");
        assert!(matches!(found, Err(ConfigError::Value { key: "paths.run_dir", .. })));
    }

    #[test]
    fn beside_a_secure_processor_scratch_is_encrypted_or_in_memory() {
        let disk = parse("[scratch]\nsize_mib = 1024").expect("parses").scratch;
        assert_eq!(disk, Scratch::Disk { bytes: 1 << 30 });
        let beside = |scratch: &str| parse(&format!("[tee]\nkind = \"sim\"\n{scratch}"));
        assert_eq!(beside("").expect("parses").scratch, Scratch::Encrypted { bytes: 10 << 30 });
        let sized = beside("[scratch]\nsize_mib = 100").expect("parses").scratch;
        assert_eq!(sized, Scratch::Encrypted { bytes: 100 << 20 });
        assert_eq!(beside("[scratch]\nkind = \"tmpfs\"").expect("parses").scratch, Scratch::Tmpfs);
        let found = beside("[scratch]\nkind = \"disk\"");
        assert!(matches!(found, Err(ConfigError::Value { key: "scratch.kind", .. })), "{found:?}");
    }

    #[test]
    fn an_encrypted_scratch_has_a_bound_of_its_own() {
        let encrypted = |mib: u64| parse(&format!("[scratch]\nkind = \"encrypted\"\nsize_mib = {mib}"));
        let most = encrypted(1 << 20).expect("parses").scratch;
        assert_eq!(most, Scratch::Encrypted { bytes: 1 << 40 });
        let found = encrypted((1 << 20) + 1).expect_err("too large").to_string();
        assert!(found.contains("from 64 to 1048576 when scratch is encrypted"), "{found}");
        assert!(encrypted(63).is_err());
        assert!(parse("[scratch]\nsize_mib = 1048577").is_ok());
    }

    #[test]
    fn a_size_for_scratch_in_memory_is_refused() {
        let found = parse("[scratch]\nkind = \"tmpfs\"\nsize_mib = 100");
        assert!(matches!(found, Err(ConfigError::Value { key: "scratch.size_mib", .. })));
    }

    #[test]
    fn an_annotation_of_somebody_else_is_refused() {
        let found = parse("allowed_annotations = [\"io.katacontainers.config\"]");
        assert!(matches!(found, Err(ConfigError::Value { key: "allowed_annotations", .. })));
    }
}
