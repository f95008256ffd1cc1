//! All connections of one guest: who gets the next turn to send, and how many there may be.
//!
//! Turns go round: a connection that sent one packet goes to the back, so that none waits for another one's bytes.
//! Resets for connections that are not in the table go first and are bounded: while [`Table::is_clogged`] the guest's
//! packets must not be taken, because each might need one more.
//!
//! Never here: sockets, guest memory, clocks.

use std::collections::{BTreeMap, VecDeque};

use super::connection::{Connection, Reaction, Want};
use super::credit::Room;
use super::packet::{Credit, Ends, Key, Op, Packet};

/// Window of a connection while all windows together are within [`ROOMY_TOTAL`].
const ROOMY_WINDOW: u32 = 256 * 1024;

/// Window of the connections beyond that, so that 4096 of them hold 128 MiB at the very most.
const TIGHT_WINDOW: u32 = 16 * 1024;

/// Sum of windows up to which a new one is roomy.
const ROOMY_TOTAL: u64 = 64 * 1024 * 1024;

/// Resets that may wait for the guest before its packets are left in their queue.
const RESETS_WAITING: usize = 256;

/// The first port on the host's side that is given to connections which the host opens.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Whose socket belongs to a connection: a name given by the driver, which the table only keeps.
pub type Link = u32;

/// What a packet of the guest asks of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    None,
    /// Connect to the host's listener for this port, then call [`Table::dialled`].
    Dial(Packet),
    /// Write the greeting for this host port to the link.
    Greet(Link, u32),
    /// Pass the payload on to the link.
    Deliver(Link, Key),
    /// Close these ends of the link's socket, the sending one after what still waits.
    Shut(Link, Ends),
    /// The connection is forgotten; close the link after what still waits, and then call [`Table::released`].
    Finish(Link),
    /// The connection is forgotten; close the link now.
    Abort(Link),
}

/// What to put into the guest's next buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This packet.
    Packet(Packet),
    /// What the link's socket has, as much as there is room for; then [`Table::sent`] for each packet, [`Table::dry`] or
    /// [`Table::host_closed`].
    Read {
        /// Whose turn it is.
        key: Key,
        /// Where its bytes come from.
        link: Link,
        /// How much at most.
        room: Room,
    },
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    link: Link,
    window: u32,
    queued: bool,
}

/// All connections of one guest.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<Key, Entry>,
    ready: VecDeque<Key>,
    resets: VecDeque<Key>,
    windows: u64,
    /// Windows of connections that are over, and whose links may still hold as many bytes.
    held: BTreeMap<Link, u32>,
    next_port: u32,
}

impl Table {
    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.entries.len()
    }

    /// Whether the guest must take packets before more of its own may be taken.
    pub fn is_clogged(&self) -> bool {
        self.resets.len() >= RESETS_WAITING
    }

    /// Opens a connection to `guest_port` for a client whose socket is `link`.
    pub fn call(&mut self, guest_port: u32, link: Link) -> Key {
        let mut key = Key { host_port: FIRST_HOST_PORT, guest_port };
        loop {
            key.host_port = FIRST_HOST_PORT | (self.next_port & (FIRST_HOST_PORT - 1));
            self.next_port = self.next_port.wrapping_add(1);
            // Ends: there are far fewer connections than ports.
            if !self.entries.contains_key(&key) {
                break;
            }
        }
        let window = self.window();
        self.insert(key, link, Connection::call(key, window), window);
        key
    }

    /// Takes a packet from the guest.
    pub fn on_packet(&mut self, packet: Packet) -> Task {
        let key = packet.key;
        let Some(entry) = self.entries.get_mut(&key) else {
            return match packet.op {
                Op::Request => Task::Dial(packet),
                Op::Reset => Task::None,
                _ => {
                    self.reset(key);
                    Task::None
                }
            };
        };
        let link = entry.link;
        let task = match entry.connection.on_packet(packet.op, packet.credit) {
            Reaction::Nothing => Task::None,
            Reaction::Greet => Task::Greet(link, key.host_port),
            Reaction::Deliver => Task::Deliver(link, key),
            Reaction::Shut(ends) => Task::Shut(link, ends),
            Reaction::Over { reply } => {
                let window = self.forget(key).map_or(0, |entry| entry.window);
                self.hold(link, window);
                if reply {
                    self.reset(key);
                }
                return Task::Finish(link);
            }
            Reaction::Violation => {
                self.forget(key);
                self.reset(key);
                return Task::Abort(link);
            }
        };
        self.requeue(key);
        task
    }

    /// The driver connected to the host's listener for the guest's request: the connection is open.
    pub fn dialled(&mut self, key: Key, peer: Credit, link: Link) {
        let window = self.window();
        self.insert(key, link, Connection::answer(key, peer, window), window);
    }

    /// Refuses what the guest sent for ports `key`.
    pub fn reset(&mut self, key: Key) {
        self.resets.push_back(key);
    }

    /// The link of a connection that was finished is closed: what waited there is gone.
    pub fn released(&mut self, link: Link) {
        let window = self.held.remove(&link).unwrap_or(0);
        self.windows = self.windows.saturating_sub(u64::from(window));
    }

    fn hold(&mut self, link: Link, window: u32) {
        let held = self.held.entry(link).or_default();
        *held = held.saturating_add(window);
        self.windows = self.windows.saturating_add(u64::from(window));
    }

    /// The host's client went away: forgets the connection, taking the call back if the guest knows of it.
    /// Only for connections that [`Table::is_calling`].
    pub fn hang_up(&mut self, key: Key) {
        if let Some(entry) = self.forget(key)
            && !entry.connection.is_unknown_to_guest()
        {
            self.reset(key);
        }
    }

    /// Whether the guest has not yet answered this call.
    pub fn is_calling(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.connection.is_calling())
    }

    /// The host's socket may have bytes.
    pub fn readable(&mut self, key: Key) {
        self.with(key, Connection::host_readable);
    }

    /// The host's socket has no bytes now.
    pub fn dry(&mut self, key: Key) {
        self.with(key, Connection::host_dry);
    }

    /// The host's side closed these ends.
    pub fn host_closed(&mut self, key: Key, ends: Ends) {
        self.with(key, |connection| connection.host_closed(ends));
    }

    /// `len` bytes of the guest's went to the host's socket.
    pub fn forwarded(&mut self, key: Key, len: u32) {
        self.with(key, |connection| connection.forwarded(len));
    }

    /// `len` bytes were read for a [`Turn::Read`]: gives their header.
    pub fn sent(&mut self, key: Key, len: u32) -> Option<Packet> {
        let packet = self.entries.get_mut(&key)?.connection.emit(Op::Data { len });
        self.requeue(key);
        Some(packet)
    }

    /// Whether anything is to be sent.
    pub fn has_turn(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// What to send next. The caller must have a buffer of the guest's at hand: a packet given out is a packet sent.
    pub fn turn(&mut self) -> Option<Turn> {
        if let Some(key) = self.resets.pop_front() {
            return Some(Turn::Packet(Packet { key, op: Op::Reset, credit: Credit::default() }));
        }
        loop {
            let key = self.ready.pop_front()?;
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.queued = false;
            match entry.connection.want() {
                Some(Want::Control(op)) => {
                    let packet = entry.connection.emit(op);
                    self.requeue(key);
                    return Some(Turn::Packet(packet));
                }
                Some(Want::Data(room)) => return Some(Turn::Read { key, link: entry.link, room }),
                None => {}
            }
        }
    }

    fn window(&self) -> u32 {
        if self.windows.saturating_add(u64::from(ROOMY_WINDOW)) <= ROOMY_TOTAL {
            ROOMY_WINDOW
        } else {
            TIGHT_WINDOW
        }
    }

    fn insert(&mut self, key: Key, link: Link, connection: Connection, window: u32) {
        self.windows = self.windows.saturating_add(u64::from(window));
        self.entries.insert(key, Entry { connection, link, window, queued: false });
        self.requeue(key);
    }

    fn forget(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.windows = self.windows.saturating_sub(u64::from(entry.window));
        if entry.queued {
            self.ready.retain(|queued| *queued != key);
        }
        Some(entry)
    }

    fn with(&mut self, key: Key, change: impl FnOnce(&mut Connection)) {
        if let Some(entry) = self.entries.get_mut(&key) {
            change(&mut entry.connection);
            self.requeue(key);
        }
    }

    fn requeue(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.queued
            && entry.connection.want().is_some()
        {
            entry.queued = true;
            self.ready.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOMY: Credit = Credit { buf_alloc: 1 << 18, fwd_cnt: 0 };
    const BOTH: Ends = Ends { recv: true, send: true };

    fn packet(key: Key, op: Op) -> Packet {
        Packet { key, op, credit: ROOMY }
    }

    fn opened(table: &mut Table, guest_port: u32, link: Link) -> Key {
        let key = table.call(guest_port, link);
        table.turn();
        table.on_packet(packet(key, Op::Response));
        key
    }

    fn reset_of(key: Key) -> Turn {
        Turn::Packet(Packet { key, op: Op::Reset, credit: Credit::default() })
    }

    #[test]
    fn two_calls_to_one_port_have_keys_of_their_own() {
        let mut table = Table::default();
        assert_ne!(table.call(1024, 1), table.call(1024, 2));
    }

    #[test]
    fn connections_take_turns() {
        let mut table = Table::default();
        let (first, second) = (table.call(1024, 1), table.call(1024, 2));
        table.turn();
        table.turn();
        table.on_packet(packet(first, Op::Response));
        table.on_packet(packet(second, Op::Response));
        assert!(matches!(table.turn(), Some(Turn::Read { key, .. }) if key == first));
        table.sent(first, 100);
        assert!(matches!(table.turn(), Some(Turn::Read { key, .. }) if key == second));
        table.sent(second, 100);
        assert!(matches!(table.turn(), Some(Turn::Read { key, .. }) if key == first));
    }

    #[test]
    fn a_dry_connection_has_no_turn_until_it_is_readable() {
        let mut table = Table::default();
        let key = opened(&mut table, 1024, 1);
        table.turn();
        table.dry(key);
        assert!(!table.has_turn());
        table.readable(key);
        assert!(table.has_turn());
    }

    #[test]
    fn a_packet_for_nobody_is_reset() {
        let mut table = Table::default();
        let key = Key { host_port: 5, guest_port: 6 };
        assert_eq!(table.on_packet(packet(key, Op::Data { len: 0 })), Task::None);
        assert_eq!(table.turn(), Some(reset_of(key)));
    }

    #[test]
    fn a_reset_for_nobody_is_not_answered() {
        let mut table = Table::default();
        table.on_packet(packet(Key { host_port: 5, guest_port: 6 }, Op::Reset));
        assert!(!table.has_turn());
    }

    #[test]
    fn a_request_is_dialled_and_then_answered() {
        let mut table = Table::default();
        let request = packet(Key { host_port: 1023, guest_port: 6 }, Op::Request);
        assert_eq!(table.on_packet(request), Task::Dial(request));
        table.dialled(request.key, request.credit, 7);
        assert!(matches!(table.turn(), Some(Turn::Packet(Packet { op: Op::Response, .. }))));
    }

    #[test]
    fn a_second_request_for_an_open_connection_ends_it() {
        let mut table = Table::default();
        let key = Key { host_port: 1023, guest_port: 6 };
        table.dialled(key, ROOMY, 7);
        assert_eq!(table.on_packet(packet(key, Op::Request)), Task::Abort(7));
        assert_eq!(table.turn(), Some(reset_of(key)));
        assert_eq!(table.connections(), 0);
    }

    #[test]
    fn a_full_shutdown_is_answered_with_a_reset_and_frees_the_ports() {
        let mut table = Table::default();
        let key = opened(&mut table, 1024, 1);
        assert_eq!(table.on_packet(packet(key, Op::Shutdown(BOTH))), Task::Finish(1));
        assert_eq!(table.turn(), Some(reset_of(key)));
        assert_eq!(table.connections(), 0);
    }

    #[test]
    fn a_client_that_leaves_before_the_guest_was_asked_leaves_no_trace() {
        let mut table = Table::default();
        let key = table.call(1024, 1);
        table.hang_up(key);
        assert!(!table.has_turn());
    }

    #[test]
    fn a_client_that_leaves_after_the_guest_was_asked_is_taken_back() {
        let mut table = Table::default();
        let key = table.call(1024, 1);
        table.turn();
        table.hang_up(key);
        assert_eq!(table.turn(), Some(reset_of(key)));
    }

    #[test]
    fn a_guest_that_takes_no_resets_clogs_the_table() {
        let mut table = Table::default();
        for port in 0..RESETS_WAITING {
            assert!(!table.is_clogged());
            table.on_packet(packet(Key { host_port: 5, guest_port: port as u32 }, Op::CreditRequest));
        }
        assert!(table.is_clogged());
        table.turn();
        assert!(!table.is_clogged());
    }

    #[test]
    fn connections_beyond_the_roomy_total_get_tight_windows() {
        let mut table = Table::default();
        let roomy = ROOMY_TOTAL / u64::from(ROOMY_WINDOW);
        for link in 0..roomy + 1 {
            table.call(1024, link as u32);
        }
        let tight = table.entries.values().filter(|entry| entry.window == TIGHT_WINDOW).count();
        assert_eq!(tight, 1);
        assert_eq!(table.windows, ROOMY_TOTAL + u64::from(TIGHT_WINDOW));
    }

    #[test]
    fn what_a_finished_connection_may_still_hold_counts_until_its_link_is_closed() {
        let mut table = Table::default();
        for link in 0..2 {
            let key = opened(&mut table, 1024, link);
            assert_eq!(table.on_packet(packet(key, Op::Reset)), Task::Finish(link));
        }
        assert_eq!(table.windows, 2 * u64::from(ROOMY_WINDOW));
        table.released(0);
        assert_eq!(table.windows, u64::from(ROOMY_WINDOW));
        table.released(1);
        table.released(1);
        assert_eq!(table.windows, 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Guest(u8, Op),
        Call(u8),
        Turn(u16),
        Host(u8, u8),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let op = prop_oneof![
            Just(Op::Request),
            Just(Op::Response),
            Just(Op::Reset),
            Just(Op::CreditRequest),
            Just(Op::CreditUpdate),
            any::<(bool, bool)>().prop_map(|(recv, send)| Op::Shutdown(Ends { recv, send })),
            any::<u16>().prop_map(|len| Op::Data { len: u32::from(len) }),
        ];
        prop_oneof![
            (any::<u8>(), op).prop_map(|(port, op)| Step::Guest(port % 4, op)),
            any::<u8>().prop_map(|port| Step::Call(port % 4)),
            any::<u16>().prop_map(Step::Turn),
            any::<(u8, u8)>().prop_map(|(port, what)| Step::Host(port % 4, what % 5)),
        ]
    }

    fn take(table: &mut Table, step: Step) {
        let key = |port: u8| Key { host_port: FIRST_HOST_PORT, guest_port: u32::from(port) };
        match step {
            Step::Guest(port, op) => {
                if let Task::Dial(request) = table.on_packet(packet(key(port), op)) {
                    table.dialled(request.key, request.credit, 0);
                }
            }
            Step::Call(port) => {
                table.call(u32::from(port), 0);
            }
            Step::Turn(len) => {
                if let Some(Turn::Read { key, room, .. }) = table.turn() {
                    table.sent(key, room.bytes.min(u32::from(len)));
                }
            }
            Step::Host(port, 0) => table.readable(key(port)),
            Step::Host(port, 1) => table.dry(key(port)),
            Step::Host(port, 2) => table.host_closed(key(port), Ends { recv: true, send: false }),
            Step::Host(port, 3) => table.host_closed(key(port), Ends { recv: false, send: true }),
            Step::Host(port, _) => table.forwarded(key(port), 4096),
        }
    }

    proptest! {
        #[test]
        fn no_sequence_panics_or_loses_count(steps in proptest::collection::vec(any_step(), 0..400)) {
            let mut table = Table::default();
            for step in steps {
                take(&mut table, step);
                let entries = table.entries.values().map(|entry| u64::from(entry.window));
                let windows: u64 = entries.chain(table.held.values().map(|window| u64::from(*window))).sum();
                prop_assert_eq!(windows, table.windows);
                let queued = table.entries.values().filter(|entry| entry.queued).count();
                prop_assert_eq!(queued, table.ready.len());
                let wanting = table.entries.values().filter(|entry| entry.connection.want().is_some()).count();
                prop_assert!(queued >= wanting);
            }
        }
    }
}
