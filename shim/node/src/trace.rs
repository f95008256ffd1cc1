//! How long each phase of a pod's start took: written by the shim, read by `coffer trace POD`.
//!
//! ```text
//! <run root>/.traces/<namespace>.<pod>.json      outlives the pod; only the newest MAX_TRACES are kept
//! ```
//! A phase is measured by the shim's monotonic clock; the guest's own boot timings are fitted in by the caller.
//! Never here: sending anything anywhere.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::images::ToldImage;
use crate::record::PodKey;

/// Directory of the traces, below the run root. The dot keeps it apart from containerd's namespaces.
pub const TRACES: &str = ".traces";

/// How many traces a node keeps.
pub const MAX_TRACES: usize = 256;

/// Most phases of one trace; later ones are counted, not kept.
const MAX_PHASES: usize = 512;

/// A phase of a pod's start. A container beyond the first adds its own `Layers` to `Process`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From containerd's `Create` to its answer.
    ContainerdCall,
    /// Taps and redirections.
    Network,
    /// Layers found, converted, verified, or their blobs sent to the guest.
    Layers,
    /// Hypervisor and device process started.
    VmProcess,
    /// From the machine's first instruction to PID 1.
    Kernel,
    /// From PID 1 to the agent's greeting.
    Agent,
    /// `CreateSandbox` in the guest.
    Sandbox,
    /// Image judged in the guest.
    Image,
    /// `CreateContainer` in the guest.
    Container,
    /// From `Start` to the process running.
    Process,
}

/// One measured phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Which phase.
    pub phase: Phase,
    /// Container that it was for; `None`: the pod.
    pub container: Option<String>,
    /// Start in microseconds after the trace began.
    pub start_us: u64,
    /// Length in microseconds.
    pub length_us: u64,
}

/// A pod start's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The pod.
    pub key: PodKey,
    /// Same id as in the shim's and the agent's logs.
    pub trace_id: String,
    /// When the trace began, in milliseconds since the epoch.
    pub began_unix_ms: u64,
    /// Hypervisor and accelerator, once known.
    pub hypervisor: Option<String>,
    /// What made the start fail.
    pub failure: Option<String>,
    /// What the guest said of its containers' images; the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ToldImage>,
    /// Why the machine ended, if it did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Phases in the order in which they ended.
    pub spans: Vec<Span>,
    /// Phases beyond the limit.
    pub dropped: u64,
}

/// A trace being taken.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    began: Instant,
    trace: Trace,
}

/// Why a trace could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The file is not a trace.
    #[error("{path} is not a trace: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No pod of that name has a trace.
    #[error(
        "no trace of pod {pod:?}; the newest {MAX_TRACES} starts are kept, `coffer ps` lists running pods"
    )]
    Unknown {
        /// As asked.
        pod: String,
    },
    /// More than one pod has an id that begins so.
    #[error("{pod:?} is ambiguous: {matches}")]
    Ambiguous {
        /// As asked.
        pod: String,
        /// The pods.
        matches: String,
    },
}

impl Recorder {
    /// Begins a trace now.
    pub fn begin(run_root: &Path, key: &PodKey, trace_id: &str) -> Self {
        let trace = Trace {
            key: key.clone(),
            trace_id: trace_id.to_owned(),
            began_unix_ms: unix_millis(),
            hypervisor: None,
            failure: None,
            images: Vec::new(),
            end: None,
            spans: Vec::new(),
            dropped: 0,
        };
        Recorder { path: file_of(run_root, key), began: Instant::now(), trace }
    }

    /// Adds a phase that began at `start` and ends now.
    pub fn end(&mut self, phase: Phase, container: Option<&str>, start: Instant) {
        self.add(phase, container, start, start.elapsed());
    }

    /// Adds a phase of known length.
    pub fn add(&mut self, phase: Phase, container: Option<&str>, start: Instant, length: Duration) {
        if self.trace.spans.len() >= MAX_PHASES {
            self.trace.dropped += 1;
            return;
        }
        let start_us = micros(start.saturating_duration_since(self.began));
        let container = container.map(str::to_owned);
        self.trace.spans.push(Span { phase, container, start_us, length_us: micros(length) });
    }

    /// Notes the hypervisor.
    pub fn hypervisor(&mut self, name: &str) {
        self.trace.hypervisor = Some(name.to_owned());
    }

    /// Notes what made the start fail.
    pub fn failure(&mut self, reason: &str) {
        self.trace.failure = Some(reason.chars().take(4000).collect());
    }

    /// Notes what the guest said of an image.
    pub fn image(&mut self, told: ToldImage) {
        told.keep(&mut self.trace.images);
    }

    /// Notes why the machine ended by itself.
    pub fn ended(&mut self, reason: &str) {
        self.trace.end = Some(reason.chars().take(4000).collect());
    }

    /// The trace so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Writes the trace so far, and removes the oldest traces of the node beyond [`MAX_TRACES`].
    pub fn save(&self) -> Result<(), TraceError> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| io_error("make directory", dir, source))?;
        let bytes = serde_json::to_vec_pretty(&self.trace)
            .map_err(|err| TraceError::Corrupt { path: self.path.clone(), reason: err.to_string() })?;
        let tmp = self.path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&tmp, bytes).map_err(|source| io_error("write", &tmp, source))?;
        fs::rename(&tmp, &self.path).map_err(|source| io_error("rename to", &self.path, source))?;
        drop_oldest(dir, MAX_TRACES)
    }
}

/// The newest trace of the pod whose id is, or uniquely begins with, `pod`.
pub fn find(run_root: &Path, pod: &str) -> Result<Trace, TraceError> {
    let dir = run_root.join(TRACES);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Err(TraceError::Unknown { pod: pod.to_owned() });
        }
        Err(source) => return Err(io_error("list", &dir, source)),
    };
    let mut traces = Vec::new();
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().ends_with(".json") {
            traces.extend(load(&entry.path()).ok().filter(|trace| trace.key.pod().starts_with(pod)));
        }
    }
    choose(traces, pod)
}

/// Reads one trace.
pub fn load(path: &Path) -> Result<Trace, TraceError> {
    let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|err| TraceError::Corrupt { path: path.to_owned(), reason: err.to_string() })
}

fn choose(mut traces: Vec<Trace>, pod: &str) -> Result<Trace, TraceError> {
    if let Some(exact) = traces.iter().position(|trace| trace.key.pod() == pod) {
        return Ok(traces.swap_remove(exact));
    }
    if traces.len() > 1 {
        let names: Vec<String> = traces.iter().take(8).map(|trace| trace.key.to_string()).collect();
        return Err(TraceError::Ambiguous { pod: pod.to_owned(), matches: names.join(", ") });
    }
    traces.pop().ok_or_else(|| TraceError::Unknown { pod: pod.to_owned() })
}

fn drop_oldest(dir: &Path, keep: usize) -> Result<(), TraceError> {
    let entries = fs::read_dir(dir).map_err(|source| io_error("list", dir, source))?;
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(keep);
    for (_, path) in files.iter().take(surplus) {
        match fs::remove_file(path) {
            // Another shim was faster.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("remove", path, source)),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn file_of(run_root: &Path, key: &PodKey) -> PathBuf {
    run_root.join(TRACES).join(format!("{}.{}.json", key.namespace(), key.pod()))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> TraceError {
    TraceError::Io { action, path: path.to_owned(), source }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pod: &str) -> PodKey {
        PodKey::new("k8s.io", pod).expect("a valid key")
    }

    fn saved(root: &Path, pod: &str) -> Trace {
        let mut recorder = Recorder::begin(root, &key(pod), "t");
        recorder.end(Phase::VmProcess, None, Instant::now());
        recorder.save().expect("saved");
        recorder.trace().clone()
    }

    #[test]
    fn a_trace_is_found_by_the_beginning_of_the_pods_id() {
        let root = tempfile::tempdir().expect("a directory");
        let trace = saved(root.path(), "abcdef");
        assert_eq!(find(root.path(), "abc").expect("found"), trace);
    }

    #[test]
    fn an_ambiguous_beginning_lists_the_pods() {
        let root = tempfile::tempdir().expect("a directory");
        saved(root.path(), "abc1");
        saved(root.path(), "abc2");
        assert!(matches!(find(root.path(), "abc"), Err(TraceError::Ambiguous { .. })));
    }

    #[test]
    fn a_whole_id_wins_over_a_longer_one() {
        let root = tempfile::tempdir().expect("a directory");
        let short = saved(root.path(), "abc");
        saved(root.path(), "abcd");
        assert_eq!(find(root.path(), "abc").expect("found"), short);
    }

    #[test]
    fn an_unknown_pod_is_reported() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(matches!(find(root.path(), "x"), Err(TraceError::Unknown { .. })));
    }

    #[test]
    fn the_directory_stays_bounded() {
        let root = tempfile::tempdir().expect("a directory");
        saved(root.path(), "a");
        saved(root.path(), "b");
        saved(root.path(), "c");
        drop_oldest(&root.path().join(TRACES), 2).expect("dropped");
        assert_eq!(fs::read_dir(root.path().join(TRACES)).expect("listed").count(), 2);
    }

    #[test]
    fn phases_beyond_the_limit_are_counted() {
        let root = tempfile::tempdir().expect("a directory");
        let mut recorder = Recorder::begin(root.path(), &key("p"), "t");
        (0..MAX_PHASES + 3).for_each(|_| recorder.end(Phase::Process, None, Instant::now()));
        assert_eq!((recorder.trace().spans.len(), recorder.trace().dropped), (MAX_PHASES, 3));
    }
}
