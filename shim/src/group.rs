//! Which pod a container belongs to, told by the annotations of containerd's and CRI-O's CRI implementations.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A spec larger than this is not one that containerd wrote.
const MAX_SPEC: u64 = 16 << 20;

const TYPE_KEYS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
const SANDBOX_KEYS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// A container's place in its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Group {
    /// The sandbox container of a CRI pod.
    Sandbox {
        /// Its id, which is the pod's.
        id: String,
    },
    /// A further container of a CRI pod.
    Member {
        /// Id of the pod's sandbox container.
        sandbox: String,
    },
    /// A container that is a pod of its own (`ctr`, `nerdctl`, docker).
    Single {
        /// Its id, which is the pod's.
        id: String,
    },
}

/// Why a bundle does not tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// No `config.json`: containerd's `sandboxer = "shim"` does that.
    #[error(
        "there is no {path}: with containerd's sandboxer = \"shim\" Coffer cannot run; set sandboxer = \"podsandbox\""
    )]
    NoSpec {
        /// The missing file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is no OCI spec.
    #[error("{path} is not an OCI runtime spec")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// A container type that CRI does not have.
    #[error("container type {found:?} is unknown: sandbox and container are the types")]
    UnknownType {
        /// As annotated.
        found: String,
    },
    /// A container of a pod that does not name its sandbox, or names it by something that is no id.
    #[error("the container's annotation names sandbox {found:?}, which is no container id")]
    BadSandbox {
        /// As annotated.
        found: String,
    },
}

#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

impl Group {
    /// Reads a bundle's `config.json`.
    pub(crate) fn of_bundle(id: &str, bundle: &Path) -> Result<Self, GroupError> {
        let path = bundle.join("config.json");
        let bytes = match std::fs::metadata(&path).map(|meta| meta.len()) {
            Ok(size) if size > MAX_SPEC => Err(io::ErrorKind::FileTooLarge.into()),
            Ok(_) => std::fs::read(&path),
            Err(err) => Err(err),
        };
        let bytes = bytes.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => GroupError::NoSpec { path: path.clone() },
            _ => GroupError::Read { path: path.clone(), source },
        })?;
        let spec: Annotated =
            serde_json::from_slice(&bytes).map_err(|source| GroupError::Malformed { path, source })?;
        Self::of_annotations(id, &spec.annotations.unwrap_or_default())
    }

    /// Decides by a container's annotations.
    pub(crate) fn of_annotations(
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Self, GroupError> {
        let first = |keys: [&str; 2]| keys.iter().find_map(|key| annotations.get(*key));
        match first(TYPE_KEYS).map(String::as_str) {
            None => Ok(Group::Single { id: id.to_owned() }),
            Some("sandbox") => Ok(Group::Sandbox { id: id.to_owned() }),
            Some("container") => {
                let sandbox = first(SANDBOX_KEYS).cloned().unwrap_or_default();
                if is_id(&sandbox) {
                    Ok(Group::Member { sandbox })
                } else {
                    Err(GroupError::BadSandbox { found: sandbox })
                }
            }
            Some(found) => Err(GroupError::UnknownType { found: found.to_owned() }),
        }
    }

    /// The pod's id.
    pub(crate) fn pod(&self) -> &str {
        match self {
            Group::Sandbox { id } | Group::Single { id } => id,
            Group::Member { sandbox } => sandbox,
        }
    }
}

fn is_id(word: &str) -> bool {
    (1..=128).contains(&word.len())
        && !word.starts_with('.')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> Result<Group, GroupError> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Group::of_annotations("c", &map)
    }

    #[test]
    fn a_container_without_annotations_is_its_own_pod() {
        assert_eq!(annotated(&[]).unwrap(), Group::Single { id: "c".to_owned() });
    }

    #[test]
    fn a_container_of_containerds_cri_joins_its_sandbox() {
        let group = annotated(&[
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-id", "s"),
        ]);
        assert_eq!(group.unwrap(), Group::Member { sandbox: "s".to_owned() });
    }

    #[test]
    fn a_container_of_cri_o_joins_its_sandbox() {
        let group = annotated(&[
            ("io.kubernetes.cri-o.ContainerType", "container"),
            ("io.kubernetes.cri-o.SandboxID", "s"),
        ]);
        assert_eq!(group.unwrap().pod(), "s");
    }

    #[test]
    fn a_sandbox_is_its_own_pod() {
        let group = annotated(&[
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-id", "x"),
        ]);
        assert_eq!(group.unwrap(), Group::Sandbox { id: "c".to_owned() });
    }

    #[test]
    fn a_sandbox_id_that_climbs_out_is_refused() {
        let group = annotated(&[
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-id", "../x"),
        ]);
        assert!(matches!(group, Err(GroupError::BadSandbox { .. })));
    }

    #[test]
    fn an_unknown_container_type_is_refused() {
        let group = annotated(&[("io.kubernetes.cri.container-type", "pod")]);
        assert!(matches!(group, Err(GroupError::UnknownType { .. })));
    }

    #[test]
    fn a_bundle_without_a_spec_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let error = Group::of_bundle("c", dir.path()).unwrap_err();
        assert!(error.to_string().contains("sandboxer"));
    }

    #[test]
    fn a_corrupt_spec_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(matches!(Group::of_bundle("c", dir.path()), Err(GroupError::Malformed { .. })));
    }
}
