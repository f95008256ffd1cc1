//! What wakes the thread that serves devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event as Happening, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::event::Event;
use crate::virtio::{Cause, Next, Transport};

/// Events taken at once.
const MOST: usize = 64;

/// What a number beside the device's stands for, when it is no queue.
const HOST: u64 = 0xffff;
const START: u64 = 0xfffe;

/// Why the thread is to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Something is to be read from the descriptor that was given.
    Asked,
    /// The machine has ended.
    Ended(super::End),
}

/// All descriptors of the machine's devices, in one that can be watched.
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
    /// Events by the number that they are watched with: taken when they come.
    own: Vec<(u64, Arc<Event>)>,
    /// Devices that have more to do.
    again: Vec<usize>,
    /// Devices that a limit makes wait, and until when.
    later: Vec<(usize, Instant)>,
}

impl Events {
    /// Nothing to watch.
    pub(super) fn new() -> io::Result<Events> {
        Ok(Events {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            own: Vec::new(),
            again: Vec::new(),
            later: Vec::new(),
        })
    }

    fn token(device: usize, detail: u64) -> u64 {
        (device as u64) << 16 | detail
    }

    /// Watches a device's own descriptor, for every change in it.
    pub(super) fn watch_host(&mut self, device: usize, host: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, host, EventData::new_u64(Events::token(device, HOST)), flags)?;
        Ok(())
    }

    /// Makes the event by which a device says that a driver has taken it over.
    pub(super) fn watch_start(&mut self, device: usize) -> io::Result<Event> {
        self.own_event(Events::token(device, START))
    }

    /// Makes the event by which the guest says that it has added to a queue.
    pub(super) fn watch_queue(&mut self, device: usize, queue: usize) -> io::Result<Event> {
        self.own_event(Events::token(device, queue as u64))
    }

    fn own_event(&mut self, token: u64) -> io::Result<Event> {
        let event = Event::new()?;
        // Edge-triggered: a count that is added to is an edge, so it need not be taken to be noticed again.
        epoll::add(&self.epoll, &event, EventData::new_u64(token), EventFlags::IN | EventFlags::ET)?;
        let kept = Arc::new(event);
        let other = kept.try_clone()?;
        self.own.push((token, kept));
        Ok(other)
    }

    /// Serves whatever there is to serve, without waiting.
    pub(super) fn serve(&mut self, transports: &[Arc<Transport>]) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.again);
        ready.extend(self.due());
        for device in ready {
            self.serve_one(transports, device, Cause::Again);
        }
        let mut events: Vec<Happening> = Vec::with_capacity(MOST);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now))?;
        for event in events {
            let token = event.data.u64();
            let cause = match token & 0xffff {
                HOST => Cause::Host,
                START => Cause::Again,
                queue => Cause::Queue(usize::try_from(queue).unwrap_or(usize::MAX)),
            };
            let device = usize::try_from(token >> 16).unwrap_or(usize::MAX);
            self.serve_one(transports, device, cause);
        }
        Ok(())
    }

    fn serve_one(&mut self, transports: &[Arc<Transport>], device: usize, cause: Cause) {
        let Some(transport) = transports.get(device) else { return };
        match transport.serve(cause) {
            Next::AtOnce if !self.again.contains(&device) => self.again.push(device),
            // A time beyond what the clock can tell never comes, and neither does more of what the limit allows.
            Next::In(wait) => {
                if let Some(until) = Instant::now().checked_add(wait) {
                    postpone(&mut self.later, device, until);
                }
            }
            Next::AtOnce | Next::Event => {}
        }
    }

    /// Takes the devices that have waited long enough.
    fn due(&mut self) -> Vec<usize> {
        if self.later.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        self.later.extract_if(.., |(_, until)| *until <= now).map(|(device, _)| device).collect()
    }

    /// How long may be waited for something to happen, if not for ever.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let until = self.later.iter().map(|(_, until)| *until).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Waits until one of three is readable: the devices (unless they are paused), `ended`, `asked`.
    pub(super) fn wait(
        &self,
        paused: bool,
        ended: BorrowedFd<'_>,
        asked: BorrowedFd<'_>,
    ) -> io::Result<[bool; 3]> {
        let devices = if paused { ended } else { self.epoll.as_fd() };
        let mut watched = [devices, ended, asked].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let patience = if paused { None } else { self.patience() };
        // One that is longer than the kernel counts is as good as none.
        let limit = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let count = loop {
            match poll(&mut watched, limit.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome?,
            }
        };
        let [devices, ended, asked] = watched.map(|fd| !fd.revents().is_empty());
        Ok([!paused && (devices || count == 0 || !self.again.is_empty()), ended, asked])
    }
}

/// Notes until when a device waits. One that waited before, in another queue, is called at the earlier time, and asked about both.
fn postpone(later: &mut Vec<(usize, Instant)>, device: usize, until: Instant) {
    match later.iter_mut().find(|(waiting, _)| *waiting == device) {
        Some((_, known)) => *known = until.min(*known),
        None => later.push((device, until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_in_one_queue_does_not_prolong_a_short_one_in_another() {
        let now = Instant::now();
        let [soon, late] = [1, 60].map(|seconds| now + Duration::from_secs(seconds));
        let mut later = Vec::new();
        postpone(&mut later, 3, soon);
        postpone(&mut later, 3, late);
        postpone(&mut later, 4, late);
        postpone(&mut later, 4, soon);
        assert_eq!(later, [(3, soon), (4, soon)]);
    }
}
