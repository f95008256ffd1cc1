//! The shim's log: JSON lines to the fifo that containerd reads from the bundle.
//!
//! The fifo is opened for reading as well, so its end going away (a restart of containerd) is no error for us, and it
//! never blocks: while nobody reads and the fifo is full, lines are dropped.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends this process's log to the fifo at `path`; without a fifo there is no log.
pub(crate) fn init(path: &Path, level: &str) {
    let Ok(fifo) = open(path) else { return };
    let filter: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let logger = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(Fifo(Arc::new(fifo)));
    // It tells of every frame: a blob has thousands.
    let chosen = Targets::new().with_default(filter).with_target("h2", filter.min(LevelFilter::WARN));
    let logger = tracing_subscriber::registry().with(chosen).with(logger);
    // A second call keeps the first logger.
    let _ = logger.try_init();
}

fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    File::options().read(true).write(true).custom_flags(flags).open(path)
}

#[derive(Clone)]
struct Fifo(Arc<File>);

impl tracing_subscriber::fmt::MakeWriter<'_> for Fifo {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Fifo {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (&*self.0).write(line) {
            // A line is shorter than PIPE_BUF or is cut: better than a shim that waits for its reader.
            Ok(_) | Err(_) => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
