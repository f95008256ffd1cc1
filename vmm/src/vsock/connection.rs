//! One connection as a table of turns: what the guest's packets and the host's socket make of it.
//!
//! ```text
//! host connects:  Calling ──Response──▶ Open          guest connects:  Open (the host socket is already there)
//! Open ──guest closed both ends, or reset it──▶ over (what waits for the host is still delivered)
//! Open ──host closed both ends──▶ Open until the guest resets it, as the standard asks of the guest
//! ```
//! Never here: sockets, guest memory, clocks.

use super::credit::{Inflow, Outflow, Room};
use super::packet::{Credit, Ends, Key, Op, Packet};

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest was asked and has not answered.
    Calling,
    /// Both sides are there.
    Open,
}

/// What the device must do after a packet from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing beyond what the connection now owes the guest.
    Nothing,
    /// Tell the host's client that the guest accepted.
    Greet,
    /// Pass the payload on to the host's socket.
    Deliver,
    /// The guest closed these ends; close them at the host's socket, the sending one after what still waits.
    Shut(Ends),
    /// The guest ended the connection: forget it, deliver what waits, close the socket; `reply` asks for a reset.
    Over {
        /// Whether the guest awaits a reset.
        reply: bool,
    },
    /// The guest broke the rules: forget the connection at once and reset it.
    Violation,
}

/// What a connection wants to send to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// This packet, without payload.
    Control(Op),
    /// Payload, up to this much, if the host's socket has any.
    Data(Room),
}

/// Packets without payload that a connection owes the guest.
#[derive(Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    shutdown: bool,
    credit: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    key: Key,
    phase: Phase,
    inflow: Inflow,
    outflow: Outflow,
    guest: Ends,
    host: Ends,
    owed: Owed,
    readable: bool,
}

impl Connection {
    /// A connection that a client on the host asked for.
    pub fn call(key: Key, window: u32) -> Connection {
        Connection::new(key, Phase::Calling, Outflow::new(Credit::default()), window)
    }

    /// A connection that the guest asked for and the host took.
    pub fn answer(key: Key, peer: Credit, window: u32) -> Connection {
        Connection::new(key, Phase::Open, Outflow::new(peer), window)
    }

    fn new(key: Key, phase: Phase, outflow: Outflow, window: u32) -> Connection {
        let owed =
            Owed { request: phase == Phase::Calling, response: phase == Phase::Open, ..Owed::default() };
        let (guest, host) = (Ends::default(), Ends::default());
        Connection { key, phase, inflow: Inflow::new(window), outflow, guest, host, owed, readable: true }
    }

    /// Takes a packet from the guest.
    pub fn on_packet(&mut self, op: Op, credit: Credit) -> Reaction {
        self.outflow.learn(credit);
        match (self.phase, op) {
            (_, Op::Reset) => Reaction::Over { reply: false },
            (Phase::Calling, Op::Response) => {
                self.phase = Phase::Open;
                Reaction::Greet
            }
            (Phase::Open, Op::Data { len }) => self.on_data(len),
            (Phase::Open, Op::Shutdown(ends)) => {
                self.guest = self.guest.or(ends);
                if self.guest.both() { Reaction::Over { reply: true } } else { Reaction::Shut(ends) }
            }
            (Phase::Open, Op::CreditUpdate) => Reaction::Nothing,
            (Phase::Open, Op::CreditRequest) => {
                self.owed.credit = true;
                Reaction::Nothing
            }
            _ => Reaction::Violation,
        }
    }

    fn on_data(&mut self, len: u32) -> Reaction {
        if self.guest.send || self.inflow.receive(len).is_err() {
            return Reaction::Violation;
        }
        if self.host.recv {
            self.forwarded(len);
            return Reaction::Nothing;
        }
        Reaction::Deliver
    }

    /// The host's socket has, or may have, bytes for the guest.
    pub fn host_readable(&mut self) {
        self.readable = true;
    }

    /// The host's socket has no bytes for the guest now.
    pub fn host_dry(&mut self) {
        self.readable = false;
    }

    /// The host's side closed these ends: its sending one after its last byte was read.
    pub fn host_closed(&mut self, ends: Ends) {
        let before = self.host;
        self.host = self.host.or(ends);
        if self.host.recv {
            self.inflow.forward(self.inflow.waiting());
        }
        self.owed.shutdown |= self.host != before;
    }

    /// `len` bytes of the guest's went to the host's socket.
    pub fn forwarded(&mut self, len: u32) {
        self.inflow.forward(len);
        self.owed.credit |= self.inflow.is_stale() && !self.guest.send;
    }

    /// Whether the guest was never asked: nothing needs to be taken back.
    pub fn is_unknown_to_guest(&self) -> bool {
        self.phase == Phase::Calling && self.owed.request
    }

    /// Whether the guest's answer is awaited.
    pub fn is_calling(&self) -> bool {
        self.phase == Phase::Calling
    }

    /// What to send next, if anything.
    pub fn want(&self) -> Option<Want> {
        if let Some(op) = self.owed_op() {
            return Some(Want::Control(op));
        }
        let may_read = self.phase == Phase::Open && self.readable && !self.host.send && !self.guest.recv;
        self.outflow.room().filter(|_| may_read).map(Want::Data)
    }

    fn owed_op(&self) -> Option<Op> {
        if self.owed.request {
            Some(Op::Request)
        } else if self.owed.response {
            Some(Op::Response)
        } else if self.phase == Phase::Calling {
            None
        } else if self.owed.shutdown {
            Some(Op::Shutdown(self.host))
        } else if self.owed.credit {
            Some(Op::CreditUpdate)
        } else {
            None
        }
    }

    /// Makes the packet for `op`, which is about to be sent.
    pub fn emit(&mut self, op: Op) -> Packet {
        match op {
            Op::Request => self.owed.request = false,
            Op::Response => self.owed.response = false,
            Op::Shutdown(_) => self.owed.shutdown = false,
            Op::Data { len } => self.outflow.send(len),
            Op::Reset | Op::CreditUpdate | Op::CreditRequest => {}
        }
        self.owed.credit = false;
        Packet { key: self.key, op, credit: self.inflow.tell() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::MAX_PAYLOAD;
    use super::*;
    use proptest::prelude::*;

    const KEY: Key = Key { host_port: 1 << 30, guest_port: 1024 };
    const ROOMY: Credit = Credit { buf_alloc: 1 << 18, fwd_cnt: 0 };
    const EMPTY: Room = Room { bytes: 1 << 18, packets: 1 << 8 };
    const SEND: Ends = Ends { recv: false, send: true };
    const RECV: Ends = Ends { recv: true, send: false };
    const BOTH: Ends = Ends { recv: true, send: true };

    fn open() -> Connection {
        let mut connection = Connection::answer(KEY, ROOMY, 1000);
        connection.emit(Op::Response);
        connection
    }

    #[test]
    fn a_call_asks_the_guest_and_then_waits() {
        let mut connection = Connection::call(KEY, 1000);
        assert_eq!(connection.want(), Some(Want::Control(Op::Request)));
        connection.emit(Op::Request);
        assert_eq!(connection.want(), None);
    }

    #[test]
    fn an_accepted_call_greets_the_client_and_reads_from_it() {
        let mut connection = Connection::call(KEY, 1000);
        connection.emit(Op::Request);
        assert_eq!(connection.on_packet(Op::Response, ROOMY), Reaction::Greet);
        assert_eq!(connection.want(), Some(Want::Data(EMPTY)));
    }

    #[test]
    fn a_refused_call_is_over() {
        let mut connection = Connection::call(KEY, 1000);
        assert_eq!(connection.on_packet(Op::Reset, ROOMY), Reaction::Over { reply: false });
    }

    #[test]
    fn data_before_the_answer_is_a_violation() {
        let mut connection = Connection::call(KEY, 1000);
        assert_eq!(connection.on_packet(Op::Data { len: 1 }, ROOMY), Reaction::Violation);
    }

    #[test]
    fn a_second_response_is_a_violation() {
        assert_eq!(open().on_packet(Op::Response, ROOMY), Reaction::Violation);
    }

    #[test]
    fn a_second_request_is_a_violation() {
        assert_eq!(open().on_packet(Op::Request, ROOMY), Reaction::Violation);
    }

    #[test]
    fn data_over_the_window_is_a_violation() {
        assert_eq!(open().on_packet(Op::Data { len: 1001 }, ROOMY), Reaction::Violation);
    }

    #[test]
    fn data_after_the_guest_closed_its_sending_end_is_a_violation() {
        let mut connection = open();
        assert_eq!(connection.on_packet(Op::Shutdown(SEND), ROOMY), Reaction::Shut(SEND));
        assert_eq!(connection.on_packet(Op::Data { len: 1 }, ROOMY), Reaction::Violation);
    }

    #[test]
    fn the_guest_still_receives_after_it_closed_its_sending_end() {
        let mut connection = open();
        connection.on_packet(Op::Shutdown(SEND), ROOMY);
        assert_eq!(connection.want(), Some(Want::Data(EMPTY)));
    }

    #[test]
    fn the_guest_still_sends_after_the_host_closed_its_sending_end() {
        let mut connection = open();
        connection.host_closed(SEND);
        assert_eq!(connection.want(), Some(Want::Control(Op::Shutdown(SEND))));
        connection.emit(Op::Shutdown(SEND));
        assert_eq!(connection.on_packet(Op::Data { len: 9 }, ROOMY), Reaction::Deliver);
        assert_eq!(connection.want(), None);
    }

    #[test]
    fn a_guest_that_receives_no_more_is_sent_no_data() {
        let mut connection = open();
        connection.on_packet(Op::Shutdown(RECV), ROOMY);
        assert_eq!(connection.want(), None);
    }

    #[test]
    fn ends_closed_one_after_the_other_end_the_connection() {
        let mut connection = open();
        connection.on_packet(Op::Shutdown(SEND), ROOMY);
        assert_eq!(connection.on_packet(Op::Shutdown(RECV), ROOMY), Reaction::Over { reply: true });
    }

    #[test]
    fn both_ends_of_the_host_are_told_together() {
        let mut connection = open();
        connection.host_closed(RECV);
        connection.host_closed(SEND);
        assert_eq!(connection.want(), Some(Want::Control(Op::Shutdown(BOTH))));
    }

    #[test]
    fn a_closed_end_is_told_once() {
        let mut connection = open();
        connection.host_closed(BOTH);
        connection.emit(Op::Shutdown(BOTH));
        connection.host_closed(BOTH);
        assert_eq!(connection.want(), None);
    }

    #[test]
    fn data_that_nobody_reads_any_more_is_dropped_and_credited() {
        let mut connection = open();
        connection.host_closed(RECV);
        connection.emit(Op::Shutdown(RECV));
        assert_eq!(connection.on_packet(Op::Data { len: 1000 }, ROOMY), Reaction::Nothing);
        assert_eq!(connection.on_packet(Op::Data { len: 1000 }, ROOMY), Reaction::Nothing);
        assert_eq!(connection.want(), Some(Want::Control(Op::CreditUpdate)));
    }

    #[test]
    fn a_credit_request_is_answered() {
        let mut connection = open();
        connection.host_dry();
        connection.on_packet(Op::CreditRequest, ROOMY);
        assert_eq!(connection.want(), Some(Want::Control(Op::CreditUpdate)));
        connection.emit(Op::CreditUpdate);
        assert_eq!(connection.want(), None);
    }

    #[test]
    fn a_guest_without_room_is_sent_no_data() {
        let mut connection = open();
        connection.on_packet(Op::CreditUpdate, Credit::default());
        assert_eq!(connection.want(), None);
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Request),
            Just(Op::Response),
            Just(Op::CreditRequest),
            Just(Op::CreditUpdate),
            any::<(bool, bool)>().prop_map(|(recv, send)| Op::Shutdown(Ends { recv, send })),
            (0..=MAX_PAYLOAD).prop_map(|len| Op::Data { len }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_the_guest_sends_waiting_bytes_stay_within_the_window(
            steps in proptest::collection::vec((any_op(), any::<(u32, u32, u16, u8)>()), 0..300)
        ) {
            let mut connection = Connection::call(KEY, 100_000);
            for (op, (buf_alloc, fwd_cnt, forwarded, host)) in steps {
                match connection.on_packet(op, Credit { buf_alloc, fwd_cnt }) {
                    Reaction::Over { .. } | Reaction::Violation => connection = Connection::call(KEY, 100_000),
                    _ => {}
                }
                prop_assert!(connection.inflow.waiting() <= 100_000);
                connection.forwarded(u32::from(forwarded));
                match host {
                    0 => connection.host_closed(SEND),
                    1 => connection.host_closed(RECV),
                    2 => connection.host_dry(),
                    3 => connection.host_readable(),
                    _ => {}
                }
                match connection.want() {
                    Some(Want::Control(op)) => { connection.emit(op); }
                    Some(Want::Data(room)) => { connection.emit(Op::Data { len: room.bytes.min(MAX_PAYLOAD) }); }
                    None => {}
                }
            }
        }
    }
}
