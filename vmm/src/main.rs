//! `coffer-vmm`: the processes of a machine that touch the guest's memory. Started by the shim, never by hand.
//!
//! ```text
//! coffer-vmm vsock --socket-fd N --listen-fd N --control-fd N --guest-cid N --dial PATH --uid N --parent PID
//! ```

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use coffer_vmm::inherited::Inherited;
use coffer_vmm::jail;
use coffer_vmm::vsock::{self, MAX_CONNECTIONS, Setup};

/// Descriptors that are not the host's sockets: the standard three, QEMU's, the rings', the guest's memory, some spare.
const OTHER_FILES: usize = 64;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("vsock") => run_vsock(&Options::parse(arguments)?),
        _ => bail!(
            "usage: coffer-vmm vsock --socket-fd N --listen-fd N --control-fd N --guest-cid N --dial PATH --uid N --parent PID"
        ),
    }
}

fn run_vsock(options: &Options) -> anyhow::Result<ExitCode> {
    let mut inherited = Inherited::default();
    let mut take = |name| -> anyhow::Result<OwnedFd> {
        let number: RawFd = options.get(name)?;
        inherited.take(number).with_context(|| name.to_owned())
    };
    let (qemu, listener, control) = (take("--socket-fd")?, take("--listen-fd")?, take("--control-fd")?);
    let files = usize::try_from(jail::limit_resources()?).unwrap_or(usize::MAX);
    let setup = Setup {
        qemu: UnixStream::from(qemu),
        listener: UnixListener::from(listener),
        control,
        guest_cid: options.get("--guest-cid")?,
        dial: options.get::<PathBuf>("--dial")?,
        limit: MAX_CONNECTIONS.min(files.saturating_sub(OTHER_FILES)),
    };
    jail::drop_privileges(options.get("--uid")?, options.get("--parent")?)?;
    jail::allow_only(vsock::allowed().context("system call filter")?)?;
    let counts = match vsock::serve(setup) {
        Ok(counts) => counts,
        Err(error) => {
            // Not by way of anyhow: it might look for a backtrace, which means to open files.
            eprintln!("coffer-vmm: {}", chain(&error));
            return Ok(ExitCode::FAILURE);
        }
    };
    if counts != vsock::Counts::default() {
        eprintln!("coffer-vmm: the guest's sockets: {counts}");
    }
    Ok(ExitCode::SUCCESS)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Pairs of `--name value`, each name once.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
        let mut options = BTreeMap::new();
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} lacks its value"))?;
            if options.insert(name.clone(), value).is_some() {
                bail!("{name} is given twice");
            }
        }
        Ok(Options(options))
    }

    fn get<T: FromStr>(&self, name: &str) -> anyhow::Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let value = self.0.get(name).with_context(|| format!("{name} is missing"))?;
        value.parse().with_context(|| format!("{name} {value:?} is not understood"))
    }
}
