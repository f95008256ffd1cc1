//! Runs a piece of work in a network namespace, on a thread that ends with it.
//!
//! A thread's namespace cannot be given back safely when something fails half-way, so the thread is thrown away
//! instead. Nothing of the namespace stays open in this process but what the work returns.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rtnetlink::Handle;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::NetError;

/// Runs `work` inside the namespace at `path` and waits for it.
pub(super) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    let failed = |source| NetError::Namespace { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| failed(errno.into()))?;
            drop(namespace);
            work()
        });
        match thread.map_err(failed)?.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs netlink requests in the calling thread's namespace.
pub(super) fn netlink<T>(requests: impl AsyncFnOnce(Handle) -> T) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _messages) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let outcome = requests(handle).await;
        connection.abort();
        Ok(outcome)
    })
}
