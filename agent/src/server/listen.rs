//! Opens the agent's two ports, and tells the host when that is done.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use coffer_layer::encrypted::Source;
use coffer_protocol::{AGENT_PORT, Digest, READY_PORT, STREAM_PORT};
use tokio::time::sleep;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};
use ttrpc::r#async::Server;

use super::service::{AgentService, Times};
use super::stubs::wire::create_agent;
use crate::boot::clock;
use crate::chain::Chain;
use crate::pod::Pod;
use crate::stream::{self, AwaitLayer, Refusal, TakeLayer, Targets};

/// Waits between attempts to reach the host: it may listen a moment after the guest is there.
const AGAIN: [u64; 8] = [1, 2, 5, 10, 50, 200, 1000, 5000];

/// Why the agent cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// The port for calls.
    #[error("listening on vsock port {AGENT_PORT}; does the guest kernel have vsock built in?")]
    Calls {
        /// What ttrpc says.
        source: ttrpc::Error,
    },
    /// The port for streams.
    #[error("listening on vsock port {STREAM_PORT}; does the guest kernel have vsock built in?")]
    Streams {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Both ports are open as long as this lives.
pub(crate) struct Ready {
    _server: Server,
}

/// Opens both ports and starts serving them. `init_started` is when PID 1 began, in nanoseconds since boot.
pub(crate) async fn listen(pod: Pod, init_started: u64) -> Result<Ready, ListenError> {
    let streams = stream::listen(STREAM_PORT).map_err(|source| ListenError::Streams { source })?;
    let volumes = pod.volumes().clone();
    let share = Arc::new(move |id: &str, stream| {
        volumes.offer_share_stream(id, stream).map_err(|error| error.to_string())
    });
    let admitting = pod.clone();
    let layer = Arc::new(move |container: String, digest: Digest| -> AwaitLayer {
        let pod = admitting.clone();
        Box::pin(async move {
            let unpacking = pod.begin_layer(&container, digest).await;
            let unpacking = unpacking.map_err(|error| refusal(&error, error.may_pass()))?;
            let size = unpacking.size();
            let unpack = move |mut archive: &mut dyn Source| {
                unpacking.run(&mut archive).map_err(|error| refusal(&error, !error.is_final()))
            };
            Ok(TakeLayer { size, unpack: Box::new(unpack) })
        })
    });
    let targets = Targets { registry: pod.streams().clone(), share, layer };
    let times = Times { init_started, agent_ready: clock::since_boot_nanos() };
    let service = create_agent(Arc::new(AgentService::new(pod, times)));
    let calls = |source| ListenError::Calls { source };
    let mut server =
        Server::new().bind(&format!("vsock://-1:{AGENT_PORT}")).map_err(calls)?.register_service(service);
    server.start().await.map_err(calls)?;
    tokio::spawn(stream::serve(streams, targets));
    tracing::info!(milliseconds = (times.agent_ready - init_started) / 1_000_000, "ready");
    tokio::spawn(tell_host());
    Ok(Ready { _server: server })
}

fn refusal(error: &(dyn Error + 'static), again: bool) -> Refusal {
    Refusal { reason: Chain(error).to_string(), again }
}

/// Connects to the host and holds the connection: it carries no bytes, and its end is the guest's.
async fn tell_host() {
    for milliseconds in AGAIN {
        match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)).await {
            Ok(connection) => {
                let _held: (VsockStream, ()) = (connection, std::future::pending().await);
                return;
            }
            Err(error) => tracing::debug!(%error, "the host does not listen yet"),
        }
        sleep(Duration::from_millis(milliseconds)).await;
    }
    tracing::error!("the host could not be told that the agent is ready");
}
