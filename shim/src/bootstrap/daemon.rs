//! The daemon: serves the Task API of one pod on the socket that its parent made.
//!
//! Everything runs on the main thread, because every child is killed when the thread that started it ends. Blocking
//! work (a layer's conversion, netlink, cleanup) goes to a few small threads that end soon after.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coffer_node::config::{Config, LogLevel, PATH_VARIABLE};
use containerd_shim_protos::shim_async::create_task;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::asynchronous::{Server, Service};

use super::flags::Flags;
use super::socket;
use super::start::{PodFile, bundle};
use crate::pod::{Pod, PodSetup};
use crate::publisher::Publisher;
use crate::task::TaskService;
use crate::{log, memory};

/// How long undelivered events keep the process after its pod is gone.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Threads for blocking work, and how long an idle one stays.
const BLOCKING_THREADS: usize = 4;
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(1);
const THREAD_STACK: usize = 1 << 20;

/// The name under which containerd before 2.0 calls the same service.
const TASK_V2: &str = "containerd.task.v2.Task";

/// Services that containerd may ask for and that answer Unimplemented, as an absent method does.
const ABSENT: [&str; 1] = ["containerd.runtime.sandbox.v1.Sandbox"];

/// Serves until the pod is gone.
pub(super) fn serve(flags: &Flags) -> anyhow::Result<()> {
    memory::save();
    // Fails only when the process leads its session already.
    let _ = rustix::process::setsid();
    let listener =
        take_listener().context("the daemon is started by `start`, with a socket as standard input")?;
    let bundle = bundle(flags)?;
    let pod_file = PodFile::load(&bundle).context("the bundle has no file of `start`")?;
    let setup = setup(flags, &pod_file)?;
    log::init(&bundle.join("log"), log_level(flags, &setup));
    // Everything runs on this thread, so the span is everything's but the blocking threads'.
    let span =
        tracing::info_span!("pod", namespace = setup.namespace, pod = setup.pod, trace_id = setup.trace_id);
    let _entered = span.enter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .thread_stack_size(THREAD_STACK)
        .build()
        .context("the runtime cannot be made")?;
    let served = runtime.block_on(run(setup, &pod_file, listener));
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

/// Takes the listening socket from standard input, which then reads nothing.
fn take_listener() -> anyhow::Result<UnixListener> {
    let listener: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::net::sockopt::socket_acceptconn(&listener)?
        .then_some(())
        .context("standard input does not listen")?;
    Ok(UnixListener::from(listener))
}

async fn run(setup: PodSetup, pod_file: &PodFile, listener: UnixListener) -> anyhow::Result<()> {
    let (publisher, delivery) = Publisher::new(&setup.namespace, pod_file.ttrpc_address.clone());
    tokio::spawn(delivery.run());
    let pod = Pod::new(setup, publisher.clone());
    let mut server = Server::new().add_listener(listener.try_into()?).register_service(services(&pod));
    server.start().await.context("the Task API cannot be served")?;
    tracing::info!("the shim serves");
    until_done(&pod).await?;
    publisher.flush(FLUSH_LIMIT).await;
    if let Some(path) = socket::path_of(&pod_file.address) {
        let _ = std::fs::remove_file(path);
    }
    // The answer to Shutdown is on its way; the connections close with it.
    let _ = tokio::time::timeout(Duration::from_millis(500), server.shutdown()).await;
    Ok(())
}

fn setup(flags: &Flags, pod_file: &PodFile) -> anyhow::Result<PodSetup> {
    let variable = std::env::var_os(PATH_VARIABLE).map(PathBuf::from);
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("no trace id can be made")?;
    Ok(PodSetup {
        namespace: flags.namespace.clone(),
        pod: pod_file.pod.clone(),
        address: pod_file.address.clone(),
        containerd: pod_file.containerd.clone().unwrap_or_else(|| flags.address.clone()),
        trace_id: uuid.chars().filter(char::is_ascii_hexdigit).collect(),
        config_path: pod_file.config_path.clone().or(variable),
    })
}

/// What the operator wants, or more when containerd itself is being debugged. A configuration that cannot be read
/// is reported by the pod's start.
fn log_level(flags: &Flags, setup: &PodSetup) -> &'static str {
    if flags.debug {
        return LogLevel::Debug.as_str();
    }
    let config = Config::find(setup.config_path.as_deref(), None).unwrap_or_default();
    config.log_level.as_str()
}

fn services(pod: &Arc<Pod>) -> HashMap<String, Service> {
    let task = || create_task(Arc::new(TaskService::new(pod.clone())));
    let mut services = task();
    services.extend(task().into_values().map(|service| (TASK_V2.to_owned(), service)));
    services.extend(
        ABSENT.map(|name| (name.to_owned(), Service { methods: HashMap::new(), streams: HashMap::new() })),
    );
    services
}

/// Returns when the pod is gone and containerd said goodbye, or when the process is asked to end.
async fn until_done(pod: &Arc<Pod>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = pod.left() => {}
        _ = terminate.recv() => pod.leave().await,
        _ = interrupt.recv() => pod.leave().await,
    }
    Ok(())
}
