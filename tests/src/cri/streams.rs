//! exec, attach and port-forward: the streams behind a URL, over a WebSocket with Kubernetes' channel byte.
//!
//! ```text
//! exec, attach   0 input, 1 output, 2 errors, 3 how it ended, 4 size of the terminal
//! port-forward   0 data, 1 errors; each begins with the port number
//! ```

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Uri;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// The most bytes that are read before what is waited for.
const MOST: usize = 64 << 10;

/// An open stream.
pub struct Stream {
    socket: WebSocket<TcpStream>,
}

/// Everything that a stream carried up to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Channel 1 of exec and attach, channel 0 of port-forward.
    pub output: Vec<u8>,
    /// Channel 2 of exec and attach, channel 1 of port-forward.
    pub errors: Vec<u8>,
    /// How an exec ended: Kubernetes' status as JSON.
    pub status: String,
}

impl Stream {
    /// Opens the streams of an exec or attach.
    pub fn open(url: &str) -> Result<Self> {
        Self::connect(url, "v4.channel.k8s.io")
    }

    /// Opens a connection to `port` of a pod.
    pub fn forward(url: &str, port: u16) -> Result<Self> {
        Self::connect(&format!("{url}?port={port}"), "v4.channel.k8s.io")
    }

    /// Sends `bytes` to the process, or to the port.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_on(0, bytes)
    }

    /// Tells the process that its terminal has another size.
    pub fn resize(&mut self, width: u16, height: u16) -> Result<()> {
        self.send_on(4, format!(r#"{{"Width":{width},"Height":{height}}}"#).as_bytes())
    }

    /// Reads output until it contains `wanted`, which has to come before [`MOST`] other bytes.
    pub fn read_until(&mut self, wanted: &str) -> Result<String> {
        let mut output = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&output).into_owned();
            if text.contains(wanted) {
                return Ok(text);
            }
            if output.len() > MOST {
                bail!("{} bytes came before {wanted:?}: {:.200}", output.len(), text);
            }
            match self.next().with_context(|| format!("waiting for {wanted:?} after {text:?}"))? {
                Some((1, bytes)) => output.extend(bytes),
                Some(_) => {}
                None => bail!("the stream ended after {text:?}, before {wanted:?}"),
            }
        }
    }

    /// Reads everything up to the end of an exec or attach.
    pub fn read_to_end(&mut self) -> Result<Carried> {
        let mut carried = Carried::default();
        while let Some((channel, bytes)) = self.next()? {
            match channel {
                1 => carried.output.extend(bytes),
                2 => carried.errors.extend(bytes),
                3 => carried.status.push_str(&String::from_utf8_lossy(&bytes)),
                other => bail!("the stream has no channel {other}"),
            }
        }
        Ok(carried)
    }

    /// Reads everything up to the end of a forwarded connection.
    pub fn read_forwarded(&mut self) -> Result<Carried> {
        let mut channels = [Vec::new(), Vec::new()];
        while let Some((channel, bytes)) = self.next()? {
            channels.get_mut(usize::from(channel)).context("a channel of another port")?.extend(bytes);
        }
        // The first two bytes of each are the port.
        let [output, errors] = channels.map(|bytes| bytes.get(2..).unwrap_or_default().to_vec());
        Ok(Carried { output, errors, status: String::new() })
    }

    fn connect(url: &str, protocol: &str) -> Result<Self> {
        let uri: Uri =
            url.replacen("http://", "ws://", 1).parse().with_context(|| format!("{url} is no URL"))?;
        let authority = uri.authority().context("a URL without a host")?.to_string();
        let tcp = TcpStream::connect(&authority).with_context(|| format!("cannot connect to {authority}"))?;
        tcp.set_read_timeout(Some(SILENCE))?;
        let mut request = uri.into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse()?);
        let (socket, _) =
            tungstenite::client(request, tcp).map_err(|error| anyhow::anyhow!("{url} refused: {error}"))?;
        Ok(Self { socket })
    }

    fn send_on(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let framed: Vec<u8> = std::iter::once(channel).chain(bytes.iter().copied()).collect();
        Ok(self.socket.send(Message::binary(framed))?)
    }

    /// The next bytes and their channel; nothing at the end.
    fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => match bytes.split_first() {
                    Some((channel, rest)) => return Ok(Some((*channel, rest.to_vec()))),
                    None => bail!("a frame without a channel"),
                },
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(None),
                Ok(_) => {}
                // The server closes without WebSocket's own farewell when the process has ended.
                Err(tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
