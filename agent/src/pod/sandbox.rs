//! The pod's one sandbox.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use super::{Admissions, Events, Pod, PodError, Shared, Stage};
use crate::attest::{Launched, SecureProcessor, processor_present};
use crate::container::{Runtime, SharedPidNamespace};
use crate::gate::Gate;
use crate::image::Images;
use crate::network;
use crate::sandbox::{self, SandboxError, Settings};
use crate::stream::Registry;
use crate::volume::Volumes;

impl Pod {
    /// A pod without sandbox or containers.
    pub(crate) fn new(runtime: Runtime) -> Self {
        let shared = Shared {
            runtime,
            images: Images::new(Path::new(sandbox::RUN), Path::new(sandbox::SCRATCH)),
            volumes: Volumes::new(PathBuf::from(sandbox::VOLUMES), Path::new(sandbox::SCRATCH).join("v")),
            streams: Registry::default(),
            events: Events::new(),
            stage: Mutex::new(Stage::Absent),
            shared_pids: tokio::sync::OnceCell::new(),
            containers: Mutex::default(),
            attested: std::sync::OnceLock::new(),
            gate: std::sync::OnceLock::new(),
            admissions: Admissions::default(),
        };
        Pod { shared: Arc::new(shared) }
    }

    /// The pod's volumes.
    pub(crate) fn volumes(&self) -> &Volumes {
        &self.shared.volumes
    }

    /// The streams of the pod's processes.
    pub(crate) fn streams(&self) -> &Registry {
        &self.shared.streams
    }

    /// The pod's event log.
    pub(crate) fn events(&self) -> &Events {
        &self.shared.events
    }

    /// Prepares the sandbox, once.
    pub(crate) async fn prepare(&self, settings: &Settings, share_pids: bool) -> Result<(), PodError> {
        {
            let mut stage = self.stage();
            if !matches!(*stage, Stage::Absent) {
                return Err(PodError::SandboxExists);
            }
            *stage = Stage::Preparing;
        }
        let prepared = self.prepare_now(settings, share_pids).await;
        let (stage, answer) = match prepared {
            Ok(pid_namespace) => (Stage::Ready { pid_namespace }, Ok(())),
            Err(error) => (Stage::Failed, Err(error)),
        };
        *self.stage() = stage;
        answer
    }

    async fn prepare_now(
        &self,
        settings: &Settings,
        share_pids: bool,
    ) -> Result<Option<SharedPidNamespace>, PodError> {
        // First: beside a secure processor nothing is done by the word of a host that keeps it back.
        let launched =
            vouching(settings.launched.as_ref(), processor_present()).map_err(PodError::sandbox)?;
        sandbox::prepare(settings).await.map_err(PodError::sandbox)?;
        let gate = self.make_gate(launched, settings).await?;
        // A sandbox is prepared once.
        let _ = self.shared.gate.set(Arc::new(gate));
        let registered = self.shared.volumes.register_shm(PathBuf::from(sandbox::SHM));
        registered.map_err(PodError::volume)?;
        if !share_pids {
            return Ok(None);
        }
        let namespace = self.shared.runtime.shared_pid_namespace().await;
        namespace.map(Some).map_err(PodError::container("pod"))
    }

    /// Only what the processor vouches for decides where there is one.
    async fn make_gate(&self, launched: Option<&Launched>, settings: &Settings) -> Result<Gate, PodError> {
        let gate = match launched {
            Some(launched) => Gate::of_initdata(self.attest(launched.clone()).await?.as_deref()),
            None => Gate::of_node(settings.image_policy.as_ref()),
        };
        gate.map_err(|source| PodError::sandbox(SandboxError::ImagePolicy { source: Box::new(source) }))
    }

    /// Replaces the pod's network.
    pub(crate) fn configure_network(&self, plan: &network::Plan) -> Result<(), PodError> {
        let refused = |source| PodError::sandbox(SandboxError::Network { source });
        network::apply(plan).map_err(refused)
    }

    /// The process id namespace that a container is to join, if it is to join one. containerd tells by the container's
    /// specification, which names the sandbox's namespace by a path of the host, and not when the sandbox is made.
    pub(crate) async fn pid_namespace(&self, spec: &[u8]) -> Result<Option<SharedPidNamespace>, PodError> {
        let of_pod = self.ready()?;
        if of_pod.is_some() || !names_pid_namespace(spec) {
            return Ok(of_pod);
        }
        let made =
            self.shared.shared_pids.get_or_try_init(|| self.shared.runtime.shared_pid_namespace()).await;
        made.map(|namespace| Some(namespace.clone())).map_err(PodError::container("pod"))
    }

    /// The process id namespace of the pod, if it has one; refuses while there is no sandbox.
    pub(crate) fn ready(&self) -> Result<Option<SharedPidNamespace>, PodError> {
        match &*self.stage() {
            Stage::Ready { pid_namespace } => Ok(pid_namespace.clone()),
            Stage::Absent | Stage::Preparing | Stage::Failed => Err(PodError::NoSandbox),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.shared.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What vouches for the guest, if anything does. Where the kernel found a secure processor it is that one and no other: the
/// host could answer for one that it plays itself, and then any program could run here and ask the true one for evidence of a
/// guest that is what it should be. A processor that made no device may still be named, and is asked for its evidence.
fn vouching(
    launched: Option<&Launched>,
    present: Option<SecureProcessor>,
) -> Result<Option<&Launched>, SandboxError> {
    let Some(SecureProcessor { tee, device }) = present else { return Ok(launched) };
    match launched {
        None => Err(SandboxError::Unsaid { device }),
        Some(launched) if launched.tee == tee => Ok(Some(launched)),
        Some(Launched { tee, .. }) => {
            Err(SandboxError::Misnamed { device, found: tee.chars().take(32).collect() })
        }
    }
}

/// Whether a specification gives its process id namespace a path. What is no specification is refused elsewhere.
fn names_pid_namespace(spec: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        linux: Linux,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Linux {
        namespaces: Vec<Namespace>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Namespace {
        r#type: String,
        path: String,
    }
    let spec: Spec = serde_json::from_slice(spec).unwrap_or_default();
    spec.linux.namespaces.iter().any(|namespace| namespace.r#type == "pid" && !namespace.path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::HostKey;

    #[test]
    fn where_there_is_a_secure_processor_the_host_names_that_one_or_nothing_runs() {
        let snp = Some(SecureProcessor { tee: "snp", device: "/dev/sev-guest" });
        let tdx = Some(SecureProcessor { tee: "tdx", device: "/dev/tdx_guest" });
        let cases = [
            (None, None, Ok(None)),
            (Some("sim"), None, Ok(Some("sim"))),
            (Some("snp"), None, Ok(Some("snp"))),
            (Some("tdx"), None, Ok(Some("tdx"))),
            (Some("snp"), snp, Ok(Some("snp"))),
            (Some("tdx"), tdx, Ok(Some("tdx"))),
            (None, snp, Err("host says nothing")),
            (None, tdx, Err("host says nothing")),
            (Some("sim"), snp, Err("host names \"sim\"")),
            (Some("sim"), tdx, Err("host names \"sim\"")),
            (Some("tdx"), snp, Err("host names \"tdx\"")),
            (Some("snp"), tdx, Err("host names \"snp\"")),
            (Some(""), snp, Err("host names \"\"")),
            (Some("SNP"), snp, Err("host names \"SNP\"")),
        ];
        for (named, present, expected) in cases {
            let host_key = HostKey::read(&[0; 32]).unwrap();
            let launched = named.map(|tee| Launched { tee: tee.to_owned(), initdata: Vec::new(), host_key });
            match (vouching(launched.as_ref(), present), expected) {
                (Ok(found), Ok(tee)) => assert_eq!(found.map(|launched| launched.tee.as_str()), tee),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                other => panic!("{named:?} beside {present:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_container_that_names_its_sandboxs_processes_joins_them() {
        assert!(names_pid_namespace(br#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
    }

    #[test]
    fn a_container_with_processes_of_its_own_joins_nobody() {
        assert!(!names_pid_namespace(
            br#"{"linux":{"namespaces":[{"type":"pid"},{"type":"ipc","path":"/p"}]}}"#
        ));
    }
}
