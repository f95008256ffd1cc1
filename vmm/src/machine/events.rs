//! What wakes the thread that serves devices.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, Event as Happening, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::event::Event;
use crate::virtio::{Cause, Next, Transport};

/// Events taken at once.
const MOST: usize = 64;

/// For a call that does not wait.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What a number beside the device's stands for, when it is no queue.
const START: u64 = 0xffff;
/// From here on: the device's own descriptors.
const HOST: u64 = 0x8000;

/// Numbers of what is no device's: the machine's end, and the descriptor over which something is asked of it.
const ENDED: u64 = u64::MAX;
const ASKED: u64 = u64::MAX - 1;

/// Why the thread is to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Something is to be read from the descriptor that was given at the start.
    Asked,
    /// The machine has ended.
    Ended(super::End),
}

/// What happened beside the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outside {
    /// The machine has ended.
    pub ended: bool,
    /// Something is asked of it.
    pub asked: bool,
}

/// All that the thread waits for, in one descriptor, so that a request of the guest's costs one call of waiting.
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

    /// Watches a device's own descriptor of this number, for every change in it.
    pub(super) fn watch_host(
        &mut self,
        device: usize,
        number: usize,
        host: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        let token = Events::token(device, HOST + number as u64);
        epoll::add(&self.epoll, host, EventData::new_u64(token), flags)?;
        Ok(())
    }

    /// Leaves a descriptor alone that was watched.
    pub(super) fn forget(&mut self, host: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, host)?)
    }

    /// Watches what says that the machine has ended, and what something is asked of it over: as long as they are readable.
    pub(super) fn watch_outside(&mut self, ended: BorrowedFd<'_>, asked: BorrowedFd<'_>) -> io::Result<()> {
        for (outside, token) in [(ended, ENDED), (asked, ASKED)] {
            epoll::add(&self.epoll, outside, EventData::new_u64(token), EventFlags::IN)?;
        }
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

    /// Waits until something happens, and serves the devices to which it did.
    pub(super) fn serve(&mut self, transports: &[Arc<Transport>]) -> io::Result<Outside> {
        self.await_due()?;
        let mut ready = std::mem::take(&mut self.again);
        ready.extend(self.due());
        for device in ready {
            self.serve_one(transports, device, Cause::Again);
        }
        let mut space = [const { MaybeUninit::uninit() }; MOST];
        let mut outside = Outside::default();
        for event in self.wait(&mut space)? {
            match event.data.u64() {
                ENDED => outside.ended = true,
                ASKED => outside.asked = true,
                token => self.serve_token(transports, token),
            }
        }
        Ok(outside)
    }

    /// Waits for one event at least, unless a device has more to do or waits for a moment. None after a signal.
    fn wait<'s>(&self, space: &'s mut [MaybeUninit<Happening>]) -> io::Result<&'s [Happening]> {
        let at_once = !self.again.is_empty() || !self.later.is_empty();
        match epoll::wait(&self.epoll, space, at_once.then_some(&NOW)) {
            Ok((events, _)) => Ok(events),
            Err(Errno::INTR) => Ok(&[]),
            Err(error) => Err(error.into()),
        }
    }

    fn serve_token(&mut self, transports: &[Arc<Transport>], token: u64) {
        let cause = match token & 0xffff {
            START => Cause::Again,
            host @ HOST.. => Cause::Host(usize::try_from(host - HOST).unwrap_or(usize::MAX)),
            queue => Cause::Queue(usize::try_from(queue).unwrap_or(usize::MAX)),
        };
        self.serve_one(transports, usize::try_from(token >> 16).unwrap_or(usize::MAX), cause);
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

    /// Waits until an event comes, or the first device that a limit makes wait may go on. That moment is told more exactly
    /// than `epoll_pwait` can be told to wait.
    fn await_due(&self) -> io::Result<()> {
        let Some(until) = self.later.iter().map(|(_, until)| *until).min() else { return Ok(()) };
        if !self.again.is_empty() {
            return Ok(());
        }
        // One that is longer than the kernel counts is as good as none.
        let limit = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        await_any(&mut [PollFd::new(&self.epoll, PollFlags::IN)], limit.as_ref())
    }
}

/// Waits until one of two is readable: what a machine that is paused still listens to.
pub(super) fn await_outside(ended: BorrowedFd<'_>, asked: BorrowedFd<'_>) -> io::Result<Outside> {
    let mut watched = [ended, asked].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    await_any(&mut watched, None)?;
    let [ended, asked] = watched.map(|fd| !fd.revents().is_empty());
    Ok(Outside { ended, asked })
}

fn await_any(watched: &mut [PollFd<'_>], limit: Option<&Timespec>) -> io::Result<()> {
    loop {
        match poll(watched, limit) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome.map(|_| ())?),
        }
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
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn an_end_and_a_question_are_told_as_long_as_they_stand() {
        let mut events = Events::new().unwrap();
        let (ended, asked) = (Event::new().unwrap(), Event::new().unwrap());
        events.watch_outside(ended.as_fd(), asked.as_fd()).unwrap();
        asked.signal();
        let only_asked = Outside { ended: false, asked: true };
        assert_eq!(events.serve(&[]).unwrap(), only_asked);
        assert_eq!(events.serve(&[]).unwrap(), only_asked);
        assert_eq!(await_outside(ended.as_fd(), asked.as_fd()).unwrap(), only_asked);
        ended.signal();
        assert_eq!(events.serve(&[]).unwrap(), Outside { ended: true, asked: true });
    }

    #[test]
    fn a_device_that_waits_for_a_moment_is_due_then_without_an_event() {
        let mut events = Events::new().unwrap();
        events.later.push((7, Instant::now() + Duration::from_millis(2)));
        events.await_due().unwrap();
        assert_eq!(events.due(), [7]);
    }

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
