//! A guest that is up: its machine, its agent, its disks, and the record of what it took from the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use coffer_node::images::ToldImage;
use coffer_node::layers::Layer;
use coffer_node::record::PodRecord;
use coffer_node::trace::{Phase, Recorder, Span};
use coffer_protocol::StreamHeader;
use coffer_protocol::agent::{
    AdmitImageRequest, AdmitImageResponse, CreateContainerRequest, LayerDisk, MemoryEvents, Stats,
};
use coffer_vmm::spec::Disk;
use futures::FutureExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::agent::Agent;
use super::error::{PodError, chain};
use super::forward::Forwarder;
use super::hooks::Holder;
use super::quota::{Change, CpuTime};
use super::seat::{AgentSeat, MachineSeat, open_stream, open_stream_within};
use super::watch::{KILLED_STATUS, UNKNOWN_STATUS};
use super::{ProcessKey, cost};
use crate::hypervisor::{Machine, Ready, VmEnd, corruption};
use crate::images::{BoxError, Gate, Streams};
use crate::tee::Served;
use crate::volume::{Plan, PodVolumes};

/// How long a container's exit may wait for what it leaves on the host.
const READ_BACK_LIMIT: Duration = Duration::from_secs(2);

/// After the agent hung up: how long the machine may take to tell why.
const REASON_LIMIT: Duration = Duration::from_millis(300);

/// How long a guest that is not heard from any more may take until its machine has ended, with the reason on its console.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// How long the agent may take to accept a layer: it waits while another container's stream of the same one is unpacked.
const LAYER_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Lines of the console that go into an error.
const CONSOLE_LINES: usize = 20;

/// What [`Guest`] is made of.
pub(super) struct Parts {
    pub(super) run_root: PathBuf,
    pub(super) layers_dir: PathBuf,
    pub(super) record: PodRecord,
    pub(super) recorder: Recorder,
    pub(super) machine: Arc<dyn Machine>,
    pub(super) agent: Agent,
    pub(super) ready: Ready,
    pub(super) disks: Disks,
    pub(super) forwarder: Forwarder,
    pub(super) holder: Option<Holder>,
    pub(super) served: Option<Served>,
    pub(super) gate: Option<Gate>,
    pub(super) cgroup_procs: Vec<PathBuf>,
    pub(super) cpu_time: CpuTime,
}

/// A guest that is up.
pub(super) struct Guest {
    run_root: PathBuf,
    layers_dir: PathBuf,
    record: PodRecord,
    recorder: Mutex<Recorder>,
    machine: Arc<dyn Machine>,
    agent: Agent,
    disks: tokio::sync::Mutex<Disks>,
    volumes: PodVolumes,
    lost: watch::Sender<bool>,
    _forwarder: Forwarder,
    holder: tokio::sync::Mutex<Option<Holder>>,
    _served: Option<Served>,
    gate: Option<Arc<Gate>>,
    cgroup_procs: Vec<PathBuf>,
    cpu_time: CpuTime,
}

/// Which disks are plugged, and for whom.
#[derive(Debug, Default)]
pub(super) struct Disks {
    /// Uses of a disk by its serial.
    uses: BTreeMap<String, usize>,
    /// Serials that a container uses.
    held: BTreeMap<String, Vec<String>>,
}

impl Disks {
    /// Notes a use; true when the disk has to be plugged for it.
    pub(super) fn hold(&mut self, container: &str, serial: &str) -> bool {
        let uses = self.uses.entry(serial.to_owned()).or_default();
        *uses += 1;
        self.held.entry(container.to_owned()).or_default().push(serial.to_owned());
        *uses == 1
    }

    /// Drops a container's uses; answers the disks that nobody uses any more.
    fn release(&mut self, container: &str) -> Vec<String> {
        let mut unused = Vec::new();
        for serial in self.held.remove(container).unwrap_or_default() {
            let uses = self.uses.entry(serial.clone()).or_default();
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                self.uses.remove(&serial);
                unused.push(serial);
            }
        }
        unused
    }
}

impl Guest {
    /// Takes a guest whose sandbox is set up.
    pub(super) fn new(parts: Parts) -> Self {
        let lost = watch::Sender::new(false);
        let (mut ready, tell) = (parts.ready, lost.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ready.gone() => { tell.send_replace(true); }
                // Nobody asks any more.
                () = tell.closed() => {}
            }
        });
        let seat = AgentSeat { agent: parts.agent.clone(), run_dir: parts.record.run_dir().to_owned() };
        let machine = MachineSeat { machine: parts.machine.clone(), record: parts.record.clone() };
        let volumes = PodVolumes::new(Arc::new(seat), Arc::new(machine));
        Self {
            run_root: parts.run_root,
            layers_dir: parts.layers_dir,
            record: parts.record,
            recorder: Mutex::new(parts.recorder),
            machine: parts.machine,
            agent: parts.agent,
            disks: tokio::sync::Mutex::new(parts.disks),
            volumes,
            lost,
            _forwarder: parts.forwarder,
            holder: tokio::sync::Mutex::new(parts.holder),
            _served: parts.served,
            gate: parts.gate.map(Arc::new),
            cgroup_procs: parts.cgroup_procs,
            cpu_time: parts.cpu_time,
        }
    }

    /// Host pid that stands for every process of the pod.
    pub(super) fn pid(&self) -> u32 {
        self.machine.pid()
    }

    /// The agent.
    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// containerd's namespace.
    pub(super) fn namespace(&self) -> String {
        self.record.key().namespace().to_owned()
    }

    /// Where all pods' run directories are.
    pub(super) fn run_root(&self) -> &Path {
        &self.run_root
    }

    /// What judges images, if somebody does.
    pub(super) fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// The layer cache.
    pub(super) fn layers_dir(&self) -> &Path {
        &self.layers_dir
    }

    /// What the machine may use of the host's processors.
    pub(super) fn cpu_time(&self) -> &CpuTime {
        &self.cpu_time
    }

    /// The pod's record.
    pub(super) fn record(&self) -> &PodRecord {
        &self.record
    }

    /// The agent hung up on a call.
    pub(super) fn report_lost(&self) {
        self.lost.send_replace(true);
    }

    /// Returns when the machine has ended or the agent hung up.
    pub(super) async fn gone(&self) {
        let mut lost = self.lost.subscribe();
        tokio::select! {
            _ = self.machine.ended() => return,
            _ = lost.wait_for(|lost| *lost) => {}
        }
        // A machine that is ending knows a better reason in a moment.
        let _ = timeout(REASON_LIMIT, self.machine.ended()).await;
    }

    /// Returns when the machine has ended.
    pub(super) async fn machine_gone(&self) {
        self.machine.ended().await;
    }

    /// Ends the machine.
    pub(super) async fn kill(&self) {
        self.machine.kill().await;
    }

    /// Status of processes that ended with their machine.
    pub(super) fn exit_status(&self) -> u32 {
        match self.machine.ended().now_or_never() {
            Some(VmEnd::Killed { .. } | VmEnd::DeviceLost { .. }) => KILLED_STATUS,
            _ => UNKNOWN_STATUS,
        }
    }

    /// Whether the host's kernel killed the machine for lack of memory.
    pub(super) fn out_of_memory(&self) -> bool {
        let killed = matches!(self.machine.ended().now_or_never(), Some(VmEnd::Killed { .. }));
        killed && cost::oom_killed(&self.cgroup_procs)
    }

    /// The counters of a container whose guest is gone: nothing, but for what containerd looks up after an exit.
    pub(super) fn last_stats(&self) -> Stats {
        let events = MemoryEvents { oom_kill: u64::from(self.out_of_memory()), ..Default::default() };
        Stats { memory_events: Some(events).into(), ..Default::default() }
    }

    /// Adds why the guest is gone, and the console's last lines, to a failure that says no more than that it is.
    pub(super) async fn explain(&self, error: PodError) -> PodError {
        let PodError::GuestGone { doing, .. } = error else { return error };
        // The agent is not heard from before the machine is at its end.
        let _ = timeout(LAST_WORDS_LIMIT, self.machine.ended()).await;
        PodError::GuestGone { doing, console: self.console() }
    }

    /// Whether the machine is at its end, for which it has a moment.
    pub(super) async fn ends_now(&self) -> bool {
        timeout(LAST_WORDS_LIMIT, self.machine.ended()).await.is_ok()
    }

    /// The console's last lines and, if it has ended, why.
    pub(super) fn console(&self) -> String {
        last_words(&*self.machine)
    }

    /// Opens a byte stream to the guest.
    pub(super) async fn stream(&self, header: &StreamHeader) -> Result<UnixStream, PodError> {
        open_stream(self.record.run_dir(), header).await
    }

    /// Plugs the layers of a container that the machine does not have yet.
    pub(super) async fn attach_layers(
        &self,
        id: &str,
        layers: Vec<Layer>,
    ) -> Result<Vec<LayerDisk>, PodError> {
        let mut disks = self.disks.lock().await;
        let mut plugged = Vec::new();
        for layer in layers {
            plugged.push(layer_disk(&layer));
            if disks.hold(id, &layer.serial) {
                let disk = Disk { serial: layer.serial, file: layer.file, read_only: true };
                self.machine
                    .attach_disk(disk)
                    .await
                    .map_err(|err| PodError::host("add a layer's disk", err))?;
            }
        }
        Ok(plugged)
    }

    /// Gives back what only this container used. The disks of a pod's last container go with the machine.
    pub(super) async fn release(&self, id: &str, last: bool) {
        self.volumes.release(id).await;
        if last {
            return;
        }
        self.cpu_time.set(id, Change::Gone);
        let mut disks = self.disks.lock().await;
        for serial in disks.release(id) {
            if let Err(err) = self.machine.detach_disk(&serial).await {
                tracing::warn!(serial, error = chain(&err), "a disk stays plugged");
            }
        }
    }

    /// Makes the volumes that a container needs.
    pub(super) async fn prepare_volumes(&self, id: &str, plan: &Plan) -> Result<(), PodError> {
        self.volumes
            .prepare(id, plan)
            .await
            .map_err(|err| PodError::host("make the container's volumes", err))
    }

    /// Brings to the host what a container that has ended leaves there.
    pub(super) async fn read_back(&self, id: &str) {
        if timeout(READ_BACK_LIMIT, self.volumes.read_back(id)).await.is_err() {
            tracing::warn!(container = id, "what the container wrote did not reach the host in time");
        }
    }

    /// Ends what runs on the host for the guest, which is gone or about to go.
    pub(super) async fn abandon(&self) {
        self.volumes.abandon().await;
        if let Some(holder) = self.holder.lock().await.as_mut() {
            holder.end().await;
        }
    }

    /// Has a container's image judged.
    pub(super) async fn admit(&self, question: &AdmitImageRequest) -> Result<AdmitImageResponse, PodError> {
        self.agent.admit_image(question).await
    }

    /// Notes how long a container's layers took that went to the guest since `began`.
    pub(super) fn trace_layers(&self, id: &str, began: Instant) {
        self.recorder().end(Phase::Layers, Some(id), began);
    }

    /// Notes what became of a container's image, since when that took.
    pub(super) fn tell_image(&self, told: ToldImage, began: Instant) {
        {
            let mut recorder = self.recorder();
            recorder.end(Phase::Image, Some(&told.container), began);
            recorder.image(told.clone());
        }
        self.save_trace();
        if let Err(err) = self.record.update(|record| told.keep(&mut record.images)) {
            tracing::warn!(error = chain(&err), "what the guest says of an image is not in the record");
        }
    }

    /// Notes why the machine ended by itself.
    pub(super) fn trace_end(&self) {
        self.recorder().ended(&self.console());
        self.save_trace();
    }

    /// Makes a container in the guest.
    pub(super) async fn create_container(&self, message: &CreateContainerRequest) -> Result<(), PodError> {
        let began = Instant::now();
        self.agent.create_container(message).await?;
        self.recorder().end(Phase::Container, Some(&message.container_id), began);
        Ok(())
    }

    /// Lets a process go.
    pub(super) async fn start(&self, key: &ProcessKey) -> Result<(), PodError> {
        let began = Instant::now();
        self.agent.start(key).await?;
        if key.exec.is_none() {
            self.recorder().end(Phase::Process, Some(&key.container), began);
            self.save_trace();
        }
        Ok(())
    }

    /// Notes how long containerd's call took.
    pub(super) fn trace_call(&self, id: &str, began: Instant) {
        self.recorder().end(Phase::ContainerdCall, Some(id), began);
        self.save_trace();
    }

    /// Notes why a start failed.
    pub(super) fn trace_failure(&self, error: &PodError) {
        self.recorder().failure(&chain(error));
        self.save_trace();
    }

    /// The phases of the pod's start so far.
    pub(super) fn phases(&self) -> Vec<Span> {
        self.recorder().trace().spans.clone()
    }

    /// What the pod costs the host, in the form of a container's counters.
    pub(super) fn cost(&self) -> Stats {
        cost::of_process(self.pid())
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // A span is pushed whole or not at all.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save_trace(&self) {
        if let Err(err) = self.recorder().save() {
            tracing::warn!(error = chain(&err), "the start's trace is not saved");
        }
    }
}

#[async_trait]
impl Streams for Guest {
    async fn open(&self, header: &StreamHeader) -> Result<UnixStream, BoxError> {
        Ok(open_stream_within(self.record.run_dir(), header, LAYER_LIMIT).await?)
    }
}

/// What the agent is told about a layer.
pub(super) fn layer_disk(layer: &Layer) -> LayerDisk {
    LayerDisk { serial: layer.serial.clone(), fs_type: layer.fs_type.clone(), ..Default::default() }
}

/// Console and end of a machine, as the end of an error's text.
pub(super) fn last_words(machine: &dyn Machine) -> String {
    let mut words = String::new();
    if let Some(end) = machine.ended().now_or_never() {
        words.push_str(&format!(" ({end})"));
    }
    let tail = machine.console_tail();
    if let Some(corruption) = corruption(&tail) {
        words.push_str(&corruption);
    }
    let lines: Vec<&str> = tail.lines().collect();
    let last = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
    if !last.is_empty() {
        words.push_str("; its console said last:\n");
        words.push_str(&last.join("\n"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_two_containers_share_is_plugged_once() {
        let mut disks = Disks::default();
        assert!(disks.hold("a", "l-1"));
        assert!(!disks.hold("b", "l-1"));
    }

    #[test]
    fn a_shared_layer_goes_with_its_last_container() {
        let mut disks = Disks::default();
        disks.hold("a", "l-1");
        disks.hold("b", "l-1");
        assert!(disks.release("a").is_empty());
        assert_eq!(disks.release("b"), ["l-1"]);
    }

    #[test]
    fn releasing_twice_unplugs_nothing_more() {
        let mut disks = Disks::default();
        disks.hold("a", "l-1");
        disks.release("a");
        assert!(disks.release("a").is_empty());
    }
}
