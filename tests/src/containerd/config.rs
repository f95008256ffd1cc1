//! Where one private containerd keeps things, and its configuration.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::version::{Programs, Runtime};
use crate::images::PAUSE;

/// Every tag begins so; the process id of its test follows, a dash, and a number.
pub const TAG: &str = "coffer-test-";
/// Every pods' directory is in here.
pub const PODS: &str = "/run/cf";

/// The directories and names of one private containerd.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Unlike that of any other containerd on the machine; also the containerd namespace and the parent cgroup of what runs.
    pub tag: String,
    /// What is gone after a reboot: sockets, bundles, pods' run directories. Short, because of the length of socket paths.
    pub run: PathBuf,
    /// What takes space: contents, snapshots, the layer cache.
    pub data: PathBuf,
}

impl Layout {
    /// The layout for `tag`.
    pub fn new(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            run: Path::new("/run/coffer-test").join(tag),
            data: Path::new("/var/lib/coffer-test").join(tag),
        }
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("c.sock")
    }

    /// containerd's configuration.
    pub fn containerd_config(&self) -> PathBuf {
        self.data.join("containerd.toml")
    }

    /// Coffer's configuration.
    pub fn coffer_config(&self) -> PathBuf {
        self.data.join("coffer.toml")
    }

    /// What containerd runs for encrypted layers: a link to `coffer`, made where there are any.
    pub fn placeholder_program(&self) -> PathBuf {
        self.data.join("coffer")
    }

    /// Directory of the pods' run directories: the sockets in there leave it few letters.
    pub fn pods(&self) -> PathBuf {
        let short = self.tag.strip_prefix(TAG).unwrap_or(&self.tag);
        Path::new(PODS).join(short)
    }

    /// Whether `text` names something of this containerd.
    pub fn is_marked(&self, text: &str) -> bool {
        self.marks().iter().any(|mark| text.contains(mark))
    }

    /// Texts of which one is in every path, command line or environment that belongs to this containerd.
    pub fn marks(&self) -> [String; 2] {
        [self.tag.clone(), self.pods().display().to_string()]
    }

    /// Directory of what a kubelet would keep for pods: their volumes.
    pub fn kubelet(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    /// Directory of the layer cache.
    pub fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    /// Directory of containerd's bundles in `namespace`.
    pub fn bundles(&self, namespace: &str) -> PathBuf {
        self.run.join("state/io.containerd.runtime.v2.task").join(namespace)
    }

    /// Everything that containerd and its shims logged.
    pub fn log(&self) -> PathBuf {
        self.data.join("containerd.log")
    }

    /// The bridge of the pods' network.
    pub fn bridge(&self) -> String {
        format!("cft{}", self.number())
    }

    /// A number from 0 to 999 made from the tag, for names and networks that have little room.
    fn number(&self) -> u32 {
        self.tag.bytes().fold(7, |sum: u32, byte| (sum * 31 + u32::from(byte)) % 1000)
    }

    fn network(&self) -> String {
        let number = self.number();
        format!("10.{}.{}.0/24", 200 + number / 250, number % 250)
    }
}

/// Writes containerd's configuration and that of the pods' network.
pub fn write_config(layout: &Layout, programs: &Programs) -> Result<()> {
    for directory in [layout.run.clone(), layout.data.join("cni"), layout.pods(), layout.layers()] {
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(layout.containerd_config(), containerd_toml(layout, programs))?;
    fs::write(layout.data.join("cni/10-coffer-test.conflist"), network_json(layout).to_string())?;
    Ok(())
}

/// Version 2 of the configuration: containerd 1.6 knows no later one, and 2.x still reads it.
fn containerd_toml(layout: &Layout, programs: &Programs) -> String {
    let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
    format!(
        r#"version = 2
root = "{data}/root"
state = "{run}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri"]
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
[debug]
level = "warn"
[{cri}]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
tolerate_missing_hugetlb_controller = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
drain_exec_sync_io_timeout = "5s"
[{cri}.cni]
bin_dir = "{cni}"
conf_dir = "{data}/cni"
[{cri}.containerd]
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "{runc_type}"
[{cri}.containerd.runtimes.runc.options]
BinaryName = "{runc}/runc"
[{cri}.containerd.runtimes.coffer]
runtime_type = "{coffer_type}"
pod_annotations = ["io.coffer.*", "io.katacontainers.config.hypervisor.cc_init_data"]
container_annotations = ["io.coffer.*"]
privileged_without_host_devices = true
[{cri}.containerd.runtimes.coffer.options]
TypeUrl = "runtimeoptions.v1.Options"
ConfigPath = "{coffer_config}"
{processors}"#,
        processors = processors(&layout.placeholder_program()),
        data = layout.data.display(),
        run = layout.run.display(),
        socket = layout.socket().display(),
        cni = programs.cni.display(),
        runc = programs.runc.display(),
        coffer_config = layout.coffer_config().display(),
        runc_type = Runtime::Runc.name(),
        coffer_type = Runtime::Coffer.name(),
    )
}

/// What unpacks encrypted layers, as `coffer install` has it.
fn processors(program: &Path) -> String {
    let kinds = [("tar", "tar"), ("tar.gzip", "tar+gzip"), ("tar.zstd", "tar+zstd")];
    let one = |(name, kind): (&str, &str)| {
        format!(
            r#"[stream_processors."io.containerd.ocicrypt.decoder.v1.{name}"]
accepts = ["application/vnd.oci.image.layer.v1.{kind}+encrypted"]
returns = "application/vnd.oci.image.layer.v1.tar"
path = "{}"
args = ["image", "placeholder"]
"#,
            program.display()
        )
    };
    kinds.into_iter().map(one).collect()
}

/// A bridge with addresses from a private range; no masquerading, so nothing is written to the machine's packet filter.
fn network_json(layout: &Layout) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": layout.tag,
        "plugins": [{
            "type": "bridge",
            "bridge": layout.bridge(),
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": layout.run.join("addresses"),
                "ranges": [[{ "subnet": layout.network() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}
