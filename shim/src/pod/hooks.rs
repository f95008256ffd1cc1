//! The hooks that a specification wants run on the host, and the process that stands for the container meanwhile.
//!
//! Docker and nerdctl set a container's network up in such a hook: they enter the network namespace of the pid in the
//! state that the hook reads. A container in a virtual machine has no process on the host, so one of ours holds the
//! namespace and does nothing else.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oci_spec::runtime::Hook;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::PodError;
use crate::hold;

/// How long a hook without a time limit of its own may take.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// The longest limit that a specification may set.
const MAX_LIMIT: Duration = Duration::from_secs(120);

/// How long the holder may take to be in its namespace.
const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a failed hook's output that go into the error.
const MAX_OUTPUT: usize = 2000;

/// A process in the pod's network namespace. It ends with this value, and with the shim.
#[derive(Debug)]
pub(super) struct Holder {
    child: Child,
    pid: u32,
}

impl Holder {
    /// Starts a holder in the namespace at `netns`, or in a new one.
    pub(super) async fn start(netns: Option<&Path>) -> Result<Self, PodError> {
        let doing = "hold the pod's network namespace";
        let failed = |err| PodError::host(doing, err);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg(hold::WORD).args(netns);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        if let Some(mut ready) = child.stdout.take() {
            let byte = timeout(HOLD_LIMIT, ready.read_u8()).await;
            byte.map_err(|_| PodError::Late { doing, limit: HOLD_LIMIT })?.map_err(failed)?;
        }
        Ok(Self { child, pid })
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its namespace.
    pub(super) fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Ends it.
    pub(super) async fn end(&mut self) {
        let _ = self.child.kill().await;
    }
}

/// Runs hooks in their order; the first one that fails ends the start.
pub(super) async fn run(hooks: &[Hook], id: &str, bundle: &Path, pid: u32) -> Result<(), PodError> {
    let state = json!({ "ociVersion": "1.0.2", "id": id, "status": "created", "pid": pid, "bundle": bundle });
    for hook in hooks {
        run_one(hook, &state.to_string()).await?;
    }
    Ok(())
}

async fn run_one(hook: &Hook, state: &str) -> Result<(), PodError> {
    let doing = "run a hook of the container";
    let failed = |err| PodError::host(doing, err);
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(args);
    }
    let env = hook.env().iter().flatten().filter_map(|pair| pair.split_once('='));
    command.env_clear().envs(env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its state.
        let _ = stdin.write_all(state.as_bytes()).await;
    }
    let limit = hook.timeout().and_then(|s| u64::try_from(s).ok()).map_or(DEFAULT_LIMIT, Duration::from_secs);
    let limit = limit.min(MAX_LIMIT);
    let output =
        timeout(limit, child.wait_with_output()).await.map_err(|_| PodError::Late { doing, limit })?;
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(text.get(..MAX_OUTPUT).unwrap_or(&text)).into_owned();
    let what = format!("hook {} failed with {}: {}", hook.path().display(), output.status, text.trim());
    Err(PodError::Refused { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let value = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": timeout });
        serde_json::from_value(value).unwrap()
    }

    async fn run_script(script: &str, timeout: Option<i64>) -> Result<(), PodError> {
        run(&[hook(script, timeout)], "c", Path::new("/b"), 42).await
    }

    #[tokio::test]
    async fn a_hook_reads_the_pid_of_the_namespaces_holder() {
        assert!(run_script("grep -q '\"pid\":42'", None).await.is_ok());
    }

    #[tokio::test]
    async fn a_hook_that_does_not_read_its_state_is_no_error() {
        assert!(run_script("exit 0", None).await.is_ok());
    }

    #[tokio::test]
    async fn a_failing_hook_tells_what_it_said() {
        let error = run_script("echo no bridge >&2; exit 3", None).await.unwrap_err().to_string();
        assert!(error.contains("no bridge"), "{error}");
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_given_up() {
        assert!(matches!(run_script("exec sleep 60", Some(1)).await, Err(PodError::Late { .. })));
    }
}
