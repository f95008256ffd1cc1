//! The vsock device as a process of its own, for a machine that QEMU runs.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use coffer_vmm::inherited::Inherited;
use coffer_vmm::jail;
use coffer_vmm::options::Options;
use coffer_vmm::vsock::{self, MAX_CONNECTIONS, Setup};

use crate::chain;

pub(crate) const USAGE: &str =
    "vsock --socket-fd N --listen-fd N --control-fd N --guest-cid N --dial PATH --uid N --parent PID";

/// Descriptors that are not the host's sockets: the standard three, QEMU's, the rings', the guest's memory, some spare.
const OTHER_FILES: usize = 64;

pub(crate) fn run(mut options: Options) -> anyhow::Result<ExitCode> {
    let mut inherited = Inherited::default();
    let mut take = |name| -> anyhow::Result<OwnedFd> {
        let number: RawFd = options.take(name)?;
        inherited.take(number).context(name)
    };
    let (qemu, listener, control) = (take("--socket-fd")?, take("--listen-fd")?, take("--control-fd")?);
    let files = usize::try_from(jail::limit_resources()?).unwrap_or(usize::MAX);
    let setup = Setup {
        qemu: UnixStream::from(qemu),
        listener: UnixListener::from(listener),
        control,
        guest_cid: options.take("--guest-cid")?,
        dial: options.take::<PathBuf>("--dial")?,
        limit: MAX_CONNECTIONS.min(files.saturating_sub(OTHER_FILES)),
    };
    let (uid, parent) = (options.take("--uid")?, options.take("--parent")?);
    options.finish()?;
    jail::drop_privileges(uid, parent)?;
    jail::report_refused_calls().context("cannot catch refused system calls")?;
    jail::allow_only(&vsock::allowed())?;
    let counts = match vsock::serve(setup) {
        Ok(counts) => counts,
        Err(error) => {
            eprintln!("coffer-vmm: {}", chain(&error));
            return Ok(ExitCode::FAILURE);
        }
    };
    if counts != vsock::Counts::default() {
        eprintln!("coffer-vmm: the guest's sockets: {counts}");
    }
    Ok(ExitCode::SUCCESS)
}
