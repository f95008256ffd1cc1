//! Starts a node, hands it to a test, ends it, and fails the test for whatever is left.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::alone::{Turn, lacking, take_turn};
use super::kept;
use crate::artefacts::{Coffer, coffer, target};
use crate::containerd::{Daemon, Layout, Programs, Runtime, TAG, Version, write_config};
use crate::cri::Cri;
use crate::images::{self, BUSYBOX, PAUSE};
use crate::leftovers::{self, Inventory, Kind};
use crate::packages::{Unpacked, unpacked};
use crate::progress::say;
use crate::run::{Ended, Run, tail};
use crate::wait;

/// What the issue promises: everything of a pod is gone this long after its cleanup.
const CLEAN_WITHIN: Duration = Duration::from_secs(5);
/// A container's start in an emulated guest on a busy machine.
const CTR_LIMIT: Duration = Duration::from_secs(120);

/// A node with a containerd of its own.
pub struct Node {
    /// Where its containerd keeps things.
    pub layout: Layout,
    /// Which containerd it is.
    pub version: Version,
    /// What runs its containers.
    pub runtime: Runtime,
    programs: Programs,
    coffer: Option<Coffer>,
    runsc: Option<PathBuf>,
    daemon: Option<Daemon>,
    before: Inventory,
    _turn: Turn,
}

/// Why a test failed: the whole chain of errors, without the test runner's own frames.
pub struct Failure(String);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs `test` on a fresh node. On a machine that lacks something for it, says so and does not run it.
///
/// Fails when `test` fails, and when anything is left of its pods five seconds after it has ended.
pub fn with_node(
    version: Version,
    runtime: Runtime,
    test: impl FnOnce(&mut Node) -> Result<()>,
) -> Result<(), Failure> {
    if let Some(reason) = lacking() {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        say(&format!("skipped: {name}: {reason}"));
        return Ok(());
    }
    on_node(version, runtime, test).map_err(|error| Failure(format!("{error:#}")))
}

/// Like [`with_node`], but a machine that lacks something is an error.
pub fn on_node(version: Version, runtime: Runtime, work: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if let Some(reason) = lacking() {
        bail!("this machine cannot have a node: {reason}");
    }
    let mut node = match kept::take(version, runtime)? {
        Some(node) => node,
        None => Node::begin(version, runtime)?,
    };
    let worked = work(&mut node);
    let log = node.layout.log();
    let passed = worked.and_then(|()| node.nothing_left());
    if passed.is_err() {
        let name = std::thread::current().name().unwrap_or("node").to_owned();
        say(&format!("{name} failed; the end of its containerd's log:\n{}", tail(&log)));
        node.keep_log(&name);
    } else if kept::wanted() {
        kept::keep(node);
        return Ok(());
    }
    let ended = node.end();
    passed?;
    ended
}

impl Node {
    fn begin(version: Version, runtime: Runtime) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = take_turn()?;
        let programs = version.programs()?;
        let coffer = if runtime == Runtime::Coffer { Some(coffer()?) } else { None };
        let tag = format!("{TAG}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let layout = Layout::new(&tag);
        write_config(&layout, &programs)?;
        let runsc = match runtime {
            Runtime::Runsc => Some(runsc_without_network(&layout)?),
            Runtime::Coffer | Runtime::Runc => None,
        };
        let before = Inventory::default();
        let mut node =
            Self { layout, version, runtime, programs, coffer, runsc, daemon: None, before, _turn: turn };
        node.install_binaries()?;
        node.write_coffer_config(&[])?;
        node.start_containerd()?;
        node.import_images()?;
        node.before = Inventory::take(&node.layout);
        Ok(node)
    }

    /// Starts containerd, also after [`Node::stop_containerd`].
    pub fn start_containerd(&mut self) -> Result<()> {
        let first: Vec<PathBuf> = self.coffer.iter().map(|_| self.binaries()).collect();
        self.daemon = Some(Daemon::start(&self.layout, &self.programs, &first)?);
        wait::until("containerd's CRI to be ready", Duration::from_secs(60), || {
            Ok(self.cri().ready().and_then(|()| self.cri().version()).ok())
        })?;
        Ok(())
    }

    /// Stops containerd and leaves its pods alone.
    pub fn stop_containerd(&mut self) -> Result<()> {
        self.daemon.take().context("containerd is not running")?.stop()
    }

    /// Kills containerd and leaves its pods alone.
    pub fn kill_containerd(&mut self) -> Result<()> {
        self.daemon.take().context("containerd is not running")?.kill()
    }

    /// Its CRI.
    pub fn cri(&self) -> Cri {
        Cri::new(self.layout.socket())
    }

    /// `ctr` with `arguments`, in the namespace of this node's own containers.
    pub fn ctr<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        self.ctr_in(&self.layout.tag, arguments)
    }

    /// `ctr` with `arguments` in another namespace: `k8s.io` is the CRI's.
    pub fn ctr_in<S: AsRef<OsStr>>(&self, namespace: &str, arguments: impl IntoIterator<Item = S>) -> Run {
        let run = Run::new(self.ctr_program()).limit(CTR_LIMIT).arg("--address").arg(self.layout.socket());
        run.args(["--namespace", namespace]).args(arguments)
    }

    /// `ctr` itself.
    fn ctr_program(&self) -> PathBuf {
        self.programs.containerd.join("ctr")
    }

    /// `ctr run` with this node's runtime and the busybox image; `flags` come before image and id.
    pub fn ctr_run(&self, flags: &[&str], id: &str, command: &[&str]) -> Run {
        let run = self.ctr(["run", "--runtime", self.runtime.name()]);
        let run = match &self.runsc {
            Some(runsc) => run.arg("--runc-binary").arg(runsc),
            None => run,
        };
        run.args(flags).args([BUSYBOX, id]).args(command)
    }

    /// Starts a container in the background and returns when its process runs.
    pub fn ctr_run_detached(&self, flags: &[&str], id: &str, command: &[&str]) -> Result<()> {
        let flags: Vec<&str> = ["--detach"].iter().chain(flags).copied().collect();
        self.ctr_run(&flags, id, command).text().map(drop)
    }

    /// Runs `command` in the running container `id`.
    pub fn ctr_exec(&self, id: &str, exec: &str, command: &[&str]) -> Result<Ended> {
        let fixed = ["task", "exec", "--exec-id", exec, id];
        self.ctr(fixed.iter().chain(command)).end()
    }

    /// Kills the container's process, waits until containerd sees it stopped, and deletes task and container.
    pub fn ctr_remove(&self, id: &str) -> Result<()> {
        if self.task_state(id)?.as_deref() != Some("STOPPED") {
            self.ctr(["task", "kill", "--signal", "SIGKILL", id]).text()?;
        }
        self.wait_for_state(id, "STOPPED")?;
        self.ctr(["task", "delete", id]).end()?;
        self.ctr(["container", "delete", id]).text().map(drop)
    }

    /// The state of the container's task as `ctr task list` names it; nothing when there is no task.
    pub fn task_state(&self, id: &str) -> Result<Option<String>> {
        let list = self.ctr(["task", "list"]).text()?;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        Ok(line.and_then(|line| line.split_whitespace().nth(2)).map(str::to_owned))
    }

    /// Waits until the container's task is in `state`.
    pub fn wait_for_state(&self, id: &str, state: &str) -> Result<()> {
        wait::until(&format!("{id} to be {state}"), Duration::from_secs(30), || {
            Ok((self.task_state(id)?.as_deref() == Some(state)).then_some(()))
        })
    }

    /// Directory of this node's own copies of Coffer's programs: the workspace may lie where a pod's user cannot go.
    pub fn binaries(&self) -> PathBuf {
        self.layout.data.join("bin")
    }

    fn install_binaries(&self) -> Result<()> {
        let Some(coffer) = &self.coffer else { return Ok(()) };
        fs::create_dir_all(self.binaries())?;
        for name in ["containerd-shim-coffer-v2", "coffer-vmm", "coffer", "coffer-verifier"] {
            let from = coffer.binaries.join(name);
            fs::copy(&from, self.binaries().join(name)).with_context(|| format!("no {}", from.display()))?;
        }
        Ok(())
    }

    /// Writes Coffer's configuration with `changes`: keys with their table (`paths.qemu`) and values as TOML has them.
    pub fn write_coffer_config(&self, changes: &[(&str, &str)]) -> Result<()> {
        let Some(coffer) = &self.coffer else { return Ok(()) };
        let text = |path: &Path| toml::Value::from(path.display().to_string());
        let mut paths = toml::Table::new();
        paths.insert("vmm".into(), text(&self.binaries().join("coffer-vmm")));
        paths.insert("guest_dir".into(), text(&coffer.guest));
        paths.insert("layers_dir".into(), text(&self.layout.layers()));
        paths.insert("run_dir".into(), text(&self.layout.pods()));
        let mut table = toml::Table::new();
        table.insert("log_level".into(), "debug".into());
        table.insert("paths".into(), paths.into());
        let mut image = toml::Table::new();
        image.insert("signatures".into(), text(&self.layout.data.join("signatures")));
        table.insert("image".into(), image.into());
        for (key, value) in changes {
            let parsed: toml::Table = format!("{key} = {value}").parse()?;
            merge(&mut table, parsed);
        }
        fs::write(self.layout.coffer_config(), table.to_string())
            .context("cannot write coffer's configuration")
    }

    /// `coffer`.
    pub fn coffer_program(&self) -> PathBuf {
        self.binaries().join("coffer")
    }

    /// `coffer` with this node's configuration.
    pub fn coffer_command(&self) -> Run {
        Run::new(self.coffer_program()).arg("--config").arg(self.layout.coffer_config())
    }

    /// A guest image of this node's own, to be changed: a copy in its directory, by the name `name`.
    pub fn copied_guest(&self, name: &str) -> Result<PathBuf> {
        let copy = self.layout.data.join(name);
        fs::create_dir_all(&copy)?;
        for entry in fs::read_dir(self.guest()?)? {
            let entry = entry?;
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
        Ok(copy)
    }

    /// The guest image that this node's pods boot.
    pub fn guest(&self) -> Result<&Path> {
        Ok(&self.coffer.as_ref().context("a node without coffer has no guest image")?.guest)
    }

    /// What is on the node now and was not there before the test.
    pub fn added(&self) -> Inventory {
        Inventory::take(&self.layout).added_since(&self.before)
    }

    /// Fails unless, within five seconds, nothing of any pod is on the node.
    pub fn nothing_left(&self) -> Result<()> {
        // The bridge stays for the next pod; a link joined to it does not.
        let clean = wait::until_true("the node to be clean", CLEAN_WITHIN, || self.added().is_empty());
        if clean.is_err() {
            let added = self.added();
            bail!("{} s after the last cleanup there is still:\n{added}", CLEAN_WITHIN.as_secs());
        }
        Ok(())
    }

    fn import_images(&self) -> Result<()> {
        let directory = target().join("coffer-images");
        fs::create_dir_all(&directory)?;
        for (file, name, image) in
            [("busybox.tar", BUSYBOX, images::busybox as fn() -> _), ("pause.tar", PAUSE, images::pause)]
        {
            let archive = directory.join(file);
            image()?.write(&archive)?;
            for namespace in [self.layout.tag.as_str(), "k8s.io"] {
                self.ctr_in(namespace, ["images", "import"])
                    .arg(&archive)
                    .text()
                    .with_context(|| format!("cannot import {name}"))?;
            }
            wait::until_true("the CRI to know the image", Duration::from_secs(20), || {
                self.cri().has_image(name).unwrap_or(false)
            })?;
        }
        Ok(())
    }

    fn keep_log(&self, test: &str) {
        let place = target().join("coffer-test-logs");
        let kept = place.join(format!("{}.log", test.replace("::", "-")));
        let copied = fs::create_dir_all(&place).and_then(|()| fs::copy(self.layout.log(), &kept));
        match copied {
            Ok(_) => say(&format!("the whole log: {}", kept.display())),
            Err(error) => say(&format!("the log could not be kept: {error}")),
        }
    }

    pub(super) fn end(mut self) -> Result<()> {
        let stopped = self.daemon.take().map_or(Ok(()), Daemon::stop);
        let left = Inventory::take(&self.layout).only(&[Kind::Process, Kind::Cgroup, Kind::LoopDevice]);
        leftovers::remove(&self.layout)?;
        stopped?;
        if left.is_empty() {
            return Ok(());
        }
        bail!("after containerd had stopped there was still:\n{left}")
    }
}

/// A script that runs gVisor's `runsc` with the loopback interface only. containerd's runc shim cannot pass that flag on, and
/// runsc takes a pod's network namespace for the node's where the kernel shows `net.core.rmem_default` in both.
fn runsc_without_network(layout: &Layout) -> Result<PathBuf> {
    let runsc = unpacked(Unpacked::Runsc)?.join("usr/bin/runsc");
    let script = layout.data.join("runsc");
    fs::write(&script, format!("#!/bin/sh\nexec {} --network=none \"$@\"\n", runsc.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A path as TOML has it.
pub fn quoted(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}
