//! The shim's own numbers for Prometheus, as text over a Unix socket in the pod's run directory.
//!
//! ```text
//! curl --unix-socket /run/coffer/<namespace>/<pod>/metrics.sock http://pod/metrics
//! ```
//! Calls are counted as they end; everything else is looked up when somebody asks.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_node::trace::Span;
use coffer_protocol::agent::AgentStatsResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Name of the socket in the run directory.
pub(crate) const SOCKET: &str = "metrics.sock";

/// The longest request that is read.
const MAX_REQUEST: usize = 4096;

/// How long one request may take altogether.
const LIMIT: Duration = Duration::from_secs(5);

/// Bounds of the histograms in seconds.
const SECONDS: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

/// What is counted while the shim runs.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallEnd, Counter>,
    seconds: Family<CallName, Histogram>,
    images_refused: Counter,
}

/// What is looked up when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Containers that exist.
    pub(crate) containers: usize,
    /// Their processes that have not ended.
    pub(crate) processes: usize,
    /// Phases of the pod's start.
    pub(crate) phases: Vec<Span>,
    /// The agent's own resources, when it answers.
    pub(crate) agent: Option<AgentStatsResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallEnd {
    call: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallName {
    call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseName {
    phase: String,
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Arc<Self> {
        let calls = Family::default();
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        let mut registry = Registry::with_prefix("coffer_shim");
        registry.register("calls", "Calls of containerd by their status code", calls.clone());
        registry.register("call_seconds", "How long calls of containerd took", seconds.clone());
        let images_refused = Counter::default();
        let help = "Containers that were not made because their image may not run";
        registry.register("images_refused", help, images_refused.clone());
        Arc::new(Self { registry: Mutex::new(registry), calls, seconds, images_refused })
    }

    /// Counts a call of containerd that has ended.
    pub(crate) fn call(&self, call: &'static str, code: &'static str, took: Duration) {
        self.calls.get_or_create(&CallEnd { call, code }).inc();
        self.seconds.get_or_create(&CallName { call }).observe(took.as_secs_f64());
    }

    /// Counts a container whose image may not run.
    pub(crate) fn image_refused(&self) {
        self.images_refused.inc();
    }

    /// All numbers as text.
    fn render(&self, snapshot: Snapshot) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let counted = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode_registry(&mut text, &counted)?;
        encode_registry(&mut text, &looked_up(snapshot))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

fn looked_up(snapshot: Snapshot) -> Registry {
    let mut registry = Registry::with_prefix("coffer");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("pod_containers", "Containers that exist", count(snapshot.containers));
    gauge("pod_processes", "Processes of containers that have not ended", count(snapshot.processes));
    gauge("shim_open_files", "Open descriptors of the shim", entries("/proc/self/fd"));
    gauge("shim_threads", "Threads of the shim", entries("/proc/self/task"));
    gauge("shim_resident_bytes", "Resident memory of the shim", resident_bytes());
    if let Some(agent) = snapshot.agent {
        gauge("agent_open_files", "Open descriptors of the agent", agent.open_files);
        gauge("agent_threads", "Threads of the agent", agent.threads);
        gauge("agent_resident_bytes", "Resident memory of the agent", agent.resident_bytes);
        gauge("guest_processes", "Processes in the guest but kernel threads", agent.processes);
        gauge("guest_mounts", "Mounts in the guest's own namespace", agent.mounts);
    }
    let phases: Family<PhaseName, Histogram> =
        Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
    for span in snapshot.phases {
        let phase = PhaseName { phase: format!("{:?}", span.phase) };
        phases.get_or_create(&phase).observe(Duration::from_micros(span.length_us).as_secs_f64());
    }
    registry.register("start_phase_seconds", "How long each phase of the pod's start took", phases);
    registry
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn entries(directory: &str) -> u64 {
    fs::read_dir(directory).map(|entries| count(entries.count())).unwrap_or_default()
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 =
        statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages.saturating_mul(4096)
}

/// Serves the numbers at `path` until the future is dropped; `look` looks up what is not counted.
pub(crate) async fn serve<F>(metrics: Arc<Metrics>, path: &Path, mut look: impl FnMut() -> F)
where
    F: Future<Output = Snapshot>,
{
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(err) => {
            tracing::warn!(error = %err, path = %path.display(), "the pod's numbers cannot be asked for");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // One at a time: whoever is slow keeps others waiting, and nothing else.
                let _ = timeout(LIMIT, async { answer(stream, metrics.render(look().await)).await }).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: UnixStream, text: Result<String, std::fmt::Error>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => break,
        }
    }
    let (status, body) = match (request.starts_with(b"GET /metrics"), text) {
        (true, Ok(text)) => ("200 OK", text),
        (true, Err(_)) => ("500 Internal Server Error", String::new()),
        (false, _) => ("404 Not Found", "GET /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &str) -> String {
        let (mut client, server) = UnixStream::pair().unwrap();
        let metrics = Metrics::new();
        metrics.call("Create", "ok", Duration::from_millis(20));
        metrics.image_refused();
        let text = metrics.render(Snapshot { containers: 2, ..Snapshot::default() });
        client.write_all(request.as_bytes()).await.unwrap();
        answer(server, text).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_numbers_are_there_in_openmetrics_text() {
        let answer = ask("GET /metrics HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"));
        assert!(answer.contains("coffer_shim_calls_total{call=\"Create\",code=\"ok\"} 1"));
        assert!(answer.contains("coffer_pod_containers 2"));
        assert!(answer.contains("coffer_shim_images_refused_total 1"));
        assert!(answer.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn another_path_is_not_found() {
        assert!(ask("GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 404"));
    }
}
