//! What cannot be given to a virtual machine, each in words for who wrote the pod.

use std::path::PathBuf;

/// Why a mount cannot be given to a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Propagation needs one kernel on both sides.
    #[error(
        "mount {destination} asks for {option} propagation (mountPropagation), which does not cross the border of a virtual machine; use None or another runtime class"
    )]
    Propagation {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The option.
        option: String,
    },
    /// Not something with a path on the host, and not something a guest has.
    #[error("mount {destination} has type {kind:?}, which Coffer does not know")]
    Type {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The type.
        kind: String,
    },
    /// Only processes on one kernel can talk over it.
    #[error(
        "mount {destination} is the {what} {path} of the host, whose other end a virtual machine cannot reach; give the pod a network service or a file instead"
    )]
    OneKernel {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// Socket, named pipe or character device.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// The guest has a kernel of its own.
    #[error(
        "mount {destination} shows the {name} file system of the host's kernel ({path}), which a virtual machine does not share; remove this hostPath"
    )]
    HostKernel {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// Name of the file system.
        name: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// Huge pages of the host.
    #[error(
        "mount {destination} is an emptyDir of huge pages, which Coffer cannot give to a guest; use medium Memory"
    )]
    HugePages {
        /// Where it was to be mounted.
        destination: PathBuf,
    },
    /// A character device of the host.
    #[error(
        "device {path} ({major}:{minor}) of the host cannot be given to a virtual machine; only block devices can"
    )]
    Device {
        /// Its path in the container.
        path: PathBuf,
        /// Its major number.
        major: i64,
        /// Its minor number.
        minor: i64,
    },
    /// A bind mount whose source is unknown.
    #[error("mount {destination} has source {path}, which is not an absolute path")]
    Relative {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The source.
        path: PathBuf,
    },
}
