//! What the guest's serial console and the hypervisor's standard error said last.
//!
//! The guest can write to its console without end. So only the last bytes are kept, and it is read at a bounded rate:
//! a flood fills the pipe, and the guest waits.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Bytes read in one [`WINDOW`].
const PER_WINDOW: usize = 256 * 1024;

/// Span of time over which the rate is bounded.
const WINDOW: Duration = Duration::from_millis(100);

/// The last bytes of one pipe; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    limit: usize,
}

impl Console {
    /// Keeps the last `limit` bytes.
    pub(super) fn new(limit: usize) -> Console {
        Console { kept: Arc::default(), limit }
    }

    /// Reads `pipe` to its end in a task of its own.
    pub(super) fn follow(&self, pipe: OwnedFd) -> std::io::Result<JoinHandle<()>> {
        let receiver = pipe::Receiver::from_owned_fd(pipe)?;
        Ok(tokio::spawn(self.clone().read(receiver)))
    }

    async fn read(self, mut receiver: pipe::Receiver) {
        let mut chunk = vec![0; CHUNK];
        let (mut window, mut taken) = (Instant::now(), 0);
        while let Ok(length @ 1..) = receiver.read(&mut chunk).await {
            self.push(chunk.get(..length).unwrap_or_default());
            taken += length;
            if window.elapsed() >= WINDOW {
                (window, taken) = (Instant::now(), 0);
            } else if taken >= PER_WINDOW {
                tokio::time::sleep_until(window + WINDOW).await;
                (window, taken) = (Instant::now(), 0);
            }
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let over = kept.len().saturating_sub(self.limit);
        kept.drain(..over);
    }

    /// What is kept, as text.
    pub(super) fn tail(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The last `count` lines of a text, joined for one line of a message.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept() {
        let console = Console::new(4);
        console.push(b"abc");
        console.push(b"defg");
        assert_eq!(console.tail(), "defg");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_all_the_same() {
        let console = Console::new(8);
        console.push(&[b'a', 0xff, b'b']);
        assert_eq!(console.tail(), "a\u{fffd}b");
    }

    #[test]
    fn last_lines_leave_out_the_empty_ones() {
        assert_eq!(last_lines("one\n\ntwo\nthree\n\n", 2), "two; three");
    }
}
