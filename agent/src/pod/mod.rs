//! The pod: its sandbox and its containers by id, each made of an image, volumes, streams and processes.
//!
//! ```text
//! Pod::prepare ── sandbox                       Absent → Preparing → Ready | Failed
//! Pod::admit   ── gate                          before any byte of an image is taken
//! Pod::create  ── seat, volumes, image, container::Runtime, streams     any failure gives all of it back
//! Pod::exec, process, delete                    found by id; what they do is the container's own business
//! ```
//!
//! No lock is held while anything is awaited, so no container waits for another. Nothing here knows the wire.

mod admissions;
mod containers;
mod end;
mod error;
mod events;
mod mounts;
mod sandbox;
mod secrets;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use admissions::Admissions;
pub(crate) use admissions::Admitted;
pub(crate) use containers::{NewContainer, NewProcess, ProcessId, Status};
pub(crate) use error::{Class, PodError};
pub(crate) use events::{Event, Events};
pub(crate) use usage::{Usage, usage};

use crate::attest::Attested;
use crate::container::{Container, Runtime, SharedPidNamespace};
use crate::gate::Gate;
use crate::image::{Images, Rootfs};
use crate::local::Door;
use crate::stream::Registry;
use crate::volume::Volumes;

/// The pod of this guest; clones share it.
#[derive(Clone)]
pub(crate) struct Pod {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    images: Images,
    volumes: Volumes,
    streams: Registry,
    events: Events,
    stage: Mutex<Stage>,
    /// The process id namespace that containers join who name one; made for the first of them.
    shared_pids: tokio::sync::OnceCell<SharedPidNamespace>,
    containers: Mutex<HashMap<String, Seat>>,
    /// What the guest is to its verifier; nothing without a secure processor.
    attested: std::sync::OnceLock<Arc<Attested>>,
    /// Made with the sandbox.
    gate: std::sync::OnceLock<Arc<Gate>>,
    admissions: Admissions,
}

/// How far the sandbox is.
enum Stage {
    Absent,
    Preparing,
    Ready { pid_namespace: Option<SharedPidNamespace> },
    Failed,
}

/// A container's place in the table.
enum Seat {
    /// It is being made.
    Taken,
    /// It is there.
    Filled(Arc<Occupant>),
}

struct Occupant {
    container: Container,
    /// Taken by the one that unmounts it.
    rootfs: Mutex<Option<Rootfs>>,
    /// Where it asks for secrets, if it may; closed with it.
    door: Mutex<Option<Door>>,
}
