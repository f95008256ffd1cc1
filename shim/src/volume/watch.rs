#![allow(unsafe_code)] // tokio asks for a promise about the descriptor that it polls.
//! Tells when a directory or file of the host changes, with one inotify instance for all volumes of a pod.
//!
//! The kernel allows each user few instances; without one, whoever follows a source looks again every few seconds.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How often a source that cannot be watched is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// All watches of a pod.
pub(crate) struct Watches {
    instance: Option<Instance>,
}

struct Instance {
    shared: Arc<Shared>,
    reader: AbortHandle,
}

struct Shared {
    inotify: AsyncFd<OwnedFd>,
    /// By the kernel's watch number. Two watches of one inode have one number.
    changed: Mutex<HashMap<i32, Vec<Weak<Notify>>>>,
}

/// A watch on one source.
pub(crate) struct Watch {
    changed: Option<Arc<Notify>>,
}

impl Watches {
    /// Starts watching nothing; must be called within a runtime.
    pub(crate) fn new() -> Watches {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(std::io::Error::from).and_then(|fd| {
            // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd keeps its number until it is dropped.
            Ok(unsafe { AsyncFd::register(fd) }?)
        });
        let instance = match inotify {
            Ok(inotify) => {
                let shared = Arc::new(Shared { inotify, changed: Mutex::default() });
                let reader = tokio::spawn(read(shared.clone())).abort_handle();
                Some(Instance { shared, reader })
            }
            Err(error) => {
                tracing::warn!(%error, "no inotify instance (fs.inotify.max_user_instances): volumes are polled");
                None
            }
        };
        Watches { instance }
    }

    /// Watches what `source` is open on: a directory's entries, or a file after each writer has closed it.
    pub(crate) fn watch(&self, source: &OwnedFd, directory: bool) -> Watch {
        let Some(instance) = &self.instance else { return Watch { changed: None } };
        let flags = match directory {
            true => {
                WatchFlags::CREATE
                    | WatchFlags::DELETE
                    | WatchFlags::MOVED_FROM
                    | WatchFlags::MOVED_TO
                    | WatchFlags::ATTRIB
                    | WatchFlags::ONLYDIR
            }
            false => WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB,
        };
        let path = format!("/proc/self/fd/{}", source.as_raw_fd());
        match inotify::add_watch(instance.shared.inotify.get_ref(), path, flags) {
            Ok(number) => {
                let changed = Arc::new(Notify::new());
                instance.shared.lock().entry(number).or_default().push(Arc::downgrade(&changed));
                Watch { changed: Some(changed) }
            }
            Err(error) => {
                tracing::warn!(%error, "a volume cannot be watched (fs.inotify.max_user_watches): it is polled");
                Watch { changed: None }
            }
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        if let Some(instance) = &self.instance {
            instance.reader.abort();
        }
    }
}

impl Watch {
    /// Returns when the source may have changed since the last call.
    pub(crate) async fn changed(&self) {
        match &self.changed {
            Some(changed) => changed.notified().await,
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Vec<Weak<Notify>>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who waits for a watch, and forgets watches that nobody waits for any more.
    fn wake(&self, number: i32, flags: ReadFlags) {
        let mut changed = self.lock();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            changed.values().flatten().filter_map(Weak::upgrade).for_each(|notify| notify.notify_one());
            return;
        }
        let Some(watches) = changed.get_mut(&number) else { return };
        watches.retain(|watch| watch.upgrade().inspect(|notify| notify.notify_one()).is_some());
        if watches.is_empty() {
            changed.remove(&number);
            // The kernel has dropped it by itself when the source is gone.
            let _ = inotify::remove_watch(self.inotify.get_ref(), number);
        }
    }
}

async fn read(shared: Arc<Shared>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    while let Ok(mut ready) = shared.inotify.readable().await {
        let mut reader = inotify::Reader::new(shared.inotify.get_ref(), &mut buffer);
        // Until the queue is empty, which is the error EAGAIN.
        while let Ok(event) = reader.next() {
            shared.wake(event.wd(), event.events());
        }
        ready.clear_ready();
    }
}
