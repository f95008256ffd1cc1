//! One unary gRPC call over a Unix socket, as gRPC's "over HTTP/2" page describes it: no streams, no compression.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;

/// gRPC's answer to a call that failed.
#[derive(Debug)]
pub struct CallError {
    /// The status code, as gRPC numbers them: 5 is "not found".
    pub code: u32,
    /// What the server says.
    pub message: String,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {}: {}", self.code, self.message)
    }
}

impl std::error::Error for CallError {}

/// Calls `method` (`/package.Service/Method`) and waits for its answer, at most for `limit`.
pub(super) fn call<Q: Message, A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &Q,
    limit: Duration,
) -> Result<A> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = frame(request);
    let answered =
        runtime.block_on(async { tokio::time::timeout(limit, exchange(socket, method, body)).await });
    let answer =
        answered.with_context(|| format!("{method} was not answered within {} s", limit.as_secs()))??;
    A::decode(answer).with_context(|| format!("cannot read the answer to {method}"))
}

async fn exchange(socket: &Path, method: &str, body: Bytes) -> Result<Bytes> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let mut client: SendRequest<Bytes> = client.ready().await?;
    let carried = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut sending) = client.send_request(request, false)?;
    sending.send_data(body, true)?;
    let response = response.await?;
    status(response.headers())?;
    let mut body = response.into_body();
    let mut message = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        message.extend_from_slice(&part);
    }
    if let Some(trailers) = body.trailers().await? {
        status(&trailers)?;
    }
    carried.abort();
    unframe(message.freeze())
}

fn frame(request: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&request.encode_to_vec());
    bytes.freeze()
}

fn unframe(mut message: Bytes) -> Result<Bytes> {
    if message.len() < 5 {
        bail!("an answer of {} bytes has no frame", message.len());
    }
    let compressed = message.get_u8();
    let length = message.get_u32();
    if compressed != 0 || usize::try_from(length)? != message.len() {
        bail!("an answer announces {length} bytes and has {}", message.len());
    }
    Ok(message)
}

/// Fails when the headers or trailers carry a status other than 0.
fn status(headers: &HeaderMap) -> Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(CallError { code: code.parse()?, message: percent_decoded(message) }.into())
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_message_is_decoded() {
        assert_eq!(percent_decoded("no such%20file: 100%"), "no such file: 100%");
    }

    #[test]
    fn an_answer_shorter_than_it_says_is_refused() {
        assert!(unframe(Bytes::from_static(&[0, 0, 0, 0, 9, 1])).is_err());
    }
}
