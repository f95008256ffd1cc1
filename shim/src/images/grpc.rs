//! gRPC on a Unix socket, as much of it as containerd is asked with: one request, one or several answers, no compression.
//!
//! ```text
//! POST /package.Service/Method ── HEADERS, one DATA: 0, length u32 (big endian), message
//!                              ◄─ HEADERS, DATA …, trailers with grpc-status and grpc-message
//! ```
//! Every wait has a limit. The connection ends with the [`Channel`] and what it answered.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use protobuf::Message;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long containerd may take for the next message.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest answer, in bytes. containerd cuts contents into pieces of at most 1 MiB.
const MAX_MESSAGE: usize = 8 << 20;

/// The most bytes that containerd may send before somebody has read them: of one answer, and of all.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// gRPC's number for a thing that does not exist.
pub(super) const NOT_FOUND: u32 = 5;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    /// Nobody listens.
    #[error("nobody answers at containerd's address {address}")]
    Connect {
        /// The socket.
        address: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The connection broke, or the other side speaks something else.
    #[error("the connection to containerd broke")]
    Transport(#[source] h2::Error),
    /// containerd refused.
    #[error("containerd answers {method} with code {code}: {message}")]
    Status {
        /// The call.
        method: &'static str,
        /// As gRPC numbers them.
        code: u32,
        /// Its words.
        message: String,
    },
    /// No answer in time.
    #[error("containerd did not answer {method} within {} s", LIMIT.as_secs())]
    Late {
        /// The call.
        method: &'static str,
    },
    /// Not what the call answers.
    #[error("containerd's answer to {method} is not understood: {reason}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// A connection; clones share it.
#[derive(Clone)]
pub(super) struct Channel {
    client: SendRequest<Bytes>,
    namespace: String,
    carried: Arc<Carried>,
}

/// The task that moves the connection's bytes.
struct Carried(JoinHandle<()>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The answers to one call, as they come.
pub(super) struct Answers {
    method: &'static str,
    body: RecvStream,
    unread: BytesMut,
    _carried: Arc<Carried>,
}

impl Channel {
    /// Connects to containerd's socket, for things of `namespace`.
    pub(super) async fn connect(socket: &Path, namespace: &str) -> Result<Self, GrpcError> {
        let method = "the connection";
        let connected = async {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|source| GrpcError::Connect { address: socket.display().to_string(), source })?;
            h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .enable_push(false)
                .handshake(stream)
                .await
                .map_err(GrpcError::Transport)
        };
        let (client, connection) =
            timeout(LIMIT, connected).await.unwrap_or(Err(GrpcError::Late { method }))?;
        let carried = tokio::spawn(async move {
            // Whoever waits for an answer is told of the error.
            let _ = connection.await;
        });
        Ok(Self { client, namespace: namespace.to_owned(), carried: Arc::new(Carried(carried)) })
    }

    /// Calls `method` (`/package.Service/Method`), which has one answer.
    pub(super) async fn call<A: Message>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, GrpcError> {
        let mut answers = self.open(method, request).await?;
        let none = || GrpcError::Malformed { method, reason: "there is none".to_owned() };
        let answer = answers.next().await?.ok_or_else(none)?;
        Ok(answer)
    }

    /// Calls `method`, which may have several answers.
    pub(super) async fn open(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Answers, GrpcError> {
        let malformed = |reason: String| GrpcError::Malformed { method, reason };
        let body = frame(request).map_err(|err| malformed(err.to_string()))?;
        let head = Request::post(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", &self.namespace)
            .body(())
            .map_err(|err| malformed(err.to_string()))?;
        let answered = async {
            let client = self.client.clone().ready().await;
            let (response, mut sending) = client
                .and_then(|mut client| client.send_request(head, false))
                .map_err(GrpcError::Transport)?;
            sending.send_data(body, true).map_err(GrpcError::Transport)?;
            response.await.map_err(GrpcError::Transport)
        };
        let response = timeout(LIMIT, answered).await.unwrap_or(Err(GrpcError::Late { method }))?;
        settled(method, response.headers())?;
        if response.status() != StatusCode::OK {
            return Err(malformed(format!("its status is {}", response.status())));
        }
        let (unread, body) = (BytesMut::new(), response.into_body());
        Ok(Answers { method, body, unread, _carried: self.carried.clone() })
    }
}

impl Answers {
    /// The next answer; `None` after the last one, if containerd said that all went well.
    pub(super) async fn next<A: Message>(&mut self) -> Result<Option<A>, GrpcError> {
        let method = self.method;
        timeout(LIMIT, self.message()).await.unwrap_or(Err(GrpcError::Late { method }))?.map_or(
            Ok(None),
            |bytes| {
                let parsed = A::parse_from_bytes(&bytes);
                parsed.map(Some).map_err(|err| GrpcError::Malformed { method, reason: err.to_string() })
            },
        )
    }

    async fn message(&mut self) -> Result<Option<Bytes>, GrpcError> {
        let method = self.method;
        loop {
            let framed = unframe(&mut self.unread);
            if let Some(message) = framed.map_err(|reason| GrpcError::Malformed { method, reason })? {
                return Ok(Some(message));
            }
            let Some(part) = self.body.data().await else { break };
            let part = part.map_err(GrpcError::Transport)?;
            self.unread.extend_from_slice(&part);
            self.body.flow_control().release_capacity(part.len()).map_err(GrpcError::Transport)?;
        }
        let trailers = self.body.trailers().await.map_err(GrpcError::Transport)?;
        let trailers = trailers.unwrap_or_default();
        settled(method, &trailers)?;
        if !trailers.contains_key(STATUS) {
            let reason = "it breaks off before its status".to_owned();
            return Err(GrpcError::Malformed { method, reason });
        }
        match self.unread.len() {
            0 => Ok(None),
            left => {
                let reason = format!("it ends with {left} bytes of a message");
                Err(GrpcError::Malformed { method, reason })
            }
        }
    }
}

fn frame(request: &impl Message) -> Result<Bytes, protobuf::Error> {
    let message = request.write_to_bytes()?;
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    Ok(framed.freeze())
}

/// Takes a whole message off what was read, if there is one.
fn unframe(unread: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some((&[compressed, length @ ..], rest)) = unread.split_first_chunk::<5>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if compressed != 0 {
        return Err("it is compressed, which nobody asked for".to_owned());
    }
    if length > MAX_MESSAGE {
        return Err(format!("a message of {length} bytes, at most {MAX_MESSAGE} are read"));
    }
    if rest.len() < length {
        return Ok(None);
    }
    unread.advance(5);
    Ok(Some(unread.split_to(length).freeze()))
}

/// How a call went, in the trailers of its answer.
const STATUS: &str = "grpc-status";

/// Fails when headers or trailers carry a status other than 0.
fn settled(method: &'static str, headers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text(STATUS) {
        None | Some("0") => Ok(()),
        Some(code) => {
            let message = decoded(text("grpc-message").unwrap_or_default());
            Err(GrpcError::Status { method, code: code.parse().unwrap_or(u32::MAX), message })
        }
    }
}

/// Undoes gRPC's percent encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let byte = digits.and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        let (byte, after) = byte.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use protobuf::well_known_types::timestamp::Timestamp;

    use super::*;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let mut unread = BytesMut::from(&[0, 0, 0, 0, 2, 7][..]);
        assert_eq!(unframe(&mut unread), Ok(None));
        unread.extend_from_slice(&[8, 0]);
        assert_eq!(unframe(&mut unread), Ok(Some(Bytes::from_static(&[7, 8]))));
        assert_eq!(unread.len(), 1);
    }

    #[test]
    fn a_message_that_is_longer_than_any_is_refused() {
        assert!(unframe(&mut BytesMut::from(&[0, 0xff, 0, 0, 0][..])).is_err());
    }

    #[test]
    fn a_compressed_message_is_refused() {
        assert!(unframe(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }

    #[test]
    fn an_error_is_told_in_plain_text() {
        assert_eq!(decoded("no such%20file: 100%"), "no such file: 100%");
    }

    /// Calls a server that answers with `status` and with these trailers, and no message.
    async fn called(status: u16, trailers: Option<HeaderMap>) -> Result<Option<Timestamp>, GrpcError> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let head = http::Response::builder().status(status).body(()).unwrap();
                let mut body = respond.send_response(head, false).unwrap();
                match &trailers {
                    Some(trailers) => body.send_trailers(trailers.clone()).unwrap(),
                    None => body.send_data(Bytes::new(), true).unwrap(),
                }
            }
        });
        let channel = Channel::connect(&socket, "n").await.unwrap();
        let answer = match channel.open("/m", &Timestamp::new()).await {
            Ok(mut answers) => answers.next().await,
            Err(error) => Err(error),
        };
        server.abort();
        answer
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_before_its_status_is_none() {
        let good = HeaderMap::from_iter([(STATUS.parse::<HeaderName>().unwrap(), "0".parse().unwrap())]);
        assert!(matches!(called(200, Some(good.clone())).await, Ok(None)));
        assert!(matches!(called(200, None).await, Err(GrpcError::Malformed { .. })));
        assert!(matches!(called(404, Some(good)).await, Err(GrpcError::Malformed { .. })));
    }

    #[test]
    fn a_status_other_than_zero_is_an_error() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "gone".parse().unwrap());
        assert!(matches!(settled("/m", &headers), Err(GrpcError::Status { code: NOT_FOUND, .. })));
    }
}
