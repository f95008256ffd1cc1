//! The one line that opens a byte stream on [`crate::STREAM_PORT`], and the one line that answers it.
//!
//! ```text
//! header = "stdio " container " " (exec | "-") " " ("stdin" | "stdout" | "stderr") LF
//!        | "forward " port LF          connect to 127.0.0.1 (then ::1) : port inside the pod
//!        | "share " volume LF          serve 9P2000.L for that volume on this stream
//!        | "layer " container " " digest LF   a layer's blob for a container whose image was admitted; after its last byte
//!                                        the guest answers a second reply line: whether it was what it should be
//! reply  = "ok" LF | "error " message LF
//! ```
//!
//! Of a `layer` stream, each of its two reply lines may be an error that says nothing of the layer: the stream was cut off or took
//! too long, the guest has no room, or another stream brings the same. Then its message begins with [`AGAIN`], so that the line is
//! `error again: <reason>`, and the blob may be sent again. Every other error would be the same at another attempt.
//!
//! An encrypted layer (its media type ends with `+encrypted`) is authentic only as a whole, and the guest keeps none of it until
//! then. So the host does not half-close after the blob's last byte, and waits. Where the guest then has seen an authentic blob it
//! writes the line [`ONCE_MORE`], on which the host sends the same bytes from the first to the last again, half-closes, and awaits
//! the second reply line as of any other layer. In place of that line the guest may write the second reply line itself.

use std::fmt;

/// The longest header or reply in bytes, its line feed included.
pub const MAX_LINE: usize = 512;

/// Begins the message of an error that may be gone at another attempt.
pub const AGAIN: &str = "again: ";

/// The line, without its line feed, by which a guest asks for an encrypted layer's blob a second time, on the same stream.
pub const ONCE_MORE: &str = "once more";

/// Which descriptor of a process a stream carries. With a terminal only `Stdin` and `Stdout` exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Host to guest.
    Stdin,
    /// Guest to host.
    Stdout,
    /// Guest to host.
    Stderr,
}

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamHeader {
    /// One descriptor of a process; `exec` is `None` for a container's init process.
    Stdio {
        /// Container id.
        container: String,
        /// Exec id.
        exec: Option<String>,
        /// Which descriptor.
        kind: StreamKind,
    },
    /// A connection to a port of the pod's loopback.
    Forward {
        /// TCP port.
        port: u16,
    },
    /// A 9P2000.L session for a share volume.
    Share {
        /// Volume id.
        volume: String,
    },
    /// A layer's blob, for a container whose image was admitted.
    Layer {
        /// Container id.
        container: String,
        /// `sha256:` and 64 lower-case hex digits, as the image's manifest has it.
        digest: String,
    },
}

/// Why a header or reply line was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamHeaderError {
    /// The line is longer than [`MAX_LINE`].
    #[error("a stream line of {length} bytes is over the limit of {MAX_LINE}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The line is none of the forms above.
    #[error("stream line {line:?} is not understood")]
    Malformed {
        /// The line, without its line feed.
        line: String,
    },
    /// The other side refused the stream.
    #[error("the stream was refused: {message}")]
    Refused {
        /// Its reason.
        message: String,
    },
}

impl StreamHeader {
    /// Parses a header line, given without its line feed.
    pub fn parse(line: &str) -> Result<Self, StreamHeaderError> {
        if line.len() >= MAX_LINE {
            return Err(StreamHeaderError::TooLong { length: line.len() + 1 });
        }
        let words: Vec<&str> = line.split(' ').collect();
        let header = match words.as_slice() {
            ["stdio", container, exec, kind] if is_id(container) && is_id(exec) => StreamHeader::Stdio {
                container: (*container).to_owned(),
                exec: (*exec != "-").then(|| (*exec).to_owned()),
                kind: parse_kind(kind).ok_or_else(|| malformed(line))?,
            },
            ["forward", port] => {
                StreamHeader::Forward { port: parse_port(port).ok_or_else(|| malformed(line))? }
            }
            ["share", volume] if is_id(volume) => StreamHeader::Share { volume: (*volume).to_owned() },
            ["layer", container, digest] if is_id(container) && is_digest(digest) => {
                StreamHeader::Layer { container: (*container).to_owned(), digest: (*digest).to_owned() }
            }
            _ => return Err(malformed(line)),
        };
        Ok(header)
    }
}

impl fmt::Display for StreamHeader {
    /// The header line without its line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamHeader::Stdio { container, exec, kind } => {
                let kind = match kind {
                    StreamKind::Stdin => "stdin",
                    StreamKind::Stdout => "stdout",
                    StreamKind::Stderr => "stderr",
                };
                write!(f, "stdio {container} {} {kind}", exec.as_deref().unwrap_or("-"))
            }
            StreamHeader::Forward { port } => write!(f, "forward {port}"),
            StreamHeader::Share { volume } => write!(f, "share {volume}"),
            StreamHeader::Layer { container, digest } => write!(f, "layer {container} {digest}"),
        }
    }
}

/// The reply that accepts a stream, with its line feed.
pub fn reply_ok() -> String {
    "ok\n".to_owned()
}

/// The reply that refuses a stream, with its line feed; the message is cut and flattened to fit one line.
pub fn reply_error(message: &str) -> String {
    let flat: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect();
    let mut end = flat.len().min(MAX_LINE - 7);
    while !flat.is_char_boundary(end) {
        end -= 1;
    }
    format!("error {}\n", flat.get(..end).unwrap_or_default())
}

/// Reads a reply line, given without its line feed.
pub fn parse_reply(line: &str) -> Result<(), StreamHeaderError> {
    if line == "ok" {
        return Ok(());
    }
    match line.strip_prefix("error ") {
        Some(message) => Err(StreamHeaderError::Refused { message: message.to_owned() }),
        None => Err(malformed(line)),
    }
}

/// Reads the line that answers an encrypted layer's last byte, given without its line feed: whether the blob is wanted once more.
pub fn parse_once_more(line: &str) -> Result<bool, StreamHeaderError> {
    if line == ONCE_MORE { Ok(true) } else { parse_reply(line).map(|()| false) }
}

fn is_id(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_digest(word: &str) -> bool {
    let hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    word.strip_prefix("sha256:").is_some_and(hex)
}

fn parse_kind(word: &str) -> Option<StreamKind> {
    match word {
        "stdin" => Some(StreamKind::Stdin),
        "stdout" => Some(StreamKind::Stdout),
        "stderr" => Some(StreamKind::Stderr),
        _ => None,
    }
}

fn parse_port(word: &str) -> Option<u16> {
    word.parse().ok().filter(|port| *port != 0)
}

fn malformed(line: &str) -> StreamHeaderError {
    StreamHeaderError::Malformed { line: line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = StreamHeader::Stdio {
            container: "c1".to_owned(),
            exec: Some("e.2".to_owned()),
            kind: StreamKind::Stderr,
        };
        assert_eq!(StreamHeader::parse(&header.to_string()), Ok(header));
    }

    #[test]
    fn a_dash_stands_for_the_init_process() {
        let header = StreamHeader::parse("stdio c1 - stdin");
        assert_eq!(
            header,
            Ok(StreamHeader::Stdio { container: "c1".to_owned(), exec: None, kind: StreamKind::Stdin })
        );
    }

    #[test]
    fn a_header_with_an_extra_word_is_refused() {
        assert!(matches!(StreamHeader::parse("share a b"), Err(StreamHeaderError::Malformed { .. })));
    }

    #[test]
    fn a_layer_is_named_by_a_whole_digest() {
        let header =
            StreamHeader::Layer { container: "c".to_owned(), digest: format!("sha256:{}", "0a".repeat(32)) };
        assert_eq!(StreamHeader::parse(&header.to_string()), Ok(header));
        for digest in ["sha256:0a", &format!("sha256:{}", "0A".repeat(32)), &"0a".repeat(32)] {
            let refused = StreamHeader::parse(&format!("layer c {digest}"));
            assert!(matches!(refused, Err(StreamHeaderError::Malformed { .. })), "{digest}");
        }
    }

    #[test]
    fn port_zero_is_refused() {
        assert!(matches!(StreamHeader::parse("forward 0"), Err(StreamHeaderError::Malformed { .. })));
    }

    #[test]
    fn a_line_over_the_limit_is_refused() {
        let line = format!("share {}", "a".repeat(MAX_LINE));
        assert!(matches!(StreamHeader::parse(&line), Err(StreamHeaderError::TooLong { .. })));
    }

    #[test]
    fn only_the_one_line_asks_for_a_blob_once_more() {
        assert_eq!(parse_once_more(ONCE_MORE), Ok(true));
        assert_eq!(parse_once_more("ok"), Ok(false));
        assert!(matches!(parse_once_more("error no"), Err(StreamHeaderError::Refused { .. })));
        assert!(matches!(parse_once_more("once more "), Err(StreamHeaderError::Malformed { .. })));
        assert!(matches!(parse_reply(ONCE_MORE), Err(StreamHeaderError::Malformed { .. })));
    }

    #[test]
    fn a_long_reason_is_cut_to_one_line() {
        for message in ["x".repeat(2000), "ü".repeat(2000)] {
            let reply = reply_error(&message);
            assert!(reply.len() <= MAX_LINE && reply.len() > MAX_LINE - 4 && reply.ends_with('\n'));
        }
    }

    #[test]
    fn a_refusal_with_line_feeds_stays_one_line() {
        let reply = reply_error("no\nsuch\nthing");
        assert_eq!(
            parse_reply(reply.trim_end_matches('\n')),
            Err(StreamHeaderError::Refused { message: "no such thing".to_owned() })
        );
    }

    #[test]
    fn an_endless_refusal_fits_the_line_limit() {
        assert!(reply_error(&"ä".repeat(4000)).len() <= MAX_LINE);
    }
}
