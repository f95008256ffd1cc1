//! A pod and its containers through the CRI, removed in the kubelet's order.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::begin::Node;
use crate::cri::Cri;
use crate::cri::messages::{
    CONTAINER, ContainerConfig, ContainerMetadata, ContainerSecurity, ContainerStatus, ImageSpec,
    LinuxContainerConfig, LinuxSandboxConfig, NamespaceOption, SandboxConfig, SandboxMetadata,
    SandboxSecurity,
};
use crate::images::BUSYBOX;
use crate::wait;

/// How long a container may take to end once it has been told to, or was made to.
const END: Duration = Duration::from_secs(60);

/// The CRI's number of an exited container.
const EXITED: i32 = 2;

/// A running pod.
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What it was made of; a container's creation takes it again.
    pub config: SandboxConfig,
    /// The server that it was made by.
    pub cri: Cri,
    containers: Vec<String>,
}

/// A pod's configuration as a kubelet makes it, with the log directory below the node's own directory.
pub fn sandbox(node: &Node, name: &str) -> SandboxConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let options = NamespaceOption { pid: CONTAINER, ..NamespaceOption::default() };
    SandboxConfig {
        metadata: Some(SandboxMetadata {
            name: name.into(),
            uid: format!("uid-{number}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs(node, name).display().to_string(),
        linux: Some(LinuxSandboxConfig {
            cgroup_parent: format!("/{}", node.layout.tag),
            security_context: Some(SandboxSecurity {
                namespace_options: Some(options),
                ..SandboxSecurity::default()
            }),
            ..LinuxSandboxConfig::default()
        }),
        ..SandboxConfig::default()
    }
}

/// A container's configuration as a kubelet makes it: the busybox image and `command`, with its log in the pod's directory.
pub fn container(name: &str, command: &[&str]) -> ContainerConfig {
    let options = NamespaceOption { pid: CONTAINER, ..NamespaceOption::default() };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: BUSYBOX.into() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            resources: None,
            security_context: Some(ContainerSecurity {
                namespace_options: Some(options),
                ..ContainerSecurity::default()
            }),
        }),
        ..ContainerConfig::default()
    }
}

fn logs(node: &Node, name: &str) -> PathBuf {
    node.layout.data.join("logs").join(name)
}

impl Pod {
    /// Makes and starts a pod with the node's runtime.
    pub fn start(node: &Node, config: SandboxConfig) -> Result<Self> {
        fs::create_dir_all(&config.log_directory)?;
        let cri = node.cri();
        let id = cri.run_sandbox(&config, node.runtime.handler())?;
        Ok(Self { id, config, cri, containers: Vec::new() })
    }

    /// The same pod, whose calls may take as long as `limit`.
    pub fn patient(self, limit: Duration) -> Self {
        Self { cri: self.cri.patient(limit), ..self }
    }

    /// Makes and starts a container.
    pub fn run(&mut self, config: &ContainerConfig) -> Result<String> {
        let id = self.create(config)?;
        self.cri.start(&id)?;
        Ok(id)
    }

    /// Makes a container.
    pub fn create(&mut self, config: &ContainerConfig) -> Result<String> {
        let id = self.cri.create(&self.id, &self.config, config)?;
        self.containers.push(id.clone());
        Ok(id)
    }

    /// Runs `command` in a container and returns its standard output; fails unless it exits with 0.
    pub fn sh(&self, container: &str, command: &str) -> Result<String> {
        let ended = self.cri.exec(container, &["sh", "-c", command], None)?;
        let output = String::from_utf8_lossy(&ended.stdout).into_owned();
        if ended.exit_code != 0 {
            bail!(
                "{command:?} ended with {}: {output}{}",
                ended.exit_code,
                String::from_utf8_lossy(&ended.stderr)
            );
        }
        Ok(output)
    }

    /// Waits until a container has ended, and says how.
    pub fn wait(&self, container: &str) -> Result<ContainerStatus> {
        wait::until("a container to end", END, || {
            let status = self.cri.status(container)?;
            Ok((status.state == EXITED).then_some(status))
        })
    }

    /// What a container of the name `name` has written: the texts of its log, without time and stream.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = PathBuf::from(&self.config.log_directory).join(format!("{name}.log"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let texts = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default());
        Ok(texts.collect::<Vec<_>>().join("\n"))
    }

    /// Stops and removes one container.
    pub fn remove_container(&mut self, container: &str) -> Result<()> {
        self.cri.stop(container, Duration::ZERO)?;
        self.cri.remove(container)?;
        self.containers.retain(|id| id != container);
        Ok(())
    }

    /// Stops and removes everything, in the kubelet's order.
    pub fn remove(mut self) -> Result<()> {
        for container in std::mem::take(&mut self.containers) {
            self.cri.stop(&container, Duration::ZERO)?;
        }
        self.cri.stop_sandbox(&self.id)?;
        self.cri.remove_sandbox(&self.id)
    }
}
