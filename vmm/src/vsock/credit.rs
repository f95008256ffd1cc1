//! The two byte accounts of a connection: what the guest may send us, and what we may send the guest.
//!
//! ```text
//! guest ── received ──▶ [ window ] ── forwarded ──▶ host socket      Inflow:  received - forwarded <= window
//! host socket ── sent ──▶ [ guest's buffer ] ── fwd_cnt ──▶ reader   Outflow: sent - fwd_cnt <= buf_alloc
//! ```
//! All counters are modulo 2^32, as on the wire. Never here: bytes, sockets, packets.

use std::collections::VecDeque;

use super::packet::Credit;

/// Bytes of one queued packet that Linux books beside its payload: `SKB_TRUESIZE(0)` is 576 on x86-64.
/// Linux 6.12.92 and later reset a connection whose queue of packets, counted so, is over the receive buffer,
/// however few bytes the packets carry; credit alone does not bound that, so packets are counted too.
const PACKET_OVERHEAD: u32 = 1024;

/// The most packets on the way to the guest, however large a buffer it claims: each is remembered here.
const MAX_PACKETS: u32 = 4096;

/// The guest sent more than it was given credit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

/// Guest to host.
#[derive(Debug)]
pub struct Inflow {
    window: u32,
    received: u32,
    forwarded: u32,
    told: u32,
}

impl Inflow {
    /// An account that lets the guest have `window` bytes on the way.
    pub fn new(window: u32) -> Inflow {
        Inflow { window, received: 0, forwarded: 0, told: 0 }
    }

    /// Books `len` bytes that arrived.
    pub fn receive(&mut self, len: u32) -> Result<(), Overrun> {
        let free = self.window.saturating_sub(self.waiting());
        if len > free {
            return Err(Overrun);
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// Books `len` bytes that left for the host, or were thrown away because nobody there reads any more.
    pub fn forward(&mut self, len: u32) {
        let len = len.min(self.waiting());
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// Bytes that arrived and did not leave yet.
    pub fn waiting(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// The credit to put into a packet that is about to be sent.
    pub fn tell(&mut self) -> Credit {
        self.told = self.forwarded;
        Credit { buf_alloc: self.window, fwd_cnt: self.forwarded }
    }

    /// Whether the guest should hear of new credit without waiting for a packet that goes its way anyway.
    /// Half of the window: a guest that is out of credit while nothing waits here has at least been owed that, and one that is not
    /// goes on with the other half while it is told.
    pub fn is_stale(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= (self.window / 2).max(1)
    }
}

/// What may be sent to the guest now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of payload, in all packets together.
    pub bytes: u32,
    /// Packets that they may be in.
    pub packets: u32,
}

/// Host to guest.
#[derive(Debug)]
pub struct Outflow {
    sent: u32,
    peer: Credit,
    /// Value of `sent` after each packet that the guest has not consumed whole.
    tails: VecDeque<u32>,
}

impl Outflow {
    /// An account for a guest that said `peer` when the connection began.
    pub fn new(peer: Credit) -> Outflow {
        Outflow { sent: 0, peer, tails: VecDeque::new() }
    }

    /// Books what the guest says about its buffer. A guest that lies here hurts only itself.
    pub fn learn(&mut self, peer: Credit) {
        self.peer = peer;
        let unread = self.unread();
        // A packet is gone when the distance from its tail to `sent` is at least the bytes still unread.
        while self.tails.front().is_some_and(|tail| self.sent.wrapping_sub(*tail) >= unread) {
            self.tails.pop_front();
        }
    }

    /// What the next packets may carry, if anything.
    pub fn room(&self) -> Option<Room> {
        let unread = u32::try_from(self.tails.len()).unwrap_or(u32::MAX);
        let fit = (self.peer.buf_alloc / PACKET_OVERHEAD).clamp(1, MAX_PACKETS);
        let packets = fit.saturating_sub(unread);
        let bytes = self.peer.buf_alloc.saturating_sub(self.unread());
        (packets > 0 && bytes > 0).then_some(Room { bytes, packets })
    }

    /// Books a packet of `len` bytes on its way to the guest.
    pub fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
        self.tails.push_back(self.sent);
    }

    fn unread(&self) -> u32 {
        self.sent.wrapping_sub(self.peer.fwd_cnt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guest(buf_alloc: u32, fwd_cnt: u32) -> Credit {
        Credit { buf_alloc, fwd_cnt }
    }

    fn bytes(outflow: &Outflow) -> u32 {
        outflow.room().map_or(0, |room| room.bytes)
    }

    #[test]
    fn a_byte_over_the_window_is_an_overrun() {
        let mut inflow = Inflow::new(100);
        assert_eq!(inflow.receive(100), Ok(()));
        assert_eq!(inflow.receive(1), Err(Overrun));
    }

    #[test]
    fn forwarded_bytes_become_credit_again() {
        let mut inflow = Inflow::new(100);
        inflow.receive(100).unwrap();
        inflow.forward(60);
        assert_eq!(inflow.receive(60), Ok(()));
        assert_eq!(inflow.tell(), guest(100, 60));
    }

    #[test]
    fn credit_is_stale_after_half_of_the_window() {
        let mut inflow = Inflow::new(100);
        inflow.receive(100).unwrap();
        inflow.forward(49);
        assert!(!inflow.is_stale());
        inflow.forward(1);
        assert!(inflow.is_stale());
    }

    #[test]
    fn telling_makes_credit_fresh() {
        let mut inflow = Inflow::new(100);
        inflow.receive(100).unwrap();
        inflow.forward(100);
        inflow.tell();
        assert!(!inflow.is_stale());
    }

    #[test]
    fn room_is_what_the_guest_has_free() {
        let mut outflow = Outflow::new(guest(10_000, 0));
        outflow.send(600);
        assert_eq!(bytes(&outflow), 9400);
    }

    #[test]
    fn a_guest_that_shrinks_its_buffer_gets_nothing() {
        let mut outflow = Outflow::new(guest(1000, 0));
        outflow.send(600);
        outflow.learn(guest(500, 0));
        assert_eq!(outflow.room(), None);
    }

    #[test]
    fn a_guest_that_claims_bytes_it_never_got_gets_nothing() {
        let mut outflow = Outflow::new(guest(1000, 0));
        outflow.learn(guest(1000, 1));
        assert_eq!(outflow.room(), None);
    }

    #[test]
    fn accounts_survive_the_wrap_of_their_counters() {
        let mut outflow =
            Outflow { sent: u32::MAX - 9, peer: guest(10_000, u32::MAX - 9), tails: VecDeque::new() };
        outflow.send(30);
        assert_eq!(bytes(&outflow), 9970);
        outflow.learn(guest(10_000, 20));
        assert_eq!(bytes(&outflow), 10_000);
    }

    #[test]
    fn many_small_packets_use_up_the_room_before_their_bytes_do() {
        let mut outflow = Outflow::new(guest(3 * PACKET_OVERHEAD, 0));
        outflow.send(1);
        outflow.send(1);
        assert!(outflow.room().is_some());
        outflow.send(1);
        assert_eq!(outflow.room(), None);
    }

    #[test]
    fn consumed_packets_give_room_back_one_by_one() {
        let mut outflow = Outflow::new(guest(2 * PACKET_OVERHEAD, 0));
        outflow.send(10);
        outflow.send(10);
        outflow.learn(guest(2 * PACKET_OVERHEAD, 9));
        assert_eq!(outflow.room(), None);
        outflow.learn(guest(2 * PACKET_OVERHEAD, 10));
        assert!(outflow.room().is_some());
    }

    #[test]
    fn a_guest_that_claims_an_endless_buffer_does_not_make_the_list_of_packets_endless() {
        let mut outflow = Outflow::new(guest(u32::MAX, 0));
        while outflow.room().is_some() {
            outflow.send(1);
        }
        assert_eq!(outflow.tails.len(), 4096);
    }

    #[test]
    fn a_tiny_buffer_still_takes_one_packet() {
        let outflow = Outflow::new(guest(10, 0));
        assert_eq!(bytes(&outflow), 10);
    }

    proptest! {
        #[test]
        fn the_guest_is_never_sent_more_than_its_buffer(steps in proptest::collection::vec((any::<u16>(), any::<u16>()), 0..200)) {
            let size = 20_000;
            let mut outflow = Outflow::new(guest(size, 0));
            let (mut sent, mut read) = (0_u32, 0_u32);
            for (want, drain) in steps {
                let len = u32::from(want).min(bytes(&outflow));
                if len > 0 {
                    outflow.send(len);
                    sent += len;
                }
                prop_assert!(sent - read <= size);
                prop_assert!(outflow.tails.len() <= 20);
                read += u32::from(drain).min(sent - read);
                outflow.learn(guest(size, read));
            }
        }

        #[test]
        fn what_waits_here_is_never_over_the_window(steps in proptest::collection::vec((any::<u16>(), any::<u16>()), 0..200)) {
            let mut inflow = Inflow::new(30_000);
            for (arrive, leave) in steps {
                let _ = inflow.receive(u32::from(arrive));
                prop_assert!(inflow.waiting() <= 30_000);
                inflow.forward(u32::from(leave));
            }
        }
    }
}
