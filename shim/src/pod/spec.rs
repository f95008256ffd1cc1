//! A container's OCI specification: what the host keeps of it, what the guest gets of it, and what is refused.
//!
//! What names a thing of the host (paths of namespaces and cgroups, CPU numbers, labels) means nothing inside the
//! guest and is taken out. What would need the host's own kernel is refused here, before anything is made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use coffer_node::layers::RootfsMount;
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Spec};

use super::error::PodError;
use super::sizing::Limits;
use crate::group::Group;
use crate::volume::{Kubelet, Plan};

/// The annotations that the guest is told: what the pod's author calls the container.
const NAMES: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];

/// A specification that the guest can run.
#[derive(Debug, Clone)]
pub(super) struct HostSpec {
    spec: Spec,
}

impl HostSpec {
    /// Reads a bundle's `config.json`.
    pub(super) fn load(bundle: &Path) -> Result<Self, PodError> {
        let path = bundle.join("config.json");
        let what = || path.display().to_string();
        let bytes = std::fs::read(&path)
            .map_err(|err| PodError::Malformed { what: what(), source: Box::new(err) })?;
        let spec = serde_json::from_slice(&bytes)
            .map_err(|err| PodError::Malformed { what: what(), source: Box::new(err) })?;
        Ok(Self { spec })
    }

    /// The annotations.
    pub(super) fn annotations(&self) -> HashMap<String, String> {
        self.spec.annotations().clone().unwrap_or_default()
    }

    /// Refuses what a virtual machine cannot do.
    pub(super) fn check(&self, group: &Group) -> Result<(), PodError> {
        if self.spec.linux().is_none() || self.spec.process().is_none() {
            return Err(refused(
                "the specification has no linux section or no process: it is not for a Linux container",
            ));
        }
        if !self.has(LinuxNamespaceType::Network) {
            return Err(refused(
                "a virtual machine cannot share the host's network (hostNetwork, --net-host): use another runtime class for this pod",
            ));
        }
        if matches!(group, Group::Sandbox { .. }) && self.netns().is_none() {
            return Err(refused(
                "the pod has no network namespace of its own (hostNetwork), which a virtual machine cannot share",
            ));
        }
        if !matches!(group, Group::Member { .. }) {
            if !self.has(LinuxNamespaceType::Pid) {
                return Err(refused(
                    "a virtual machine cannot share the host's processes (hostPID): use another runtime class",
                ));
            }
            if !self.has(LinuxNamespaceType::Ipc) {
                return Err(refused(
                    "a virtual machine cannot share the host's IPC (hostIPC): use another runtime class",
                ));
            }
        }
        self.check_mounts()?;
        self.check_hooks()
    }

    fn check_mounts(&self) -> Result<(), PodError> {
        let shared = |mount: &&Mount| {
            mount.options().iter().flatten().any(|option| matches!(option.as_str(), "shared" | "rshared"))
        };
        match self.spec.mounts().iter().flatten().find(shared) {
            None => Ok(()),
            Some(mount) => Err(refused(&format!(
                "mount {} has bidirectional propagation, which cannot reach from a virtual machine to the host",
                mount.destination().display()
            ))),
        }
    }

    fn check_hooks(&self) -> Result<(), PodError> {
        let Some(hooks) = self.spec.hooks() else { return Ok(()) };
        let inside = [
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        match inside.iter().find(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty())) {
            None => Ok(()),
            Some((name, _)) => Err(refused(&format!(
                "{name} hooks are not supported: they would run beside a root file system that only the guest has"
            ))),
        }
    }

    /// Path of the network namespace that the container is to join, if it has a path.
    pub(super) fn netns(&self) -> Option<PathBuf> {
        self.namespace(LinuxNamespaceType::Network)
    }

    /// The root file system: what containerd mounts, or the directory that the specification names.
    pub(super) fn rootfs(&self, mounts: &[RootfsMount], bundle: &Path) -> Vec<RootfsMount> {
        let directory = self.spec.root().as_ref().map(|root| bundle.join(root.path()));
        match directory {
            Some(directory) if mounts.is_empty() && holds_something(&directory) => {
                let source = directory.display().to_string();
                vec![RootfsMount { fs_type: "bind".to_owned(), source, options: vec!["rbind".to_owned()] }]
            }
            _ => mounts.to_vec(),
        }
    }

    /// Hooks that run on the host before the container's process: prestart, then createRuntime.
    pub(super) fn host_hooks(&self) -> Vec<oci_spec::runtime::Hook> {
        let Some(hooks) = self.spec.hooks() else { return Vec::new() };
        #[allow(deprecated)] // Docker and nerdctl still set the network up in prestart hooks.
        let lists = [hooks.prestart(), hooks.create_runtime()];
        lists.into_iter().flatten().flatten().cloned().collect()
    }

    /// The host name.
    pub(super) fn hostname(&self) -> String {
        self.spec.hostname().clone().unwrap_or_default()
    }

    /// Kernel parameters of the pod.
    pub(super) fn sysctls(&self) -> HashMap<String, String> {
        self.linux().and_then(|linux| linux.sysctl().clone()).unwrap_or_default()
    }

    /// Where the container's cgroup would be on the host.
    pub(super) fn cgroups_path(&self) -> Option<String> {
        self.linux()?.cgroups_path().as_ref().map(|path| path.display().to_string())
    }

    /// The limits of a container that is a pod of its own.
    pub(super) fn limits(&self) -> Limits {
        let Some(resources) = self.linux().and_then(|linux| linux.resources().as_ref()) else {
            return Limits::default();
        };
        let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        let cpu = resources.cpu().as_ref();
        Limits {
            memory_bytes: resources.memory().as_ref().and_then(|m| m.limit()).and_then(positive),
            cpu_quota_us: cpu.and_then(|cpu| cpu.quota()).and_then(positive),
            cpu_period_us: cpu.and_then(|cpu| cpu.period()),
            cpu_shares: cpu.and_then(|cpu| cpu.shares()),
        }
    }

    /// What the mounts and devices become in the guest.
    pub(super) fn plan_volumes(&self) -> Result<Plan, PodError> {
        let plan = Plan::of(&self.spec, &Kubelet::default());
        plan.map_err(|err| PodError::Malformed {
            what: "a mount or device of the specification".to_owned(),
            source: Box::new(err),
        })
    }

    /// The specification in the guest's terms, as JSON, with the plan's mounts and devices in place of the host's.
    pub(super) fn for_guest(&self, plan: &Plan) -> Result<Vec<u8>, PodError> {
        let mut spec = self.spec.clone();
        plan.write(&mut spec);
        let named = self.annotations().into_iter().filter(|(key, _)| NAMES.contains(&key.as_str())).collect();
        spec.set_hooks(None).set_annotations(Some(named)).set_hostname(None).set_domainname(None);
        if let Some(process) = spec.process_mut() {
            process.set_apparmor_profile(None).set_selinux_label(None);
        }
        if let Some(linux) = spec.linux_mut() {
            strip_linux(linux);
        }
        serde_json::to_vec(&spec).map_err(|err| PodError::host("write the guest's specification", err))
    }

    fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }

    fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.linux()
            .and_then(|l| l.namespaces().as_ref())
            .is_some_and(|list| list.iter().any(|ns| ns.typ() == kind))
    }

    fn namespace(&self, kind: LinuxNamespaceType) -> Option<PathBuf> {
        let namespaces = self.linux()?.namespaces().as_ref()?;
        let path = namespaces.iter().find(|ns| ns.typ() == kind)?.path().clone()?;
        (!path.as_os_str().is_empty()).then_some(path)
    }
}

/// containerd makes an empty directory in every bundle to mount the root file system on: that alone is none.
fn holds_something(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Takes out what is of the host. All containers of a pod share the guest's network, host name and IPC.
fn strip_linux(linux: &mut Linux) {
    linux.set_cgroups_path(None).set_sysctl(None).set_intel_rdt(None).set_mount_label(None);
    let of_guest = |kind: LinuxNamespaceType| {
        !matches!(kind, LinuxNamespaceType::Network | LinuxNamespaceType::Uts | LinuxNamespaceType::Ipc)
    };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    // A pid namespace keeps its path: it says to the agent that the container joins its pod's.
    namespaces.retain(|ns| of_guest(ns.typ()));
    // On a node with cgroup v1 containerd asks for none. The guest always has v2, where a container without one would
    // not find its own limits below /sys/fs/cgroup.
    namespaces.retain(|ns| ns.typ() != LinuxNamespaceType::Cgroup);
    namespaces.push(own_cgroup_namespace());
    linux.set_namespaces(Some(namespaces));
    if let Some(resources) = linux.resources_mut() {
        strip_resources(resources);
    }
}

fn own_cgroup_namespace() -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(LinuxNamespaceType::Cgroup);
    namespace
}

/// CPU and memory node numbers of the host mean nothing in the guest.
pub(super) fn strip_resources(resources: &mut LinuxResources) {
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
    }
}

fn refused(what: &str) -> PodError {
    PodError::Refused { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> HostSpec {
        let mut value = json!({
            "ociVersion": "1.0.2",
            "process": { "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/", "apparmorProfile": "x" },
            "root": { "path": "rootfs" },
            "hostname": "h",
            "linux": {
                "cgroupsPath": "/kubepods/x",
                "resources": { "cpu": { "cpus": "0-3", "mems": "0", "quota": 20000 } },
                "namespaces": [
                    { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
                    { "type": "network", "path": "/run/netns/a" }
                ]
            }
        });
        change(&mut value);
        HostSpec { spec: serde_json::from_value(value).unwrap() }
    }

    fn single() -> Group {
        Group::Single { id: "c".to_owned() }
    }

    fn without(kind: &str) -> HostSpec {
        spec(|value| {
            let list = value["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|ns| ns["type"] != kind);
        })
    }

    fn guest(spec: &HostSpec) -> Value {
        serde_json::from_slice(&spec.for_guest(&Plan::default()).unwrap()).unwrap()
    }

    #[test]
    fn an_ordinary_specification_is_accepted() {
        assert!(spec(|_| {}).check(&single()).is_ok());
    }

    #[test]
    fn a_container_has_a_cgroup_namespace_though_the_node_asks_for_none() {
        let guest = guest(&without("cgroup"));
        let namespaces = guest["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.iter().any(|ns| ns["type"] == "cgroup"));
    }

    #[test]
    fn the_hosts_network_is_refused() {
        assert!(without("network").check(&single()).unwrap_err().to_string().contains("hostNetwork"));
    }

    #[test]
    fn a_sandbox_without_a_network_namespace_is_refused() {
        let spec = spec(|value| value["linux"]["namespaces"][4] = json!({ "type": "network" }));
        assert!(spec.check(&Group::Sandbox { id: "s".to_owned() }).is_err());
    }

    #[test]
    fn a_container_without_a_network_is_its_own_pod_without_a_network() {
        let spec = spec(|value| value["linux"]["namespaces"][4] = json!({ "type": "network" }));
        assert!(spec.check(&single()).is_ok());
        assert_eq!(spec.netns(), None);
    }

    #[test]
    fn the_hosts_processes_are_refused() {
        assert!(without("pid").check(&single()).unwrap_err().to_string().contains("hostPID"));
    }

    #[test]
    fn the_hosts_ipc_is_refused() {
        assert!(without("ipc").check(&single()).unwrap_err().to_string().contains("hostIPC"));
    }

    #[test]
    fn bidirectional_propagation_is_refused() {
        let spec = spec(|value| {
            value["mounts"] = json!([{ "destination": "/m", "type": "bind", "source": "/s", "options": ["rbind", "rshared"] }]);
        });
        assert!(spec.check(&single()).unwrap_err().to_string().contains("bidirectional"));
    }

    #[test]
    fn hooks_that_would_run_inside_are_refused() {
        let spec = spec(|value| value["hooks"] = json!({ "startContainer": [{ "path": "/bin/x" }] }));
        assert!(spec.check(&single()).is_err());
    }

    #[test]
    fn the_guest_gets_no_path_of_the_host() {
        let guest = guest(&spec(|_| {}));
        assert_eq!(
            guest["linux"]["namespaces"],
            json!([{ "type": "pid" }, { "type": "mount" }, { "type": "cgroup" }])
        );
        assert_eq!(guest["linux"].get("cgroupsPath"), None);
        assert_eq!(guest["process"].get("apparmorProfile"), None);
    }

    #[test]
    fn the_guest_gets_the_quota_but_not_the_hosts_cpu_numbers() {
        assert_eq!(guest(&spec(|_| {}))["linux"]["resources"]["cpu"], json!({ "quota": 20000 }));
    }

    #[test]
    fn a_directory_named_by_the_specification_is_the_root_when_nothing_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("rootfs/bin")).unwrap();
        let rootfs = spec(|_| {}).rootfs(&[], dir.path());
        assert_eq!(rootfs[0].source, dir.path().join("rootfs").display().to_string());
    }

    #[test]
    fn what_containerd_mounts_goes_before_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let mounts =
            [RootfsMount { fs_type: "overlay".to_owned(), source: "o".to_owned(), options: Vec::new() }];
        assert_eq!(spec(|_| {}).rootfs(&mounts, dir.path()), mounts);
    }

    #[test]
    fn the_mount_point_in_the_bundle_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        assert!(spec(|_| {}).rootfs(&[], dir.path()).is_empty());
    }

    #[test]
    fn a_root_that_is_not_there_is_no_root() {
        assert!(spec(|_| {}).rootfs(&[], Path::new("/no/such/bundle")).is_empty());
    }

    #[test]
    fn a_capability_that_does_not_exist_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"cwd":"/","capabilities":{"bounding":["CAP_FLY"]}}}"#;
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        assert!(matches!(HostSpec::load(dir.path()), Err(PodError::Malformed { .. })));
    }
}
