//! Turns a specification's mounts of pod-level volumes into places in the guest.

use std::path::PathBuf;

use super::{Pod, PodError};
use crate::container::{ContainerSpec, MountSource};

impl Pod {
    /// Replaces each `coffer-volume:<id>[/<path>]` by where that is.
    pub(super) async fn resolve_mounts(&self, spec: &mut ContainerSpec) -> Result<(), PodError> {
        let mut devices = Vec::new();
        for mount in &mut spec.mounts {
            let MountSource::Path(source) = &mount.source else { continue };
            let Some(source) = source.to_str() else { continue };
            let resolved = self.shared.volumes.resolve(source).await;
            if let Some(location) = resolved.map_err(PodError::volume)? {
                devices.extend(location.device);
                // The kernel looks up no empty path; the volume itself is its own directory.
                let path =
                    if location.path.as_os_str().is_empty() { PathBuf::from(".") } else { location.path };
                mount.source = MountSource::Inside { root: location.root, path };
            }
        }
        devices
            .iter()
            .for_each(|device| spec.allow_block_device((device.major, device.minor), !device.read_only));
        Ok(())
    }
}
