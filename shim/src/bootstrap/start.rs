//! `start`: finds the shim of a container's pod, or starts one.
//!
//! ```text
//! config.json ── sandbox, or no CRI annotation ── listen, spawn the daemon, answer
//!             └─ container of a sandbox        ── the sandbox's shim must answer ── answer its address
//! ```

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::flags::Flags;
use super::socket::{self, Listening, SocketError};
use super::wire::StartInput;
use crate::group::{Group, GroupError};

/// Name of the file in a bundle that tells `delete` which pod the bundle belongs to.
const POD_FILE: &str = "coffer.json";

/// Standard input of `start` that is larger than this is not containerd's.
const MAX_INPUT: u64 = 1 << 20;

/// What `start` leaves in a bundle for `delete` and for the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodFile {
    /// The pod's id.
    pub(crate) pod: String,
    /// Address of the pod's shim.
    pub(crate) address: String,
    /// Path of the configuration, when the runtime options name one.
    pub(crate) config_path: Option<PathBuf>,
    /// containerd's ttrpc address, for events.
    pub(crate) ttrpc_address: Option<String>,
    /// containerd's gRPC address, for images.
    #[serde(default)]
    pub(crate) containerd: Option<String>,
}

/// Why a container has no shim.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The bundle cannot be understood.
    #[error("the bundle {bundle} does not tell which pod the container belongs to")]
    Bundle {
        /// The bundle.
        bundle: PathBuf,
        /// Why.
        source: GroupError,
    },
    /// A container without its sandbox.
    #[error("the shim of sandbox {sandbox} is gone: nobody answers at {address}; the pod must be made anew")]
    SandboxGone {
        /// The sandbox's id.
        sandbox: String,
        /// Where its shim should answer.
        address: String,
    },
    /// The socket could not be made.
    #[error("the shim has no socket")]
    Socket {
        /// Why.
        source: SocketError,
    },
    /// A file could not be written, or the daemon not started.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl PodFile {
    /// Reads the file of a bundle.
    pub(crate) fn load(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.join(POD_FILE)).ok()?).ok()
    }

    fn store(&self, bundle: &Path) -> Result<(), StartError> {
        let path = bundle.join(POD_FILE);
        let bytes = serde_json::to_vec(self).map_err(io::Error::from);
        bytes.and_then(|bytes| fs::write(&path, bytes)).map_err(|source| StartError::Io {
            action: "write",
            path,
            source,
        })
    }
}

/// Answers `start` on standard output.
pub(super) fn start(flags: &Flags) -> anyhow::Result<()> {
    let input = StartInput::parse(&read_input()?);
    let bundle = bundle(flags)?;
    let address = find_or_spawn(flags, &input, &bundle)?;
    // containerd 1.6 finds a running shim again by this file.
    fs::write(bundle.join("address"), &address).context("cannot write the address into the bundle")?;
    io::stdout().write_all(&input.answer(&address)?).context("cannot answer containerd")
}

/// The bundle: containerd starts us in it.
pub(super) fn bundle(flags: &Flags) -> anyhow::Result<PathBuf> {
    match &flags.bundle {
        Some(bundle) => Ok(bundle.clone()),
        None => std::env::current_dir().context("the working directory is gone"),
    }
}

fn read_input() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin.lock().take(MAX_INPUT).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn find_or_spawn(flags: &Flags, input: &StartInput, bundle: &Path) -> Result<String, StartError> {
    let group = Group::of_bundle(&flags.id, bundle)
        .map_err(|source| StartError::Bundle { bundle: bundle.to_owned(), source })?;
    let containerd = input.address.as_deref().unwrap_or(&flags.address);
    let path = socket::path(input.socket_dir.as_deref(), containerd, &flags.namespace, group.pod());
    let pod_file = PodFile {
        pod: group.pod().to_owned(),
        address: socket::address(&path),
        config_path: input.config_path.clone(),
        ttrpc_address: input.ttrpc_address.clone().or_else(|| std::env::var("TTRPC_ADDRESS").ok()),
        containerd: Some(containerd.to_owned()),
    };
    pod_file.store(bundle)?;
    if let Group::Member { sandbox } = &group {
        if socket::answers(&path) {
            return Ok(pod_file.address);
        }
        return Err(StartError::SandboxGone { sandbox: sandbox.clone(), address: pod_file.address });
    }
    match socket::listen(&path).map_err(|source| StartError::Socket { source })? {
        Listening::Taken => {}
        Listening::New(listener) => spawn(flags, input.debug, bundle, listener.into())?,
    }
    Ok(pod_file.address)
}

/// Starts the daemon with the listening socket as its standard input.
fn spawn(flags: &Flags, debug: bool, bundle: &Path, listener: OwnedFd) -> Result<(), StartError> {
    let program = PathBuf::from("/proc/self/exe");
    let failed = |source| StartError::Io { action: "start", path: program.clone(), source };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address]);
    if flags.debug || debug {
        command.arg("-debug");
    }
    let child = command
        .current_dir(bundle)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    adjust_oom_score(child.id());
    Ok(())
}

/// One more than our own, which is containerd's: the daemon goes before containerd does. A refusal is no reason to
/// fail the pod: not every host lets root lower or raise it.
fn adjust_oom_score(pid: u32) {
    let ours =
        fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = ours {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), (score + 1).min(1000).to_string());
    }
}
