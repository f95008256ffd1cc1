//! Connections: how many at once, how long they may take to say something, and how they end.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use coffer_attestation::time::UnixTime;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::clients::{Clients, Limits, Visit, Waiting};
use super::identity::{self, Shown};
use super::routes::Peer;
use crate::operators::Oidc;

/// How long a client may take for its part of the TLS handshake, and for a request's headers.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests that are under way may take once the service is told to stop.
const FAREWELL: Duration = Duration::from_secs(10);
/// A token in a header or a cookie, and the rest.
const HEADER_BYTES: usize = 80 << 10;
/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// What is listened on, and what is said there.
pub struct Listening {
    /// Bound.
    pub listener: TcpListener,
    /// Certificate, and whose certificates operators may show.
    pub tls: Arc<ServerConfig>,
    /// Every path.
    pub router: Router,
    /// What may come in.
    pub limits: Limits,
    /// Checks operators' tokens, where they have any.
    pub oidc: Option<Arc<Oidc>>,
    /// When each request is made: certificates and tokens are held against it.
    pub clock: Clock,
}

#[derive(Clone)]
struct Talk {
    acceptor: TlsAcceptor,
    router: Router,
    stopped: watch::Receiver<bool>,
    oidc: Option<Arc<Oidc>>,
    clock: Clock,
}

/// Serves until `stop` is ready, then finishes what is under way. A connection above its client's limit is closed. One above
/// the limit of all takes the place of one that waits for its client; where all are at work it waits for the first to end.
pub async fn serve(listening: Listening, stop: impl Future<Output = ()>) {
    let Listening { listener, tls, router, limits, oidc, clock } = listening;
    let (slots, clients) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(Clients::new(limits)));
    let (stopping, stopped) = watch::channel(false);
    let talk = Talk { acceptor: TlsAcceptor::from(tls), router, stopped, oidc, clock };
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let Ok(visit) = clients.enter(address.ip()) else { continue };
                let slot = tokio::select! {
                    () = &mut stop => break,
                    slot = slot(&slots, &clients) => slot,
                };
                let Some(slot) = slot else { break };
                let (talk, visit) = (talk.clone(), Arc::new(visit));
                tokio::spawn(async move {
                    tokio::select! {
                        () = converse(stream, visit.clone(), talk) => {}
                        () = visit.told_to_leave() => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(FAREWELL, slots.acquire_many(all)).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

/// A place for one more connection. Where there is none, room is asked for again and again: those that are at work may come to
/// wait, and one that was told to leave has a second to do so.
async fn slot(slots: &Arc<Semaphore>, clients: &Clients) -> Option<OwnedSemaphorePermit> {
    let mut pause = Duration::ZERO;
    loop {
        match tokio::time::timeout(pause, slots.clone().acquire_owned()).await {
            Ok(slot) => return slot.ok(),
            Err(_) if clients.make_room() => pause = Duration::from_secs(1),
            Err(_) => pause = Duration::from_millis(100),
        }
    }
}

async fn converse(stream: TcpStream, visit: Arc<Visit>, talk: Talk) {
    let Talk { acceptor, router, mut stopped, oidc, clock } = talk;
    let _ = stream.set_nodelay(true);
    let handshake = async {
        let _waiting = visit.wait();
        // A client that says nothing takes no turn: the first bytes are waited for before.
        stream.readable().await.ok()?;
        let _turn = visit.handshake().await?;
        acceptor.accept(stream).await.ok()
    };
    let Ok(Some(stream)) = tokio::time::timeout(PATIENCE, handshake).await else {
        return;
    };
    let shown = Shown::of(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let waiting = Arc::new(Mutex::new(Some(visit.wait())));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (visit, waiting) = (visit.clone(), waiting.clone());
        drop(turn(&waiting).take());
        let operator = identity::of_request(shown.as_ref(), &request, oidc.as_ref(), clock());
        request.extensions_mut().insert(Arc::new(Peer { visit: visit.clone(), operator }));
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            // For the answer to be read, and for the next request.
            *turn(&waiting) = Some(visit.wait());
            answer
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEADER_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // An error is the client's: it went away, or did not speak HTTP.
        _ = &mut connection => {}
        () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Whose turn it is: the client's while there is something.
fn turn(waiting: &Mutex<Option<Waiting>>) -> MutexGuard<'_, Option<Waiting>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
