//! The sockets of all links: numbered, counted, and watched by one epoll instance.
//!
//! Each socket is registered once, edge-triggered, for everything: no interest is ever changed, so a socket that
//! stays ready while its connection must wait cannot keep the device busy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::link::Link;

/// Events taken per call of [`Links::events`].
const EVENTS: usize = 64;

/// Number that stands for the listener among event data; no link's token reaches it.
const LISTENER: u64 = u64::MAX;

/// What happened to which socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Happening {
    /// Clients may be waiting.
    Clients,
    /// Something happened to this link.
    Link {
        /// Its number.
        number: u32,
        /// In what way.
        change: Change,
    },
}

/// What changed at a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// It has bytes, or has had its last.
    pub(super) readable: bool,
    /// It may take bytes again.
    pub(super) writable: bool,
    /// The other side neither reads nor writes any more.
    pub(super) hung_up: bool,
}

/// What is watched of every link.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

#[derive(Debug, Default)]
struct Slot {
    /// Counts the links that this slot has held, so that a late event for an earlier one is told apart.
    generation: u32,
    link: Option<Link>,
    /// Whether it is watched for room.
    awaits_room: bool,
}

impl Slot {
    /// By which its link's events are known.
    fn token(&self, number: u32) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(number)
    }
}

/// All links.
#[derive(Debug)]
pub(super) struct Links {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: usize,
    epoll: OwnedFd,
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Links {
    /// Room for at most `limit` links, and a watch on `listener`.
    pub(super) fn new(limit: usize, listener: BorrowedFd<'_>) -> io::Result<Links> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ET)?;
        Ok(Links { slots: Vec::new(), free: Vec::new(), limit, epoll })
    }

    /// Takes a link in and watches it; `None` if there are too many.
    pub(super) fn insert(&mut self, link: Link) -> Option<u32> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.slots.len() < self.limit => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let slot = self.slots.get_mut(usize::try_from(number).ok()?)?;
        if epoll::add(&self.epoll, &link, EventData::new_u64(slot.token(number)), WATCHED).is_err() {
            self.free.push(number);
            return None;
        }
        slot.link = Some(link);
        slot.awaits_room = false;
        Some(number)
    }

    /// The link of this number.
    pub(super) fn get(&mut self, number: u32) -> Option<&mut Link> {
        self.slots.get_mut(usize::try_from(number).ok()?)?.link.as_mut()
    }

    /// Watches a link for room as long as bytes wait for it. One that takes all there is would otherwise tell of each time that its
    /// other side reads.
    pub(super) fn settle(&mut self, number: u32) {
        let Some(slot) = usize::try_from(number).ok().and_then(|index| self.slots.get_mut(index)) else {
            return;
        };
        let Some(link) = slot.link.as_ref().filter(|link| link.is_waiting() != slot.awaits_room) else {
            return;
        };
        let room = if link.is_waiting() { EventFlags::OUT } else { EventFlags::empty() };
        // It is watched already, and then this does not fail. Room that there is by now is told of at once.
        let _ = epoll::modify(&self.epoll, link, EventData::new_u64(slot.token(number)), WATCHED | room);
        slot.awaits_room = link.is_waiting();
    }

    /// Closes a link. Closing its socket also ends the watch on it.
    pub(super) fn remove(&mut self, number: u32) {
        let slot = usize::try_from(number).ok().and_then(|index| self.slots.get_mut(index));
        if let Some(slot) = slot
            && slot.link.take().is_some()
        {
            slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> 1);
            self.free.push(number);
        }
    }

    /// Closes every link.
    pub(super) fn clear(&mut self) {
        for number in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            self.remove(number);
        }
    }

    /// What happened since the last call, without waiting. Fewer than the most that fit means nothing is left.
    pub(super) fn events(&self) -> io::Result<(Vec<Happening>, bool)> {
        let mut events = Vec::with_capacity(EVENTS);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now))?;
        let more = events.len() >= EVENTS;
        Ok((events.iter().filter_map(|event| self.resolve(event)).collect(), more))
    }

    fn resolve(&self, event: &Event) -> Option<Happening> {
        let token = event.data.u64();
        if token == LISTENER {
            return Some(Happening::Clients);
        }
        let number = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get(usize::try_from(number).ok()?)?;
        if u64::from(slot.generation) != token >> 32 || slot.link.is_none() {
            return None;
        }
        let flags = event.flags;
        let change = Change {
            readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP),
            writable: flags.contains(EventFlags::OUT),
            hung_up: flags.intersects(EventFlags::HUP | EventFlags::ERR),
        };
        Some(Happening::Link { number, change })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsock::link::Role;
    use std::os::unix::net::UnixStream;

    fn links(limit: usize) -> (Links, UnixStream) {
        let (listener, other) = UnixStream::pair().unwrap();
        (Links::new(limit, listener.as_fd()).unwrap(), other)
    }

    fn link() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link::new(ours, Role::Greeting), theirs)
    }

    #[test]
    fn one_link_over_the_limit_is_refused() {
        let (mut links, _listener) = links(1);
        assert_eq!(links.insert(link().0), Some(0));
        assert_eq!(links.insert(link().0), None);
    }

    #[test]
    fn a_number_is_given_again_after_its_link_is_gone() {
        let (mut links, _listener) = links(1);
        links.insert(link().0);
        links.remove(0);
        assert_eq!(links.insert(link().0), Some(0));
    }

    #[test]
    fn an_event_of_an_earlier_link_does_not_reach_the_later_one() {
        let (mut links, _listener) = links(1);
        let (ours, theirs) = link();
        links.insert(ours);
        let stale = Event { flags: EventFlags::HUP, data: EventData::new_u64(0) };
        assert!(links.resolve(&stale).is_some());
        links.remove(0);
        links.insert(link().0);
        assert!(links.resolve(&stale).is_none());
        drop(theirs);
    }

    #[test]
    fn a_peer_that_closed_has_hung_up() {
        let (mut links, _listener) = links(1);
        let (ours, theirs) = link();
        links.insert(ours);
        drop(theirs);
        let (events, _) = links.events().unwrap();
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Happening::Link { number: 0, change } if change.hung_up))
        );
    }
}
