//! What a pod's machine gets of a secure processor: decided before anything is made, served from before the boot on.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use coffer_attestation::handshake::{InitData, InitDataError};
use coffer_attestation::sim::{Debug, Launch};
use coffer_guest_image::measure::MeasureError;
use coffer_node::tee::{Simulated, SimulatedError, Tee};
use coffer_protocol::agent::Attestation;
use coffer_protocol::{PROCESSOR_PORT, VERIFIER_PORT};
use coffer_vmm::spec::VmSpec;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::door::{Door, HostKey};
use super::measured::{Measured, measure};
use super::{initdata, processor, proxy};
use crate::hypervisor::listen_for_guest;

/// How the agent knows the simulated processor.
const SIM: &str = "sim";

/// Why a pod has no secure processor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TeeError {
    /// Initdata, and nobody who would vouch for it.
    #[error(
        "the pod has initdata (annotation {key}), and machines of this node have no secure processor: \
         the operator may set tee.kind"
    )]
    NoProcessor {
        /// The annotation.
        key: &'static str,
    },
    /// Two annotations that differ.
    #[error("the pod has two annotations with initdata, which differ: leave one out")]
    TwoInitData,
    /// An annotation that cannot be read.
    #[error("annotation {key} holds no initdata: {reason}")]
    InitData {
        /// The annotation.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A digest that HOST_DATA has no room for, or too much.
    #[error("the processor cannot vouch for the pod's initdata")]
    HostData(#[source] InitDataError),
    /// What boots could not be read.
    #[error("cannot measure {path}")]
    Measure {
        /// What.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A machine that has no digest.
    #[error("the machine cannot be measured")]
    Unmeasurable(#[source] MeasureError),
    /// The seed of this node.
    #[error("this node's simulated processor cannot be used")]
    Processor(#[source] SimulatedError),
    /// No randomness.
    #[error("there is no randomness to name the launch with, or for the agent's key")]
    Randomness {
        /// The operating system's answer.
        source: io::Error,
    },
    /// A socket.
    #[error("cannot listen for the guest on port {port}")]
    Listen {
        /// The port.
        port: u32,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// What a pod gets.
pub(crate) struct Plan {
    simulated: Simulated,
    verifier: Option<Arc<str>>,
    initdata: Option<InitData>,
    host_data: [u8; 32],
    key: HostKey,
}

/// Serves a guest as long as this lives. What was measured is held until the machine has booted from it.
pub(crate) struct Served {
    _tasks: JoinSet<()>,
    _measured: Measured,
}

impl Plan {
    /// For a pod with these annotations; `None` where there is no secure processor.
    ///
    /// # Errors
    /// [`TeeError`]
    pub(crate) fn new(tee: &Tee, annotations: &HashMap<String, String>) -> Result<Option<Self>, TeeError> {
        let Some(simulated) = tee.simulated.clone() else {
            let given = initdata::ANNOTATIONS.into_iter().find(|key| annotations.contains_key(*key));
            return given.map_or(Ok(None), |key| Err(TeeError::NoProcessor { key }));
        };
        let initdata = initdata::of(annotations)?;
        let host_data = initdata.as_ref().map(InitData::field).transpose().map_err(TeeError::HostData)?;
        let verifier = tee.verifier.as_deref().map(Arc::from);
        let key = HostKey(random()?);
        Ok(Some(Self { simulated, verifier, initdata, host_data: host_data.unwrap_or([0; 32]), key }))
    }

    /// Measures `spec` and answers its guest from now on. `spec` then boots what was measured.
    ///
    /// # Errors
    /// [`TeeError`]
    pub(crate) async fn serve(&self, spec: &mut VmSpec) -> Result<Served, TeeError> {
        let measured = measure(spec).await?;
        let debug = if self.simulated.debug { Debug::Allowed } else { Debug::Off };
        // A name for this launch, unlike any other's.
        let instance = random()?;
        let launch = Launch { measurement: measured.digest, host_data: self.host_data, debug, instance };
        tracing::warn!(
            measurement = hex::encode(launch.measurement),
            host_data = hex::encode(launch.host_data),
            "the pod's secure processor is SIMULATED: it proves nothing about this machine"
        );
        let played = self.simulated.processor().map_err(TeeError::Processor)?;
        let mut tasks = JoinSet::new();
        let door = |port| listen(spec, port).map(|listener| Door::new(listener, self.key));
        tasks.spawn(processor::serve(door(PROCESSOR_PORT)?, Arc::new(played), launch));
        if let Some(address) = &self.verifier {
            tasks.spawn(proxy::serve(door(VERIFIER_PORT)?, address.clone()));
        }
        Ok(Served { _tasks: tasks, _measured: measured })
    }

    /// What the agent is told.
    pub(crate) fn message(&self) -> Attestation {
        let initdata = self.initdata.as_ref().map(|data| data.body().as_bytes().to_vec());
        Attestation {
            tee: SIM.to_owned(),
            initdata: initdata.unwrap_or_default(),
            host_key: self.key.0.to_vec(),
            ..Default::default()
        }
    }
}

fn random() -> Result<[u8; 32], TeeError> {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    filled.map_err(|error| TeeError::Randomness { source: error.into() })?;
    Ok(bytes)
}

fn listen(spec: &VmSpec, port: u32) -> Result<UnixListener, TeeError> {
    listen_for_guest(&spec.run_dir, spec.uid, port).map_err(|source| TeeError::Listen { port, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initdata_is_refused_where_nobody_would_vouch_for_it() {
        let annotations = HashMap::from([("io.coffer.initdata".to_owned(), "x".to_owned())]);
        let refused = Plan::new(&Tee::default(), &annotations);
        assert!(matches!(refused, Err(TeeError::NoProcessor { key: "io.coffer.initdata" })));
        assert!(Plan::new(&Tee::default(), &HashMap::new()).unwrap().is_none());
    }
}
