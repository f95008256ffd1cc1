//! Copies between a process's host ends and its guest streams.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::host::{HostEnds, Output};

/// Bytes moved at once. A stream on which nothing moves has no buffer.
const CHUNK: usize = 64 << 10;

/// After the exit: how long a stream may stay silent before it counts as held by somebody who writes nothing (a
/// background process that inherited it).
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// The most bytes that a process which has ended can have left on their way: the guest's pipe, which may be made 1 MiB long, and
/// the buffers up to the fifo. What comes after them is somebody else's, who goes on writing.
const ON_THE_WAY: u64 = 4 << 20;

/// The guest's ends: one connection per descriptor.
#[derive(Debug, Default)]
pub(crate) struct GuestEnds {
    /// Standard input.
    pub(crate) stdin: Option<UnixStream>,
    /// Standard output.
    pub(crate) stdout: Option<UnixStream>,
    /// Standard error.
    pub(crate) stderr: Option<UnixStream>,
}

/// The running copies of one process.
#[derive(Debug)]
pub(crate) struct Streams {
    phase: watch::Sender<Phase>,
    input: Option<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
    /// Bytes of output that were taken by whoever reads them.
    taken: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Phase {
    close_input: bool,
    exited: bool,
}

impl Streams {
    /// Starts a copy per descriptor that both sides have.
    pub(crate) fn start(host: HostEnds, guest: GuestEnds) -> Self {
        let (phase, follow) = watch::channel(Phase::default());
        let input = host
            .stdin
            .zip(guest.stdin)
            .map(|(fifo, stream)| tokio::spawn(copy_in(fifo, stream, follow.clone())));
        let taken = Arc::new(AtomicU64::new(0));
        let outputs = [host.stdout.zip(guest.stdout), host.stderr.zip(guest.stderr)]
            .into_iter()
            .flatten()
            .map(|(out, stream)| tokio::spawn(copy_out(stream, out, follow.clone(), Arc::clone(&taken))))
            .collect();
        Self { phase, input, outputs, taken }
    }

    /// Ends standard input after the bytes that are in the fifo already.
    pub(crate) fn close_input(&self) {
        self.phase.send_modify(|phase| phase.close_input = true);
    }

    /// The process has ended: nobody reads its input any more, and silent outputs will be closed.
    pub(crate) fn exited(&self) {
        self.phase.send_modify(|phase| phase.exited = true);
    }

    /// Waits until all output is delivered, then closes everything. It is given up once nobody has taken any of it for `limit`,
    /// or more was taken than the process can have left: a slow reader gets all of it, however long that takes.
    pub(crate) async fn finish(mut self, limit: Duration) {
        self.exited();
        let taken = Arc::clone(&self.taken);
        let taken = || taken.load(Ordering::Relaxed);
        let first = taken();
        let delivered = async {
            for output in &mut self.outputs {
                let _ = output.await;
            }
        };
        tokio::pin!(delivered);
        let mut before = first;
        while timeout(limit, &mut delivered).await.is_err() {
            let now = taken();
            if now == before || now - first > ON_THE_WAY {
                // What is late is cut off when `self` is dropped.
                tracing::warn!(
                    taken = now,
                    "output is cut off: nobody has read it, or somebody goes on writing it"
                );
                return;
            }
            before = now;
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.input.iter().chain(&self.outputs).for_each(JoinHandle::abort);
    }
}

/// Guest to host, until the guest's end closes.
async fn copy_out(
    stream: UnixStream,
    mut out: Output,
    mut phase: watch::Receiver<Phase>,
    taken: Arc<AtomicU64>,
) {
    forward_output(&stream, &mut out, &mut phase, &taken).await;
    drop(stream);
    out.close().await;
}

async fn forward_output(
    stream: &UnixStream,
    out: &mut Output,
    phase: &mut watch::Receiver<Phase>,
    taken: &AtomicU64,
) {
    let mut broken = false;
    while let Some(ready) = next_readable(stream, phase).await {
        if !ready {
            return;
        }
        // Read until nothing is left, then give the buffer back.
        let mut buffer = vec![0; CHUNK];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let data = buffer.get(..count).unwrap_or_default();
                    // Without a reader the output is dropped: a full pipe must not stop the process.
                    broken = broken || out.write_all(data, taken).await.is_err();
                    // A stream that never ends must not keep the others from their turn.
                    tokio::task::yield_now().await;
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
    }
}

/// `Some(true)` when there is something to read, `Some(false)` when the process has ended and the stream is silent.
async fn next_readable(stream: &UnixStream, phase: &mut watch::Receiver<Phase>) -> Option<bool> {
    if !phase.borrow().exited {
        tokio::select! {
            ready = stream.readable() => return ready.ok().map(|()| true),
            _ = phase.wait_for(|phase| phase.exited) => {}
        }
    }
    match timeout(SILENCE_LIMIT, stream.readable()).await {
        Ok(ready) => ready.ok().map(|()| true),
        Err(_) => Some(false),
    }
}

/// Host to guest, until the last writer closes the fifo, CloseIO, or the process's end.
async fn copy_in(fifo: pipe::Receiver, mut stream: UnixStream, mut phase: watch::Receiver<Phase>) {
    loop {
        let closing = tokio::select! {
            ready = fifo.readable() => { if ready.is_err() { break } false }
            _ = phase.wait_for(|phase| phase.close_input || phase.exited) => true,
        };
        if phase.borrow().exited {
            return;
        }
        match forward_waiting(&fifo, &mut stream, closing).await {
            Ok(true) if !closing => {}
            Ok(_) => break,
            Err(_) => return,
        }
    }
    // Half of the connection: output that shares it would go on.
    let _ = stream.shutdown().await;
    // The stream stays open until the process ends, so that the guest sees an end of input and not a reset.
    let _ = phase.wait_for(|phase| phase.exited).await;
}

/// Forwards what is in the fifo; `false` when it has ended. With `unasked` the fifo is read even though nobody has said
/// yet that something is there.
async fn forward_waiting(fifo: &pipe::Receiver, stream: &mut UnixStream, unasked: bool) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = if unasked {
            rustix::io::read(fifo, &mut buffer).map_err(io::Error::from)
        } else {
            fifo.try_read(&mut buffer)
        };
        match read {
            Ok(0) => return Ok(false),
            Ok(count) => stream.write_all(buffer.get(..count).unwrap_or_default()).await?,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::{LoggerFor, StdioPaths};
    use std::path::Path;
    use tokio::io::AsyncReadExt;

    /// A directory with fifos, and a process's copies over them.
    struct Process {
        dir: tempfile::TempDir,
        streams: Streams,
        guest_in: UnixStream,
        guest_out: UnixStream,
    }

    fn fifo(dir: &Path, name: &str) -> String {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.display().to_string()
    }

    impl Process {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (stdin, stdout) = (fifo(dir.path(), "in"), fifo(dir.path(), "out"));
            let paths = StdioPaths { stdin, stdout, ..StdioPaths::default() };
            let id = LoggerFor { namespace: "n".to_owned(), container: "c".to_owned() };
            let host = HostEnds::open(&paths, &id).await.unwrap();
            let (guest_in, shim_in) = UnixStream::pair().unwrap();
            let (guest_out, shim_out) = UnixStream::pair().unwrap();
            let ends = GuestEnds { stdin: Some(shim_in), stdout: Some(shim_out), stderr: None };
            Self { dir, streams: Streams::start(host, ends), guest_in, guest_out }
        }

        fn writer(&self) -> pipe::Sender {
            pipe::OpenOptions::new().open_sender(self.dir.path().join("in")).unwrap()
        }

        fn reader(&self) -> pipe::Receiver {
            pipe::OpenOptions::new().open_receiver(self.dir.path().join("out")).unwrap()
        }
    }

    #[tokio::test]
    async fn output_arrives_whole_and_ends_with_the_guests_stream() {
        let mut process = Process::start().await;
        let mut reader = process.reader();
        let sent = vec![7; 300_000];
        let expected = sent.clone();
        let guest = tokio::spawn(async move { process.guest_out.write_all(&sent).await });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        guest.await.unwrap().unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn output_that_nobody_reads_waits_for_a_later_reader() {
        let mut process = Process::start().await;
        process.guest_out.write_all(b"early").await.unwrap();
        process.guest_out.shutdown().await.unwrap();
        // The copy has seen the guest's end, and has closed its own.
        assert_eq!(process.guest_out.read(&mut [0]).await.unwrap(), 0);
        let mut reader = process.reader();
        let mut got = Vec::new();
        let read = timeout(Duration::from_secs(20), reader.read_to_end(&mut got)).await;
        read.expect("a reader that waits for ever").unwrap();
        assert_eq!(got, b"early");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifo_that_never_has_a_reader_is_given_up() {
        let mut process = Process::start().await;
        process.guest_out.shutdown().await.unwrap();
        for output in &mut process.streams.outputs {
            output.await.unwrap();
        }
        let path = process.dir.path().join("out");
        assert!(pipe::OpenOptions::new().open_sender(path).is_err(), "somebody has the fifo open still");
    }

    #[tokio::test]
    async fn a_fifo_whose_reader_was_there_is_not_held_when_it_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let stdout = fifo(dir.path(), "out");
        let reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
        let paths = StdioPaths { stdout: stdout.clone(), ..StdioPaths::default() };
        let id = LoggerFor { namespace: "n".to_owned(), container: "c".to_owned() };
        let host = HostEnds::open(&paths, &id).await.unwrap();
        drop(reader);
        let out = host.stdout.unwrap();
        assert!(matches!(out, Output::Pipe(_)), "{out:?}");
    }

    #[tokio::test]
    async fn input_ends_with_its_last_writer() {
        let mut process = Process::start().await;
        let mut writer = process.writer();
        writer.write_all(b"hi").await.unwrap();
        drop(writer);
        let mut got = Vec::new();
        process.guest_in.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hi");
    }

    #[tokio::test]
    async fn closing_input_delivers_what_is_on_its_way_first() {
        let mut process = Process::start().await;
        let mut writer = process.writer();
        writer.write_all(b"before").await.unwrap();
        process.streams.close_input();
        let mut got = Vec::new();
        process.guest_in.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_closed_after_the_exit_though_somebody_holds_it() {
        let process = Process::start().await;
        let mut reader = process.reader();
        process.streams.exited();
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty());
        drop(process.guest_out);
    }

    #[tokio::test(start_paused = true)]
    async fn finishing_is_bounded_though_the_reader_does_not_read() {
        let mut process = Process::start().await;
        let _reader = process.reader();
        let guest = tokio::spawn(async move { process.guest_out.write_all(&vec![1; 8 << 20]).await });
        process.streams.finish(Duration::from_secs(2)).await;
        assert!(guest.await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_all_that_is_on_its_way() {
        let mut process = Process::start().await;
        let mut reader = process.reader();
        // More than reader, fifo and socket hold together, and a second for each 32 KiB of it.
        let sent: Vec<u8> = (0..700_000_u32).map(|number| number as u8).collect();
        let expected = sent.clone();
        let reads = tokio::spawn(async move {
            let (mut got, mut piece) = (Vec::new(), vec![0; 32 << 10]);
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                match reader.read(&mut piece).await.unwrap() {
                    0 => return got,
                    length => got.extend_from_slice(&piece[..length]),
                }
            }
        });
        let guest = tokio::spawn(async move { process.guest_out.write_all(&sent).await });
        process.streams.finish(Duration::from_secs(2)).await;
        guest.await.unwrap().unwrap();
        assert!(reads.await.unwrap() == expected);
    }

    #[tokio::test(start_paused = true)]
    async fn finishing_is_bounded_though_somebody_goes_on_writing() {
        let mut process = Process::start().await;
        let mut reader = process.reader();
        let reads = tokio::spawn(async move {
            let (mut all, mut piece) = (0, vec![0; 64 << 10]);
            loop {
                // Slow enough for the limit to pass before the bytes are too many.
                tokio::time::sleep(Duration::from_millis(100)).await;
                match reader.read(&mut piece).await.unwrap() {
                    0 => return all,
                    length => all += length,
                }
            }
        });
        let guest =
            tokio::spawn(async move { while process.guest_out.write_all(&[1; 4096]).await.is_ok() {} });
        process.streams.finish(Duration::from_secs(2)).await;
        guest.await.unwrap();
        assert!(reads.await.unwrap() > 4 << 20);
    }

    #[tokio::test]
    async fn a_file_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("deep/er/log");
        let paths = StdioPaths { stdout: format!("file://{}", log.display()), ..StdioPaths::default() };
        let id = LoggerFor { namespace: "n".to_owned(), container: "c".to_owned() };
        let host = HostEnds::open(&paths, &id).await.unwrap();
        let (mut guest, shim) = UnixStream::pair().unwrap();
        let streams = Streams::start(host, GuestEnds { stdout: Some(shim), ..GuestEnds::default() });
        guest.write_all(b"line\n").await.unwrap();
        drop(guest);
        streams.finish(Duration::from_secs(5)).await;
        assert_eq!(std::fs::read(log).unwrap(), b"line\n");
    }
}
