//! Port-forwarding: containerd dials a port on the loopback of the pod's network namespace on the host, where nothing
//! listens. Each such connection is redirected here and goes on to the guest's loopback over a stream of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use coffer_node::net::{self, Redirect};
use coffer_protocol::StreamHeader;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::error::chain;
use super::seat::open_stream;

/// Connections at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;

/// The listeners of a pod; they end with this value.
#[derive(Debug, Default)]
pub(super) struct Forwarder {
    _tasks: JoinSet<()>,
}

impl Forwarder {
    /// Serves the redirection of the pod's loopback.
    pub(super) fn serve(redirect: Redirect, run_dir: &Path) -> Self {
        let mut tasks = JoinSet::new();
        for listener in redirect.listeners {
            tasks.spawn(accept(listener, run_dir.to_owned()));
        }
        Self { _tasks: tasks }
    }
}

async fn accept(listener: TcpListener, run_dir: PathBuf) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(err) => {
            tracing::warn!(error = %err, "ports of the pod cannot be forwarded");
            return;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((client, _)) => drop(connections.spawn(bridge(client, run_dir.clone()))),
                // Out of descriptors, for instance: a connection that ends helps.
                Err(err) => {
                    tracing::warn!(error = %err, "a forwarded connection is not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn bridge(mut client: TcpStream, run_dir: PathBuf) {
    let port = match net::original_dst(&client) {
        Ok(address) => address.port(),
        Err(err) => {
            tracing::warn!(error = %err, "a forwarded connection does not tell its port");
            return;
        }
    };
    match open_stream(&run_dir, &StreamHeader::Forward { port }).await {
        Ok(mut guest) => {
            // Either side may break off at any time; that is no news.
            let _ = copy_bidirectional(&mut client, &mut guest).await;
        }
        Err(err) => {
            tracing::debug!(port, error = chain(&err), "a port is not forwarded");
            // A reset instead of an empty answer: the dialler sees that nobody listens.
            let _ = client.set_zero_linger();
        }
    }
}
