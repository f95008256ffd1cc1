//! One container's socket, and who waits behind it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::answer::Answer;
use super::pace::Pace;
use super::request::{Asked, MAX_HEAD, read};
use super::{DOORS, SOCKET};
use crate::attest::{Attested, Denial, Grant};

/// The most connections that one container has at once; others wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// How long a request may take to come, an answer to be found, and to be taken.
const TO_ASK: Duration = Duration::from_secs(5);
const TO_FIND: Duration = Duration::from_secs(40);
const TO_TAKE: Duration = Duration::from_secs(10);
/// After an accept that failed, as it does when descriptors are short.
const PAUSE: Duration = Duration::from_millis(200);

/// A container's socket; it goes with this.
pub(crate) struct Door {
    directory: PathBuf,
    task: JoinHandle<()>,
}

/// What a container may, and who can give it.
struct Behind {
    grant: Grant,
    attested: Arc<Attested>,
    pace: Mutex<Pace>,
}

impl Door {
    /// Opens a socket for a container that may ask for what `grant` says.
    pub(crate) fn open(grant: Grant, attested: Arc<Attested>) -> io::Result<Self> {
        Self::open_below(Path::new(DOORS), grant, attested)
    }

    fn open_below(place: &Path, grant: Grant, attested: Arc<Attested>) -> io::Result<Self> {
        // A number, because ids of containers are too long for the name of a socket.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let directory = place.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir_all(&directory)?;
        let socket = directory.join(SOCKET);
        let listener = UnixListener::bind(&socket)?;
        // For every user of the one container that sees it.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        let pace = Mutex::new(Pace::new(Instant::now()));
        let task = tokio::spawn(serve(listener, Arc::new(Behind { grant, attested, pace })));
        Ok(Self { directory, task })
    }

    /// The directory in the guest that holds the socket and nothing else.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a container's socket stays");
        }
    }
}

async fn serve(listener: UnixListener, behind: Arc<Behind>) {
    // Whoever is still connected when the door goes is dropped with it.
    let mut open = JoinSet::new();
    loop {
        if open.len() >= CONNECTIONS {
            open.join_next().await;
            continue;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.spawn(attend(stream, behind.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "a container's connection was not accepted");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = open.join_next(), if !open.is_empty() => {}
        }
    }
}

/// One connection: a request, an answer.
async fn attend(mut stream: UnixStream, behind: Arc<Behind>) {
    let answer = match timeout(TO_ASK, listen(&mut stream)).await {
        Ok(Ok(asked)) => find(&asked, &behind).await,
        Ok(Err(Some(answer))) => answer,
        // It hung up, or it is too slow to be told.
        Ok(Err(None)) | Err(_) => return,
    };
    let told = async {
        stream.write_all(answer.head().as_bytes()).await?;
        stream.write_all(answer.body()).await?;
        stream.shutdown().await
    };
    // A container that does not take its answer has none.
    let _ = timeout(TO_TAKE, told).await;
}

/// Reads until the request is whole; nothing to answer when the container hung up before.
async fn listen(stream: &mut UnixStream) -> Result<Asked, Option<Answer>> {
    let mut head = Vec::with_capacity(512);
    let mut piece = [0; 1024];
    loop {
        let room = piece.len().min(MAX_HEAD.saturating_sub(head.len()));
        let place = piece.get_mut(..room).unwrap_or_default();
        let count = stream.read(place).await.map_err(|_| None)?;
        if count == 0 {
            return Err(None);
        }
        head.extend_from_slice(place.get(..count).unwrap_or_default());
        if let Some(asked) = read(&head).map_err(|wrong| Some(wrong.into()))? {
            return Ok(asked);
        }
    }
}

async fn find(asked: &Asked, behind: &Behind) -> Answer {
    let allowed = match asked {
        Asked::Resource(resource) => behind.grant.allows(resource),
        Asked::Token => behind.grant.token,
        Asked::Evidence(_) => behind.grant.evidence,
    };
    if !allowed {
        return Answer::no(403, "the pod's initdata does not let this container ask for it");
    }
    if let Asked::Resource(resource) = asked
        && let Some(known) = behind.attested.at_hand(resource)
    {
        return known.map_or_else(Answer::from, Answer::secret);
    }
    if !behind.pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
        return Answer::busy();
    }
    let found = timeout(TO_FIND, ask(asked, &behind.attested)).await;
    let late = |_| Err(Denial::Away("the verifier takes too long".to_owned()));
    found.unwrap_or_else(late).unwrap_or_else(Answer::from)
}

async fn ask(asked: &Asked, attested: &Attested) -> Result<Answer, Denial> {
    match asked {
        Asked::Resource(resource) => attested.fetched(resource).await.map(Answer::secret),
        Asked::Token => {
            let token = attested.token().await?;
            // It has no character that JSON would escape: it is parts of base64 with dots between them.
            let body = Zeroizing::new(format!("{{\"token\":\"{}\"}}", token.as_str()).into_bytes());
            Ok(Answer::json(body))
        }
        Asked::Evidence(data) => {
            attested.evidence(data).await.map(|text| Answer::json(Zeroizing::new(text.into_bytes())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: &str = "kbs:///acme/db/password";

    /// A door to a guest that holds one secret and has no verifier, below a directory of its own.
    fn door(grant: Grant) -> (tempfile::TempDir, Arc<Attested>, Door) {
        let place = tempfile::tempdir().unwrap();
        let attested = Arc::new(Attested::holding(HELD, b"hunter2"));
        let door = Door::open_below(place.path(), grant, attested.clone()).unwrap();
        (place, attested, door)
    }

    async fn get(door: &Door, path: &str) -> String {
        let mut stream = UnixStream::connect(door.directory().join(SOCKET)).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_container_is_given_what_it_may_have_and_nothing_else() {
        let (_place, _, door) = door(Grant::of(&[HELD, "kbs:///acme/web/*"], false));
        let given = get(&door, "/cdh/resource/acme/db/password").await;
        assert!(given.starts_with("HTTP/1.1 200 OK\r\n") && given.ends_with("\r\n\r\nhunter2"), "{given}");
        let other = get(&door, "/cdh/resource/acme/db/other").await;
        assert!(other.starts_with("HTTP/1.1 403") && other.contains("initdata"), "{other}");
        assert!(get(&door, "/aa/token?token_type=kbs").await.starts_with("HTTP/1.1 403"));
        assert!(get(&door, "/aa/evidence?runtime_data=x").await.starts_with("HTTP/1.1 403"));
    }

    #[tokio::test]
    async fn a_container_that_may_have_nothing_is_not_given_what_another_has() {
        let (_place, _, door) = door(Grant::of(&[], false));
        assert!(get(&door, "/cdh/resource/acme/db/password").await.starts_with("HTTP/1.1 403"));
    }

    #[tokio::test]
    async fn a_secret_that_was_taken_back_is_gone() {
        let (_place, attested, door) = door(Grant::of(&[HELD], false));
        attested.lose(HELD);
        assert!(get(&door, "/cdh/resource/acme/db/password").await.starts_with("HTTP/1.1 410 Gone\r\n"));
    }

    #[tokio::test]
    async fn who_asks_the_verifier_too_often_is_told_to_wait() {
        let (_place, _, door) = door(Grant::of(&["kbs:///acme/web/*"], false));
        let mut last = String::new();
        for _ in 0..17 {
            last = get(&door, "/cdh/resource/acme/web/key").await;
        }
        assert!(last.starts_with("HTTP/1.1 429"), "{last}");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_say_nothing_keep_others_waiting_for_seconds_only() {
        let (_place, _, door) = door(Grant::of(&[HELD], false));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS * 2 {
            silent.push(UnixStream::connect(door.directory().join(SOCKET)).await.unwrap());
        }
        let began = Instant::now();
        assert!(get(&door, "/cdh/resource/acme/db/password").await.ends_with("hunter2"));
        assert!(began.elapsed() <= TO_ASK * 3, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_request_without_an_end_is_refused_once_it_is_too_long() {
        let (_place, _, door) = door(Grant::of(&[HELD], false));
        let mut stream = UnixStream::connect(door.directory().join(SOCKET)).await.unwrap();
        let mut request = b"GET / HTTP/1.1\r\nA: ".to_vec();
        request.resize(MAX_HEAD, b'a');
        stream.write_all(&request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn a_door_that_is_closed_leaves_nothing() {
        let (place, _, door) = door(Grant::of(&[HELD], false));
        drop(door);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
