//! One container's directory in the cgroup v2 hierarchy.
//!
//! ```text
//! <root>/                     controllers enabled for children; the agent itself
//! <root>/<parent>/            controllers enabled for children; no process
//! <root>/<parent>/<id>/       the container; below it whatever it makes itself
//! ```
//! Never here: what the values mean (`resources.rs`), the counters (`stats.rs`).

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::ContainerError;
use super::resources::ResourceUpdate;
use super::sys;

/// Controllers that containers use, if the kernel has them.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "hugetlb"];

/// How long processes may take to be gone or frozen. One in an uninterruptible wait can take any time.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// A directory of the hierarchy.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

/// The directory that holds all containers' directories.
#[derive(Debug, Clone)]
pub(super) struct Hierarchy {
    path: PathBuf,
}

impl Hierarchy {
    /// Makes `<root>/<parent>` and hands the controllers down to its children.
    pub(super) fn open(root: &Path, parent: &str) -> Result<Self, ContainerError> {
        let path = root.join(parent);
        enable_controllers(root)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make", &path)(error));
            }
            _ => {}
        }
        enable_controllers(&path)?;
        Ok(Hierarchy { path })
    }

    /// Makes a container's directory.
    pub(super) fn create(&self, id: &str) -> Result<Cgroup, ContainerError> {
        let path = self.path.join(id);
        fs::create_dir(&path).map_err(failed("make", &path))?;
        Ok(Cgroup { path })
    }
}

impl Cgroup {
    /// One that is only a directory.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, as clone3 and bpf take it.
    pub(super) fn directory(&self) -> Result<OwnedFd, ContainerError> {
        open_directory(&self.path)
    }

    /// The directory that a further process of the container joins. A container that has made cgroups of its own
    /// and enabled controllers in them can have no process in its top directory: there `leader`'s is taken.
    pub(super) fn directory_for_exec(&self, leader: i32) -> Result<OwnedFd, ContainerError> {
        let control = self.read("cgroup.subtree_control").unwrap_or_default();
        if control.trim().is_empty() {
            return self.directory();
        }
        let list = fs::read_to_string(format!("/proc/{leader}/cgroup")).unwrap_or_default();
        let here = self.path.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy());
        let here: Vec<_> = here.collect();
        let here = format!("/{}/", here.into_iter().rev().collect::<Vec<_>>().join("/"));
        let below = list
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .and_then(|path| path.split_once(&here).map(|(_, below)| below));
        match below {
            Some(below) if !below.split('/').any(|part| part == "..") => {
                open_directory(&self.path.join(below))
            }
            _ => self.directory(),
        }
    }

    /// Reads a file of the directory.
    pub(super) fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path.join(file))
    }

    /// Writes a file of the directory.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), ContainerError> {
        let path = self.path.join(file);
        write(&path, value).map_err(failed(&format!("write {value:?} to"), &path))
    }

    /// Carries out limits; a file that this kernel lacks is skipped if it is not required.
    pub(super) fn apply(&self, update: &ResourceUpdate) -> Result<(), ContainerError> {
        for limit in &update.writes {
            let path = self.path.join(&limit.file);
            match write(&path, &limit.value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !limit.required => {}
                done => done.map_err(failed(&format!("write {:?} to", limit.value), &path))?,
            }
        }
        Ok(())
    }

    /// Kills every process in it and below, frozen or not.
    pub(super) fn kill(&self) -> Result<(), ContainerError> {
        match self.write("cgroup.kill", "1") {
            Err(ContainerError::Cgroup { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Freezes or thaws, and waits until it is so.
    pub(super) async fn freeze(&self, freeze: bool) -> Result<(), ContainerError> {
        let value = if freeze { "1" } else { "0" };
        self.write("cgroup.freeze", value)?;
        self.wait_for("frozen", value).await
    }

    /// Waits until no process is left in it and below.
    pub(super) async fn wait_until_empty(&self) -> Result<(), ContainerError> {
        self.wait_for("populated", "0").await
    }

    /// Ids of all processes in it and below.
    pub(super) fn pids(&self) -> Result<Vec<u32>, ContainerError> {
        let mut pids = Vec::new();
        for directory in directories(&self.path) {
            match fs::read_to_string(directory.join("cgroup.procs")) {
                Ok(list) => pids.extend(list.lines().filter_map(|line| line.parse::<u32>().ok())),
                // A directory that the container has just removed, or made a threaded one.
                Err(error) if directory != self.path && gone(&error) => {}
                Err(error) => return Err(failed("read the processes of", &directory)(error)),
            }
        }
        Ok(pids)
    }

    /// Removes it and all below; nothing is an error that leaves nothing behind.
    pub(super) fn remove(&self) -> Result<(), ContainerError> {
        for directory in directories(&self.path).into_iter().rev() {
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &directory)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until `cgroup.events` says so.
    async fn wait_for(&self, key: &str, value: &str) -> Result<(), ContainerError> {
        let path = self.path.join("cgroup.events");
        let Some(events) = Changes::of(&path).map_err(failed("poll", &path))? else { return Ok(()) };
        let reached = async {
            while !says(&events.read()?, key, value) {
                events.changed().await?;
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(SETTLED_WITHIN, reached).await;
        let timed_out = || Err(io::Error::from(io::ErrorKind::TimedOut));
        outcome.unwrap_or_else(|_| timed_out()).map_err(failed(&format!("see {key} {value} in"), &path))
    }

    /// Changes of `memory.events`, if this kernel counts memory.
    pub(super) fn memory_events(&self) -> io::Result<Option<Changes>> {
        Changes::of(&self.path.join("memory.events"))
    }
}

/// More than the kernel ever writes into a file of events.
const MAX_EVENTS: usize = 1024;

/// A file of the hierarchy whose readers the kernel wakes at every change.
#[derive(Debug)]
pub(super) struct Changes {
    file: AsyncFd<OwnedFd>,
}

impl Changes {
    /// `None` if there is no such file.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::File::open(path) {
            Err(error) if gone(&error) => Ok(None),
            file => Ok(Some(Changes { file: sys::wait_on(file?.into(), Interest::PRIORITY)? })),
        }
    }

    /// The text now; empty when the directory was removed. A change after this read wakes [`Self::changed`].
    pub(super) fn read(&self) -> io::Result<String> {
        let mut text = [0; MAX_EVENTS];
        match rustix::io::pread(self.file.get_ref(), &mut text, 0).map_err(io::Error::from) {
            Err(error) if gone(&error) => Ok(String::new()),
            read => Ok(String::from_utf8_lossy(text.get(..read?).unwrap_or_default()).into_owned()),
        }
    }

    /// Returns when the file may have changed since it was read.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.file.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}

/// A directory that was removed under us is as empty and as frozen as anybody wants it.
fn says(events: &str, key: &str, value: &str) -> bool {
    events.is_empty() || events.lines().any(|line| line.split_once(' ') == Some((key, value)))
}

/// ENODEV is what a read of a removed cgroup's file gives, EOPNOTSUPP that of a threaded one.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP))
}

/// A directory and all below it, parents first.
fn directories(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        found.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    found
}

fn enable_controllers(directory: &Path) -> Result<(), ContainerError> {
    let list = directory.join("cgroup.controllers");
    let available = fs::read_to_string(&list).map_err(failed("read", &list))?;
    let wanted = CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|a| a == **name));
    let words: Vec<String> = wanted.map(|name| format!("+{name}")).collect();
    if words.is_empty() {
        return Ok(());
    }
    let control = directory.join("cgroup.subtree_control");
    write(&control, &words.join(" ")).map_err(failed("enable controllers in", &control))
}

fn open_directory(path: &Path) -> Result<OwnedFd, ContainerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path)(errno.into()))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
    let (action, path) = (action.to_owned(), path.to_owned());
    move |source| ContainerError::Cgroup { action, path, source }
}
