//! From containerd's first Create to a guest whose sandbox is set up.
//!
//! ```text
//! configuration, annotations, size ── record ── user, network, cgroup, layers, scratch ── machine ── agent ── sandbox
//! ```
//! Everything is written into the record before it is made. What a failed or cancelled boot leaves is removed by
//! [`clean_up`]; its machine dies with the last reference to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_guest_image::manifest::{GuestImage, Manifest};
use coffer_node::cgroup::{self, CgroupError, PodCgroup, Processors};
use coffer_node::config::{Config, Scratch};
use coffer_node::layers::Layer;
use coffer_node::net::{self, PodNetwork, Redirect};
use coffer_node::record::{Netns, NewPod, PodKey, PodRecord, Record, RecordError};
use coffer_node::trace::{Phase, Recorder};
use coffer_node::{layers, uid};
use coffer_protocol::AGENT_PORT;
use coffer_protocol::agent::{CreateSandboxRequest, HelloResponse, NetworkConfig, Scratch as GuestScratch};
use coffer_vmm::spec::{Disk, VmSpec};

use super::agent::Agent;
use super::annotations::Wishes;
use super::container::resolve_layers;
use super::driver::PodSetup;
use super::error::{PodError, chain};
use super::forward::Forwarder;
use super::guest::{Disks, Guest, Parts, last_words, layer_disk};
use super::hooks::{self, Holder};
use super::image::{self, First};
use super::quota::{CpuTime, quota};
use super::seat::note_process;
use super::sizing::{Limits, Size};
use super::spec::HostSpec;
use super::{CreateRequest, teardown};
use crate::group::Group;
use crate::hypervisor::{Choice, Machine, Ready, Started, choose, connect, ready_listener};
use crate::images::{Asked, Boot, Gate, Said, before_boot};
use crate::tee::{self, TeeError};

/// How long a guest may take until its agent answers. Software emulation with ten pods starting at once needs most
/// of it; containerd's CRI gives up after two minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(100);

/// How long the agent's first answer may take once it listens.
const HELLO_LIMIT: Duration = Duration::from_secs(20);

/// Serial of the scratch disk.
const SCRATCH_SERIAL: &str = "scratch";

/// Directory below the run root that remembers which guest images were hashed since boot.
const IMAGES_SEEN: &str = ".guest-images";

/// Boots the pod's machine; answers the guest and, for a container that is its own pod, what it was booted with.
pub(super) async fn boot(
    setup: &PodSetup,
    request: &CreateRequest,
    spec: &HostSpec,
    group: &Group,
) -> Result<(Guest, First), PodError> {
    let config = config(setup, request)?;
    let annotations = spec.annotations();
    let wishes = Wishes::parse(&annotations, &config.allowed_annotations)?;
    let tee = tee::Plan::new(&config.tee, &annotations).map_err(refused_tee)?;
    let limits = match group {
        Group::Sandbox { .. } => Limits::of_sandbox(&annotations),
        _ => spec.limits(),
    };
    let size = Size::of(limits, wishes, &config.machine)?;
    let asked = Asked { containerd: setup.containerd.clone(), namespace: setup.namespace.clone() };
    let gate = Gate::open(&config.images, tee.is_some(), asked)
        .map_err(|err| PodError::host("judge the pod's images", err))?;
    let mut start = Start::open(setup, request, config, gate).await?;
    let resources = start.gather(request, spec, group, (size, limits)).await?;
    start.launch(spec, (size, limits), resources, tee).await
}

/// What the pod's author can change is refused; the rest is the host's.
fn refused_tee(error: TeeError) -> PodError {
    PodError::Refused { what: chain(&error) }
}

/// Removes what a failed boot left.
pub(super) async fn clean_up(setup: &PodSetup, request: &CreateRequest) {
    let Ok(config) = config(setup, request) else { return };
    let Ok(key) = PodKey::new(&setup.namespace, &setup.pod) else { return };
    let Ok(record) = Record::load(&key.run_dir(&config.run_dir)) else { return };
    teardown::clean(config.run_dir, record).await;
}

fn config(setup: &PodSetup, request: &CreateRequest) -> Result<Config, PodError> {
    let named = request.config_path.as_deref().or(setup.config_path.as_deref());
    Config::find(named, None).map_err(|err| PodError::host("use the configuration", err))
}

/// Removes what a pod of the same name left whose shim is dead and was never cleaned up after.
async fn clear_stale(run_root: &Path, key: &PodKey) -> Result<(), PodError> {
    match Record::load(&key.run_dir(run_root)) {
        Ok(record) if !record.shim_is_alive() => {
            tracing::warn!("a dead shim left something of a pod of this name, which is removed");
            teardown::clean(run_root.to_owned(), record).await;
            Ok(())
        }
        // The second try to make the record tells what is wrong.
        _ => Ok(()),
    }
}

/// A boot under way.
struct Start {
    config: Config,
    choice: Choice,
    gate: Option<Gate>,
    record: PodRecord,
    recorder: Recorder,
}

/// What a machine is made of.
struct Resources {
    uid: u32,
    network: Network,
    cgroup: PodCgroup,
    layers: Vec<Layer>,
    said: Option<Said>,
    scratch: Option<Disk>,
    image: GuestImage,
}

impl Start {
    async fn open(
        setup: &PodSetup,
        request: &CreateRequest,
        config: Config,
        gate: Option<Gate>,
    ) -> Result<Self, PodError> {
        let doing = "open the pod's record";
        let key = PodKey::new(&setup.namespace, &setup.pod).map_err(|err| PodError::host(doing, err))?;
        let trace_id = setup.trace_id.clone();
        let recorder = Recorder::begin(&config.run_dir, &key, &trace_id);
        tracing::info!("the pod starts");
        let pod = NewPod {
            key,
            bundle: request.bundle.clone(),
            shim_address: Some(setup.address.clone()),
            trace_id,
        };
        let record = match PodRecord::create(&config.run_dir, pod.clone()) {
            Err(RecordError::Exists { .. }) => {
                clear_stale(&config.run_dir, &pod.key).await?;
                PodRecord::create(&config.run_dir, pod)
            }
            made => made,
        };
        let record = record.map_err(|err| PodError::host(doing, err))?;
        let choice = choose(config.hypervisor, &config.qemu, &config.vmm);
        Ok(Self { config, choice, gate, record, recorder })
    }

    async fn gather(
        &mut self,
        request: &CreateRequest,
        spec: &HostSpec,
        group: &Group,
        (size, limits): (Size, Limits),
    ) -> Result<Resources, PodError> {
        let began = Instant::now();
        let lone = matches!(group, Group::Single { .. });
        let layers = async {
            if !lone {
                return Ok((Vec::new(), None, Duration::ZERO));
            }
            let (layers, said) = self.first_layers(request, spec).await?;
            Ok((layers, said, began.elapsed()))
        };
        let more_queues = self.choice.hypervisor.nic_queues(size.vcpus).saturating_sub(1);
        let network = async {
            let network = prepare_network(request, spec, &self.record, more_queues).await?;
            Ok((network, began.elapsed()))
        };
        let host = blocking("prepare the host's part", {
            let (config, record, path) = (self.config.clone(), self.record.clone(), spec.cgroups_path());
            move || host_part(&config, &record, path, limits)
        });
        // Each is waited for, whatever became of the others: what one of them went on making would outlive the cleaning up.
        let (layers, network, host) = tokio::join!(layers, network, host);
        let ((layers, said, layers_took), (network, network_took), host) = (layers?, network?, host?);
        self.recorder.add(Phase::Network, None, began, network_took);
        if lone {
            self.recorder.add(Phase::Layers, Some(&request.id), began, layers_took);
        }
        let HostPart { uid, cgroup, scratch, image } = host;
        Ok(Resources { uid, network, cgroup, layers, said, scratch, image })
    }

    /// The layers that a container which is its own pod is booted with, and what containerd says of its image where that is
    /// going to be judged. An image that does not go as disks is not made into any.
    async fn first_layers(
        &self,
        request: &CreateRequest,
        spec: &HostSpec,
    ) -> Result<(Vec<Layer>, Option<Said>), PodError> {
        let said = match &self.gate {
            Some(gate) => match gate.ask(&request.id, &spec.annotations()).await.map_err(image::failed) {
                Ok(said) => Some(said),
                Err(err) if gate.is_rehearsal() => {
                    image::untold(&request.id, &err);
                    None
                }
                Err(err) => return Err(err),
            },
            None => None,
        };
        let mounts = spec.rootfs(&request.rootfs, &request.bundle);
        let rehearsal = self.gate.as_ref().is_some_and(Gate::is_rehearsal);
        let layers = match (before_boot(said.as_ref().map(Said::is_sealed), rehearsal), &said) {
            (Boot::Sealed, Some(said)) => image::sealed_layers(mounts, said).await?,
            (Boot::Snapshots, _) => {
                resolve_layers(self.config.layers_dir.clone(), mounts, self.record.clone()).await?
            }
            (Boot::Nothing | Boot::Sealed, _) => Vec::new(),
        };
        Ok((layers, said))
    }

    async fn launch(
        mut self,
        spec: &HostSpec,
        (size, limits): (Size, Limits),
        resources: Resources,
        tee: Option<tee::Plan>,
    ) -> Result<(Guest, First), PodError> {
        let choice = &self.choice;
        if let Some(notice) = &choice.notice {
            tracing::warn!(hypervisor = choice.name, notice);
        }
        self.recorder.hypervisor(choice.name);
        self.record
            .update(|record| record.hypervisor = Some(choice.name.to_owned()))
            .map_err(|err| PodError::host("write the record", err))?;
        let run_dir = self.record.run_dir().to_owned();
        let listener = ready_listener(&run_dir, resources.uid)
            .await
            .map_err(|err| PodError::host("listen for the agent", err))?;
        let id = self.record.key().pod().to_owned();
        let (mut machine_spec, plan) =
            machine_spec(id, (size, self.config.limits), run_dir.clone(), resources);
        let served = match &tee {
            Some(tee) => Some(tee.serve(&mut machine_spec).await),
            None => None,
        };
        let served = served.transpose().map_err(|err| PodError::host("be the pod's processor", err))?;
        let began = Instant::now();
        let Started { machine, running, processors } = choice
            .hypervisor
            .boot(machine_spec)
            .await
            .map_err(|err| PodError::host("boot the virtual machine", err))?;
        self.recorder.add(Phase::VmProcess, None, began, running - began);
        // The machine's user is in the record already, so a shim that dies before this leaves no process behind.
        note_process(&self.record, machine.pid(), "hypervisor");
        let (ready, agent, hello) = self.meet(&machine, listener.accept(), &run_dir).await?;
        self.trace_guest(running, &hello);
        let began = Instant::now();
        let mut request = sandbox_request(spec, plan.network, self.config.scratch);
        request.attestation = tee.map(|tee| tee.message()).into();
        request.image_policy = self.gate.as_ref().and_then(Gate::policy).cloned().into();
        agent.create_sandbox(&request).await.map_err(|err| with_console(err, &*machine))?;
        self.recorder.end(Phase::Sandbox, None, began);
        hold_to_quota(plan.cgroup.processors.clone(), processors);
        let parts = Parts {
            run_root: self.config.run_dir,
            layers_dir: self.config.layers_dir,
            record: self.record,
            recorder: self.recorder,
            machine,
            agent,
            ready,
            disks: plan.disks,
            forwarder: plan.redirect.map(|redirect| Forwarder::serve(redirect, &run_dir)).unwrap_or_default(),
            holder: plan.holder,
            served,
            gate: self.gate,
            cgroup_procs: plan.cgroup.procs,
            cpu_time: CpuTime::of(plan.cgroup.processors, quota(limits)),
        };
        Ok((Guest::new(parts), plan.first))
    }

    /// Waits for the agent and greets it; a machine that ends meanwhile is an error at once.
    async fn meet(
        &self,
        machine: &Arc<dyn Machine>,
        ready: impl Future<Output = Result<Ready, crate::hypervisor::ConnectError>>,
        run_dir: &Path,
    ) -> Result<(Ready, Agent, HelloResponse), PodError> {
        let doing = "booting the guest";
        let met = async {
            let ready = ready.await.map_err(|err| PodError::host("hear from the agent", err))?;
            let stream =
                connect(run_dir, AGENT_PORT).await.map_err(|err| PodError::host("reach the agent", err))?;
            let agent = Agent::over(stream);
            let hello = agent.hello(&self.recorder.trace().trace_id, HELLO_LIMIT).await?;
            Ok((ready, agent, hello))
        };
        let outcome = tokio::select! {
            met = tokio::time::timeout(BOOT_LIMIT, met) => met,
            _ = machine.ended() => Ok(Err(PodError::GuestGone { doing, console: String::new() })),
        };
        let outcome = outcome.unwrap_or(Err(PodError::Late { doing, limit: BOOT_LIMIT }));
        outcome.map_err(|err| with_console(err, &**machine))
    }

    /// Splits the time until the agent answered by what the guest's own clock says.
    fn trace_guest(&mut self, running: Instant, hello: &HelloResponse) {
        let agent = Duration::from_nanos(hello.agent_ready_nanos.saturating_sub(hello.init_started_nanos));
        let total = running.elapsed();
        let agent = agent.min(total);
        let kernel = total.saturating_sub(agent);
        self.recorder.add(Phase::Kernel, None, running, kernel);
        self.recorder.add(Phase::Agent, None, running + kernel, agent);
        tracing::info!(release = hello.kernel_release, agent = hello.agent_version, "the guest is up");
    }
}

/// What is left to do once the machine runs.
struct Plan {
    network: NetworkConfig,
    redirect: Option<Redirect>,
    holder: Option<Holder>,
    cgroup: PodCgroup,
    disks: Disks,
    first: First,
}

fn machine_spec(
    id: String,
    (size, limits): (Size, coffer_vmm::spec::Limits),
    run_dir: PathBuf,
    resources: Resources,
) -> (VmSpec, Plan) {
    let mut disks = Disks::default();
    let first = First { layers: resources.layers.iter().map(layer_disk).collect(), said: resources.said };
    let mut drives: Vec<Disk> = resources.scratch.into_iter().collect();
    for layer in resources.layers {
        if disks.hold(&id, &layer.serial) {
            drives.push(Disk { serial: layer.serial, file: layer.file, read_only: true });
        }
    }
    let spec = VmSpec {
        id,
        kernel: resources.image.kernel,
        initrd: resources.image.initrd,
        cmdline: resources.image.manifest.boot.cmdline,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        disks: drives,
        nics: resources.network.pod.nics,
        limits,
        run_dir,
        uid: resources.uid,
        cgroup_procs: resources.cgroup.procs.clone(),
    };
    let plan = Plan {
        network: resources.network.pod.config,
        redirect: resources.network.redirect,
        holder: resources.network.holder,
        cgroup: resources.cgroup,
        disks,
        first,
    };
    (spec, plan)
}

fn sandbox_request(spec: &HostSpec, network: NetworkConfig, scratch: Scratch) -> CreateSandboxRequest {
    // A mount that is refused is refused when its container is made.
    let shm_bytes = spec.plan_volumes().ok().and_then(|plan| plan.shm_bytes).unwrap_or_default();
    CreateSandboxRequest {
        hostname: spec.hostname(),
        network: Some(network).into(),
        sysctls: spec.sysctls(),
        shm_bytes,
        scratch: Some(guest_scratch(scratch)).into(),
        ..Default::default()
    }
}

/// A guest image that no machine of ours can show its devices to.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel in {dir} finds its devices by ACPI, which the machine does not have; \
     make a guest image with `coffer-guest-image build`, or set paths.guest_dir to one"
)]
struct NeedsAcpi {
    dir: PathBuf,
}

/// The parts that touch nothing but this host's files.
struct HostPart {
    uid: u32,
    cgroup: PodCgroup,
    scratch: Option<Disk>,
    image: GuestImage,
}

fn host_part(
    config: &Config,
    record: &PodRecord,
    cgroups_path: Option<String>,
    limits: Limits,
) -> Result<HostPart, PodError> {
    let uid = uid::lease(&config.run_dir, config.users, record)
        .map_err(|err| PodError::host("lease a user for the machine", err))?;
    let image = Manifest::load_remembered(&config.guest_dir, &config.run_dir.join(IMAGES_SEEN))
        .map_err(|err| PodError::host("use the guest image", err))?;
    if image.manifest.boot.needs_acpi {
        let dir = config.guest_dir.clone();
        return Err(PodError::host("use the guest image", NeedsAcpi { dir }));
    }
    let scratch = scratch_disk(config).map_err(|err| PodError::host("make the scratch disk", err))?;
    Ok(HostPart { uid, cgroup: place(cgroups_path, limits, record)?, scratch, image })
}

fn scratch_disk(config: &Config) -> Result<Option<Disk>, layers::ScratchError> {
    let scratch = || layers::Scratch::open(&config.layers_dir);
    let file = match config.scratch {
        Scratch::Tmpfs => return Ok(None),
        Scratch::Disk { bytes } => scratch()?.disk(bytes)?,
        Scratch::Encrypted { bytes } => scratch()?.empty(bytes)?,
    };
    Ok(Some(Disk { serial: SCRATCH_SERIAL.to_owned(), file, read_only: false }))
}

/// What the guest is told of it.
fn guest_scratch(config: Scratch) -> GuestScratch {
    let serial = match config {
        Scratch::Tmpfs => String::new(),
        Scratch::Disk { .. } | Scratch::Encrypted { .. } => SCRATCH_SERIAL.to_owned(),
    };
    GuestScratch { serial, encrypted: matches!(config, Scratch::Encrypted { .. }), ..Default::default() }
}

/// The cgroup that the machine's processes go into.
fn place(cgroups_path: Option<String>, limits: Limits, record: &PodRecord) -> Result<PodCgroup, PodError> {
    let Some(path) = cgroups_path else { return Ok(PodCgroup::default()) };
    let limits = cgroup::Limits { cpu_shares: limits.cpu_shares, quota: quota(limits) };
    match cgroup::create(&path, &limits, record) {
        Ok(made) => {
            made.warnings.iter().for_each(|warning| tracing::warn!(warning, "the pod's cgroup"));
            Ok(made)
        }
        Err(err @ CgroupError::Path { .. }) => Err(PodError::host("place the machine in its cgroup", err)),
        Err(err) => {
            tracing::warn!(error = chain(&err), "the machine runs in the shim's own cgroup");
            Ok(PodCgroup::default())
        }
    }
}

/// Gives a machine's processors a cgroup of their own, if there is one. Nothing waits for it: to move a thread takes the
/// kernel milliseconds, and a thread or cgroup that is gone by then needs no quota.
fn hold_to_quota(cgroup: Option<Processors>, names: &'static str) {
    let Some(cgroup) = cgroup else { return };
    tokio::task::spawn_blocking(move || match cgroup.take(names) {
        Ok(0) => tracing::warn!("no processor of the machine was found to be held to its quota"),
        Ok(_) => {}
        Err(err) => tracing::warn!(error = %err, "the machine's processors are not held to their quota"),
    });
}

/// A pod's network, and what serves it on the host.
#[derive(Default)]
struct Network {
    pod: PodNetwork,
    redirect: Option<Redirect>,
    holder: Option<Holder>,
}

/// Runs the hooks that set the network up, then joins what is there.
async fn prepare_network(
    request: &CreateRequest,
    spec: &HostSpec,
    record: &PodRecord,
    more_queues: usize,
) -> Result<Network, PodError> {
    let (mut netns, hooks) = (spec.netns(), spec.host_hooks());
    let mut holder = None;
    if !hooks.is_empty() {
        let held = Holder::start(netns.as_deref()).await?;
        note_process(record, held.pid(), "network");
        hooks::run(&hooks, &request.id, &request.bundle, held.pid()).await?;
        netns.get_or_insert_with(|| held.netns());
        holder = Some(held);
    }
    let Some(netns) = netns else { return Ok(Network::default()) };
    let record = record.clone();
    let joined = blocking("join the pod's network", move || join_network(&netns, &record, more_queues));
    let (pod, redirect) = joined.await?;
    Ok(Network { pod, redirect, holder })
}

fn join_network(
    netns: &Path,
    record: &PodRecord,
    more_queues: usize,
) -> Result<(PodNetwork, Option<Redirect>), PodError> {
    let doing = "join the pod's network";
    let found = Netns::at(netns).map_err(|err| PodError::host("find the pod's network namespace", err))?;
    record
        .update(|record| record.netns = Some(found))
        .map_err(|err| PodError::host("write the record", err))?;
    let pod = net::attach(netns, record, more_queues).map_err(|err| PodError::host(doing, err))?;
    // A pod without forwarded ports is better than no pod.
    let redirect = net::redirect_loopback(netns, record)
        .inspect_err(|err| tracing::warn!(error = chain(err), "ports of the pod cannot be forwarded"));
    Ok((pod, redirect.ok()))
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, PodError> + Send + 'static,
) -> Result<T, PodError> {
    tokio::task::spawn_blocking(work).await.map_err(|err| PodError::host(doing, err))?
}

/// Adds the console's last lines to a guest's failure.
fn with_console(error: PodError, machine: &dyn Machine) -> PodError {
    let console = last_words(machine);
    match error {
        PodError::GuestGone { doing, .. } => PodError::GuestGone { doing, console },
        PodError::Late { doing, limit } => {
            PodError::GuestGone { doing, console: format!(": no answer in {} s{console}", limit.as_secs()) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_guest_is_told_what_to_make_of_the_disk_that_it_is_given() {
        let told = |scratch| {
            let GuestScratch { serial, encrypted, .. } = guest_scratch(scratch);
            (serial, encrypted)
        };
        assert_eq!(told(Scratch::Tmpfs), (String::new(), false));
        assert_eq!(told(Scratch::Disk { bytes: 1 }), ("scratch".to_owned(), false));
        assert_eq!(told(Scratch::Encrypted { bytes: 1 }), ("scratch".to_owned(), true));
    }

    #[test]
    fn nothing_is_on_a_disk_that_the_guest_encrypts() {
        let root = tempfile::tempdir().unwrap();
        let with = |scratch| Config { scratch, layers_dir: root.path().to_owned(), ..Config::default() };
        assert!(scratch_disk(&with(Scratch::Tmpfs)).unwrap().is_none());
        let disk = scratch_disk(&with(Scratch::Encrypted { bytes: 1 << 30 })).unwrap().unwrap();
        let found = File::from(disk.file).metadata().unwrap();
        assert_eq!((found.len(), std::os::unix::fs::MetadataExt::blocks(&found)), (1 << 30, 0));
        assert!(!disk.read_only);
    }
}
