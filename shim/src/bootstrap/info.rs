//! `-v` and `-info`: what this runtime is and can do. containerd runs `-info` for every task, so nothing is looked up.

use std::io::{self, Write};

use anyhow::Context;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::json;

/// The runtime's name in containerd's configuration.
const NAME: &str = "io.containerd.coffer.v2";

/// Type under which containerd decodes the features.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints the version for people.
pub(super) fn print_version() -> anyhow::Result<()> {
    println!("{}:\n  Version:  {}", env!("CARGO_BIN_NAME"), env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Prints `RuntimeInfo` for containerd.
pub(super) fn print_info() -> anyhow::Result<()> {
    io::stdout().write_all(&runtime_info()?.write_to_bytes()?).context("cannot print the runtime's features")
}

fn runtime_info() -> anyhow::Result<RuntimeInfo> {
    let features = Any {
        type_url: FEATURES_TYPE.to_owned(),
        value: serde_json::to_vec(&features())?,
        ..Default::default()
    };
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
    Ok(RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(version).into(),
        features: Some(features).into(),
        ..Default::default()
    })
}

/// The OCI runtime-spec's `features.md` structure.
fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime"],
        "mountOptions": [
            "bind", "defaults", "dev", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nosuid", "private",
            "rbind", "relatime", "ro", "rprivate", "rw", "strictatime", "suid"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": { "v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": { "enabled": true },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_are_json_of_the_type_that_containerd_decodes() {
        let info = runtime_info().unwrap();
        let features = info.features.unwrap();
        assert_eq!(features.type_url, FEATURES_TYPE);
        assert!(serde_json::from_slice::<oci_spec::runtime::Features>(&features.value).is_ok());
    }

    #[test]
    fn idmapped_mounts_are_not_promised() {
        assert_eq!(features()["linux"]["mountExtensions"]["idmap"]["enabled"], false);
    }
}
