//! Why a call about the pod was refused.

use crate::container::{self, ContainerError};
use crate::image::{DeliveryError, ImageError, VerityError};
use crate::sandbox::SandboxError;
use crate::volume::{self, VolumeError};

/// Why a call about the pod was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// A field of the request makes no sense.
    #[error("{field} is {value:?}, expected {expected}")]
    Field { field: &'static str, value: String, expected: &'static str },
    /// The sandbox comes first.
    #[error("the sandbox is not ready: call CreateSandbox first, and only once")]
    NoSandbox,
    /// There is one sandbox in a guest.
    #[error("the sandbox exists already")]
    SandboxExists,
    /// The sandbox could not be prepared.
    #[error("preparing the sandbox")]
    Sandbox { source: Box<SandboxError> },
    /// No such container.
    #[error("container {id} is not known")]
    NoContainer { id: String },
    /// No such process.
    #[error("process {exec:?} of container {id} is not known")]
    NoProcess { id: String, exec: String },
    /// The id is taken.
    #[error("container {id} exists already")]
    ContainerExists { id: String },
    /// A process that runs cannot be deleted.
    #[error("process {exec:?} of container {id} has not exited; kill it and wait for it first")]
    StillRunning { id: String, exec: String },
    /// The root file system.
    #[error("root file system of container {id}")]
    Image { id: String, source: Box<ImageError> },
    /// A volume.
    #[error("volume")]
    Volume { source: Box<VolumeError> },
    /// The container runtime's own reasons.
    #[error("container {id}")]
    Container { id: String, source: Box<ContainerError> },
    /// A call was cut off, because its task ended without a result.
    #[error("{what} was cut off")]
    CutOff { what: &'static str },
}

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    DeadlineExceeded,
    PermissionDenied,
    Internal,
}

impl PodError {
    /// For `map_err`: what the container runtime says about container `id`.
    pub(super) fn container<E: Into<ContainerError>>(id: &str) -> impl Fn(E) -> PodError {
        let id = id.to_owned();
        move |error| PodError::Container { id: id.clone(), source: Box::new(error.into()) }
    }

    /// For `map_err`: why the root file system of container `id` is not there.
    pub(super) fn image(id: &str) -> impl Fn(ImageError) -> PodError {
        let id = id.to_owned();
        move |error| PodError::Image { id: id.clone(), source: Box::new(error) }
    }

    /// For `map_err`: what the volumes say.
    pub(crate) fn volume(error: VolumeError) -> PodError {
        PodError::Volume { source: Box::new(error) }
    }

    /// For `map_err`: why the sandbox is not as it should be.
    pub(super) fn sandbox(error: SandboxError) -> PodError {
        PodError::Sandbox { source: Box::new(error) }
    }

    /// Whether a layer that was not taken for this may be sent again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            PodError::Image { source, .. } => {
                matches!(&**source, ImageError::Delivery(error) if !error.is_final())
            }
            _ => false,
        }
    }

    /// The class of this error.
    pub(crate) fn class(&self) -> Class {
        match self {
            PodError::Field { .. } => Class::InvalidArgument,
            PodError::NoSandbox | PodError::StillRunning { .. } => Class::FailedPrecondition,
            PodError::SandboxExists | PodError::ContainerExists { .. } => Class::AlreadyExists,
            PodError::NoContainer { .. } | PodError::NoProcess { .. } => Class::NotFound,
            PodError::Image { source, .. } => of_image(source),
            PodError::Sandbox { source } => of_sandbox(source),
            PodError::CutOff { .. } => Class::Internal,
            PodError::Volume { source } => of_volume(source.kind()),
            PodError::Container { source, .. } => of_container(source.kind()),
        }
    }
}

fn of_sandbox(error: &SandboxError) -> Class {
    match error {
        // What is missing is the verifier's word, and nothing here is broken.
        SandboxError::Attestation { .. } => Class::FailedPrecondition,
        SandboxError::ImagePolicy { .. } => Class::InvalidArgument,
        SandboxError::Unsaid { .. } | SandboxError::Misnamed { .. } => Class::PermissionDenied,
        SandboxError::Hostname { .. }
        | SandboxError::Directory { .. }
        | SandboxError::Memory { .. }
        | SandboxError::NoScratch { .. }
        | SandboxError::Scratch { .. }
        | SandboxError::Encrypted { .. }
        | SandboxError::Network { .. }
        | SandboxError::Sysctl(_) => Class::Internal,
    }
}

fn of_image(error: &ImageError) -> Class {
    match error {
        ImageError::NoLayer | ImageError::TooManyLayers { .. } => Class::InvalidArgument,
        ImageError::Gate(_) | ImageError::Disks { .. } => Class::PermissionDenied,
        ImageError::Sealed { source, .. } => match source {
            VerityError::Short { .. } | VerityError::Other { .. } => Class::PermissionDenied,
            VerityError::Read { .. } | VerityError::Device { .. } => Class::Internal,
        },
        ImageError::Delivery(error) => of_delivery(error),
        ImageError::Disk { .. }
        | ImageError::Layer { .. }
        | ImageError::Directory { .. }
        | ImageError::CutOff
        | ImageError::Overlay { .. } => Class::Internal,
    }
}

fn of_delivery(error: &DeliveryError) -> Class {
    match error {
        DeliveryError::Missing { .. } => Class::FailedPrecondition,
        error if error.is_final() => Class::PermissionDenied,
        _ => Class::Internal,
    }
}

fn of_volume(kind: volume::ErrorKind) -> Class {
    match kind {
        volume::ErrorKind::InvalidArgument => Class::InvalidArgument,
        volume::ErrorKind::NotFound => Class::NotFound,
        volume::ErrorKind::AlreadyExists => Class::AlreadyExists,
        volume::ErrorKind::FailedPrecondition => Class::FailedPrecondition,
        volume::ErrorKind::DeadlineExceeded => Class::DeadlineExceeded,
        volume::ErrorKind::Internal => Class::Internal,
    }
}

fn of_container(kind: container::ErrorKind) -> Class {
    match kind {
        container::ErrorKind::InvalidArgument => Class::InvalidArgument,
        container::ErrorKind::NotFound => Class::NotFound,
        container::ErrorKind::AlreadyExists => Class::AlreadyExists,
        container::ErrorKind::FailedPrecondition => Class::FailedPrecondition,
        container::ErrorKind::Internal => Class::Internal,
    }
}
