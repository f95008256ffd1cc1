//! Turns the mounts and devices of a container's specification into the guest's, and lists the volumes they need.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};

use super::classify::{MountRequest, Placed, classify_bind, classify_internal, disk, is_guest_device};
use super::content::{BlockDevice, Root, VolumePlan};
use super::facts::{self, FactsError, Part, Source};
use super::kubelet::Kubelet;
use super::part::find_part;
use super::refused::Refused;

/// What a container's mounts and devices become.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// The mounts in the guest's terms.
    pub(crate) mounts: Vec<Mount>,
    /// Devices that the guest's own kernel has.
    pub(crate) devices: Vec<LinuxDevice>,
    /// Volumes that must be there before the container is created; each id once.
    pub(crate) volumes: Vec<VolumePlan>,
    /// Size of the pod's `/dev/shm`, if a mount tells it.
    pub(crate) shm_bytes: Option<u64>,
}

/// Why a container's mounts cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// A virtual machine cannot do it.
    #[error("the container cannot be given to a virtual machine")]
    Refused {
        /// Why.
        source: Refused,
    },
    /// The source of a mount.
    #[error("mount {destination} cannot be made")]
    Source {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// What is wrong with its source.
        source: FactsError,
    },
}

impl Plan {
    /// Plans for a specification, looking at each source on the host.
    pub(crate) fn of(spec: &Spec, kubelet: &Kubelet) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        for mount in spec.mounts().iter().flatten() {
            let placed = place(&request(mount), kubelet)?;
            plan.shm_bytes = plan.shm_bytes.or(placed.shm_bytes);
            plan.need(placed.volume);
            let mut guest = mount.clone();
            guest
                .set_typ(Some(placed.kind))
                .set_source(Some(placed.source.into()))
                .set_options(Some(placed.options));
            plan.mounts.push(guest);
        }
        let linux = spec.linux().as_ref();
        let rules = linux.and_then(|linux| linux.resources().as_ref()?.devices().clone()).unwrap_or_default();
        for device in linux.into_iter().flat_map(|linux| linux.devices().iter().flatten()) {
            plan.device(device, &rules).map_err(refuse)?;
        }
        Ok(plan)
    }

    /// Writes the plan into a specification that is on its way to the guest.
    pub(crate) fn write(&self, spec: &mut Spec) {
        spec.set_mounts(Some(self.mounts.clone()));
        let Some(linux) = spec.linux_mut() else { return };
        if linux.devices().is_some() {
            linux.set_devices(Some(self.devices.clone()));
        }
        let Some(resources) = linux.resources_mut() else { return };
        let rules: Option<Vec<_>> = resources
            .devices()
            .as_ref()
            .map(|rules| rules.iter().filter(|rule| holds_in_guest(rule)).cloned().collect());
        resources.set_devices(rules);
    }

    fn need(&mut self, volume: Option<VolumePlan>) {
        if let Some(volume) = volume
            && self.volumes.iter().all(|known| known.id != volume.id)
        {
            self.volumes.push(volume);
        }
    }

    /// A block device becomes a volume that is mounted where the node would be.
    fn device(&mut self, device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> Result<(), Refused> {
        let (major, minor) = (device.major(), device.minor());
        if device.typ() == LinuxDeviceType::P
            || (device.typ() != LinuxDeviceType::B && is_guest_device(major, minor))
        {
            self.devices.push(device.clone());
            return Ok(());
        }
        let refused = || Refused::Device { path: device.path().clone(), major, minor };
        if device.typ() != LinuxDeviceType::B {
            return Err(refused());
        }
        let number = |n: i64| u32::try_from(n).map_err(|_| refused());
        let block = BlockDevice { major: number(major)?, minor: number(minor)? };
        let node = Root {
            mode: device.file_mode().unwrap_or(0o660) & 0o777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        };
        let volume = disk(block, !may_write(rules, device), node);
        let mut mount = Mount::default();
        mount
            .set_destination(device.path().clone())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(format!("{}{}", coffer_protocol::VOLUME_SOURCE, volume.id).into()))
            .set_options(Some(vec!["bind".to_owned()]));
        self.mounts.push(mount);
        self.need(Some(volume));
        Ok(())
    }
}

fn refuse(source: Refused) -> PlanError {
    PlanError::Refused { source }
}

/// Looks at a mount's source and classifies it.
fn place(mount: &MountRequest, kubelet: &Kubelet) -> Result<Placed, PlanError> {
    if !mount.is_bind() {
        return classify_internal(mount).map_err(refuse);
    }
    let looked = look(&mount.source, kubelet);
    let source =
        looked.map_err(|source| PlanError::Source { destination: mount.destination.clone(), source })?;
    classify_bind(mount, &source, kubelet).map_err(refuse)
}

/// Looks at a source; of kubelet's bind mount of a part of a volume, at the volume too.
fn look(path: &Path, kubelet: &Kubelet) -> Result<Source, FactsError> {
    let mut source = facts::look(path)?;
    if let Some((volumes, name)) = kubelet.volume_of_sub_path(path) {
        source.part = part(path, &volumes, &name);
    }
    Ok(source)
}

/// Whatever cannot be read here makes the part unknown, and the mount a share of its own.
fn part(path: &Path, volumes: &Path, name: &str) -> Option<Part> {
    let plugins = std::fs::read_dir(volumes).ok()?.filter_map(Result::ok);
    let named: Vec<PathBuf> =
        plugins.map(|plugin| plugin.path().join(name)).filter(|path| path.is_dir()).collect();
    let real = |path: &PathBuf| std::fs::canonicalize(path).ok();
    let candidates: Vec<PathBuf> = named.iter().filter_map(real).collect();
    let mountinfo = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    let (found, inside) = find_part(&mountinfo, &std::fs::canonicalize(path).ok()?, &candidates)?;
    let volume = named.iter().find(|path| real(path).as_deref() == Some(found))?.clone();
    let of = Box::new(facts::look(&volume).ok()?);
    Some(Part { volume, path: inside, of })
}

fn request(mount: &Mount) -> MountRequest {
    MountRequest {
        destination: mount.destination().clone(),
        kind: mount.typ().clone().unwrap_or_default(),
        source: mount.source().clone().unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
    }
}

/// Whether the container's device rules let it write to a device; no rule for it means they do.
fn may_write(rules: &[LinuxDeviceCgroup], device: &LinuxDevice) -> bool {
    let of_device = |rule: &&LinuxDeviceCgroup| {
        rule.allow() && rule.major() == Some(device.major()) && rule.minor() == Some(device.minor())
    };
    let access = rules.iter().rfind(of_device).and_then(|rule| rule.access().clone());
    access.is_none_or(|access| access.contains('w'))
}

/// A rule that names a device of the host by its numbers would mean another device in the guest.
fn holds_in_guest(rule: &LinuxDeviceCgroup) -> bool {
    /// Pseudo-terminals: major 136, any minor.
    const PTS: i64 = 136;
    match (rule.allow(), rule.major(), rule.minor()) {
        (false, ..) | (true, None | Some(-1 | PTS), _) => true,
        (true, Some(major), Some(minor)) => {
            rule.typ() != Some(LinuxDeviceType::B) && is_guest_device(major, minor)
        }
        (true, Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::Content;
    use super::*;
    use serde_json::{Value, json};

    fn planned(spec: Value, kubelet: &Path) -> Result<(Plan, Value), PlanError> {
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        let plan = Plan::of(&spec, &Kubelet::at(kubelet.to_owned()))?;
        plan.write(&mut spec);
        Ok((plan, serde_json::to_value(&spec).unwrap()))
    }

    fn bind(source: &Path, destination: &str) -> Value {
        json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"] })
    }

    fn block_device(access: &str) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "linux": {
                "devices": [
                    { "path": "/dev/data", "type": "b", "major": 8, "minor": 16, "uid": 5 },
                    { "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200 }
                ],
                "resources": { "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
                    { "allow": true, "type": "b", "major": 8, "minor": 16, "access": access }
                ] }
            }
        })
    }

    #[test]
    fn two_mounts_of_one_source_need_one_volume() {
        let dir = tempfile::tempdir().unwrap();
        let spec =
            json!({ "ociVersion": "1.0.2", "mounts": [bind(dir.path(), "/a"), bind(dir.path(), "/b")] });
        let (plan, written) = planned(spec, Path::new("/k")).unwrap();
        assert_eq!(plan.volumes.len(), 1);
        assert_eq!(written["mounts"][0]["source"], format!("coffer-volume:{}", plan.volumes[0].id));
        assert_eq!(written["mounts"][1]["source"], written["mounts"][0]["source"]);
    }

    #[test]
    fn a_missing_source_names_the_mount() {
        let spec = json!({ "ociVersion": "1.0.2", "mounts": [bind(Path::new("/not/there"), "/data")] });
        let error = planned(spec, Path::new("/k")).unwrap_err();
        assert_eq!(error.to_string(), "mount /data cannot be made");
    }

    #[test]
    fn a_block_device_becomes_a_mounted_node_and_its_host_rule_goes() {
        let (plan, written) = planned(block_device("rwm"), Path::new("/k")).unwrap();
        let node = Root { mode: 0o660, uid: 5, gid: 0 };
        let device = BlockDevice { major: 8, minor: 16 };
        assert_eq!(plan.volumes[0].content, Content::Disk { device, read_only: false, node });
        assert_eq!(written["mounts"][0]["destination"], "/dev/data");
        assert_eq!(written["linux"]["devices"].as_array().unwrap().len(), 1);
        assert_eq!(written["linux"]["resources"]["devices"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_block_device_that_may_only_be_read_is_attached_read_only() {
        let (plan, _) = planned(block_device("rm"), Path::new("/k")).unwrap();
        assert!(matches!(plan.volumes[0].content, Content::Disk { read_only: true, .. }));
    }

    #[test]
    fn a_character_device_of_the_host_is_refused() {
        let device = json!({ "path": "/dev/kvm", "type": "c", "major": 10, "minor": 232 });
        let spec = json!({ "ociVersion": "1.0.2", "linux": { "devices": [device] } });
        assert!(matches!(
            planned(spec, Path::new("/k")),
            Err(PlanError::Refused { source: Refused::Device { .. } })
        ));
    }

    #[test]
    fn a_sub_path_of_an_empty_directory_is_the_pods_volume_and_a_path_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let kubelet = dir.path().canonicalize().unwrap();
        let volume = kubelet.join("pods/u/volumes/kubernetes.io~empty-dir/cache");
        let sub = kubelet.join("pods/u/volume-subpaths/cache/app/0");
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir_all(&sub).unwrap();
        let spec = json!({ "ociVersion": "1.0.2", "mounts": [bind(&volume, "/all"), bind(&sub, "/part")] });

        let (plan, written) = in_mount_namespace(|| {
            rustix::mount::mount_bind(volume.join("a/b"), &sub).unwrap();
            planned(spec, &kubelet).unwrap()
        });

        assert_eq!(plan.volumes.len(), 1);
        assert_eq!(written["mounts"][1]["source"], format!("coffer-volume:{}/a/b", plan.volumes[0].id));
    }

    /// Runs on a thread with mounts of its own, as root.
    fn in_mount_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                    .expect("this test mounts, so it needs root");
                let private =
                    rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                work()
            });
            run.join().unwrap()
        })
    }
}
