//! The queues of requests to disks: what both kinds of disk do alike with them.
//!
//! ```text
//! queue ─▶ chain ─▶ carry out ─▶ over: given back at once
//!                             └▶ waits: kept with its transfer ─▶ answered and given back when that has ended
//! ```
//! A guest may have a queue for each of its processors, so that they ask without a lock between them. Here one thread serves
//! them all, each in its turn. Not here: what a request means, and where its answer goes.

use std::io;
use std::os::fd::BorrowedFd;

use virtio_queue::{Queue, QueueT};

use super::disk::TURN;
use crate::memory::Memory;
use crate::virtio::{Cause, Chain, Fault, Limiter, Ring, Served, Transfer, Waits, pop};

/// The most queues of requests that a device has. One thread serves them: more would only cost.
pub const MAX_QUEUES: usize = 8;

/// Requests carried out per call, before other devices have their turn.
const BUDGET: usize = 64;

/// What became of a request, of which `K` is kept if it waits.
pub(super) enum Done<K> {
    /// It is answered, and so many bytes were written into its chain.
    Over(u32),
    /// It ends with this transfer.
    Waits(Transfer, K),
}

/// A device whose queues these are.
pub(super) trait Carrier {
    /// What a request's answer needs at its end.
    type Kept;

    /// Carries out a chain, which may wait if `may_wait` says so: gives what became of it, and how much work it was. Nothing for
    /// a chain that is no request.
    fn carry_out<'m>(
        &self,
        memory: &'m Memory,
        chain: Chain<'m>,
        may_wait: bool,
    ) -> Option<(Done<Self::Kept>, u64)>;

    /// Answers a request that has waited: gives the number of bytes written into its chain.
    fn answer(kept: Self::Kept, outcome: io::Result<()>) -> u32;
}

/// A request that waits: of which queue, by what it is given back there, and what its answer needs.
#[derive(Debug)]
struct Waiting<K> {
    queue: usize,
    head: u16,
    kept: K,
}

/// How it goes on after a queue.
enum Next {
    /// With the next one.
    Queue,
    /// With other devices, and then with the next queue.
    Turn,
    /// When something has happened of which the device is told.
    Event,
}

/// The queues' state.
#[derive(Debug)]
pub(super) struct Requests<K> {
    /// How many there are, and the device's number of the first.
    count: usize,
    first: usize,
    limiter: Limiter,
    waits: Waits<Waiting<K>>,
    /// Whose turn it is.
    turn: usize,
}

impl<K> Requests<K> {
    /// `count` queues, of which there are one at least and [`MAX_QUEUES`] at most; the device numbers them from `first` on. They
    /// keep to the limit of `limiter` together. What would wait does so in `ring`, if there is one.
    pub(super) fn new(count: usize, first: usize, limiter: Limiter, ring: Option<Ring>) -> Requests<K> {
        Requests { count: count.clamp(1, MAX_QUEUES), first, limiter, waits: Waits::new(ring), turn: 0 }
    }

    /// How many queues there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What becomes readable when a request that waits can be answered.
    pub(super) fn host(&self) -> Option<BorrowedFd<'_>> {
        self.waits.host()
    }

    /// The driver is gone, see [`Waits::forget`].
    pub(super) fn forget(&mut self) {
        self.waits.forget();
    }

    /// The driver takes its memory back, see [`Waits::settle`].
    pub(super) fn settle(&mut self) {
        self.waits.settle();
    }

    /// Answers what no longer waits, and carries out what the driver has added: to one of `queues` if that is the cause, else
    /// to all.
    pub(super) fn serve(
        &mut self,
        carrier: &impl Carrier<Kept = K>,
        memory: &Memory,
        queues: &mut [Queue],
        cause: Cause,
        served: &mut Served,
    ) -> Result<(), Fault> {
        // A new driver's requests are not to overtake a former one's. A device that a fault has stopped has no queues.
        let outcome = if self.waits.is_held() || queues.is_empty() {
            Ok(())
        } else {
            self.finish(carrier, memory, queues, served)
                .and_then(|()| self.begin(carrier, memory, queues, cause, served))
        };
        // Also before a fault, so that all that was begun comes to an end.
        served.again |= !self.waits.send();
        outcome
    }

    fn finish<C: Carrier<Kept = K>>(
        &mut self,
        _carrier: &C,
        memory: &Memory,
        queues: &mut [Queue],
        served: &mut Served,
    ) -> Result<(), Fault> {
        while let Some((Waiting { queue: index, head, kept }, outcome)) = self.waits.finished() {
            let written = C::answer(kept, outcome);
            if let Some(queue) = queues.get_mut(index).filter(|queue| queue.ready()) {
                self.give_back(memory, (index, queue), (head, written), served)?;
            }
        }
        Ok(())
    }

    fn give_back(
        &self,
        memory: &Memory,
        (index, queue): (usize, &mut Queue),
        (head, written): (u16, u32),
        served: &mut Served,
    ) -> Result<(), Fault> {
        let number = self.first + index;
        queue.add_used(memory, head, written).map_err(Fault::of(number))?;
        served.used(number);
        Ok(())
    }

    fn begin(
        &mut self,
        carrier: &impl Carrier<Kept = K>,
        memory: &Memory,
        queues: &mut [Queue],
        cause: Cause,
        served: &mut Served,
    ) -> Result<(), Fault> {
        let (from, number) = match cause {
            Cause::Queue(number) => (number.saturating_sub(self.first), 1),
            Cause::Host(_) | Cause::Again => (self.turn, queues.len()),
        };
        let mut left = (BUDGET, TURN);
        for index in (from..queues.len()).chain(0..from).take(number) {
            let Some(queue) = queues.get_mut(index).filter(|queue| queue.ready()) else { continue };
            let before = left.0;
            let next = self.take(carrier, memory, (index, queue), &mut left, served)?;
            if matches!(next, Next::Queue) {
                continue;
            }
            // Whoever had something is behind the others the next time.
            let following = if index + 1 < queues.len() { index + 1 } else { 0 };
            self.turn = if left.0 < before { following } else { index };
            served.again |= matches!(next, Next::Turn);
            return Ok(());
        }
        Ok(())
    }

    /// Carries out the requests of one queue, until `left`, requests and work, is used up.
    fn take(
        &mut self,
        carrier: &impl Carrier<Kept = K>,
        memory: &Memory,
        (index, queue): (usize, &mut Queue),
        left: &mut (usize, u64),
        served: &mut Served,
    ) -> Result<Next, Fault> {
        loop {
            if *left == (0, left.1) || left.1 == 0 {
                return Ok(Next::Turn);
            }
            if let Some(wait) = self.limiter.wait() {
                served.wait(wait);
                return Ok(Next::Event);
            }
            if !self.waits.has_room() {
                // The end of any that waits is the time to go on.
                return Ok(Next::Event);
            }
            let number = self.first + index;
            let Some(chain) = pop(queue, memory).map_err(Fault::of(number))? else { return Ok(Next::Queue) };
            let head = chain.head_index();
            let may_wait = self.waits.is_possible();
            let done = Chain::collect(memory, chain)
                .ok()
                .and_then(|chain| carrier.carry_out(memory, chain, may_wait));
            served.malformed += u64::from(done.is_none());
            let (done, work) = done.unwrap_or((Done::Over(0), 0));
            match done {
                Done::Over(written) => self.give_back(memory, (index, queue), (head, written), served)?,
                Done::Waits(transfer, kept) => {
                    self.waits.begin(transfer, Waiting { queue: index, head, kept });
                }
            }
            self.limiter.spend(work);
            *left = (left.0 - 1, left.1.saturating_sub(work));
        }
    }
}
