//! Who is connected: what one client may use, so that it cannot take it from the others.
//!
//! A client is an IPv4 address or the first 64 bits of an IPv6 address. The table has a fixed size; when it is full of
//! clients that are busy, those who come new share one entry. When every connection is taken, one that waits for its client
//! is given to who comes new: the oldest of the client that has most. Where none does, a guest that waits to hear of a change
//! is answered sooner.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use tokio::sync::Notify;

use super::turns::{OverLimit, Turn, Turns};
use crate::source::Source;

/// Bytes of each body that count as nobody's: as much as evidence of SNP has, so that bodies of others never keep it out. There
/// are not more of them than connections.
const FREE: usize = 32 << 10;
/// Entries of the table: half a MiB.
const CLIENTS: usize = 8192;
/// TLS handshakes at once: each holds certificates and buffers of its own.
const HANDSHAKES: usize = 64;
const SECOND: u64 = 1_000_000_000;

/// What may come in.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Connections at once, of all clients together.
    pub connections: usize,
    /// Connections at once of one client.
    pub client_connections: u32,
    /// Requests of one client in a second; a new connection counts as one.
    pub client_requests_per_second: u32,
    /// Bytes of bodies that are held in memory at once, of all clients together, beside the first 32 KiB of each.
    pub body_bytes: usize,
    /// Those of one client.
    pub client_body_bytes: usize,
    /// TLS handshakes at once of one client; its others wait. There are 64 in all.
    pub client_handshakes: usize,
    /// Guests that wait at once to hear of a change, of all clients together.
    pub waiting_guests: usize,
    /// Those of one client.
    pub client_waiting_guests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            client_connections: 64,
            client_requests_per_second: 500,
            body_bytes: 24 << 20,
            client_body_bytes: 8 << 20,
            client_handshakes: 8,
            waiting_guests: 256,
            client_waiting_guests: 32,
        }
    }
}

/// Every client that is known now.
pub(super) struct Clients {
    limits: Limits,
    start: Instant,
    handshakes: Arc<Turns>,
    waiting_guests: Arc<Turns>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    known: HashMap<Source, Client>,
    /// Bytes of bodies, of all.
    held: usize,
    /// When busy clients filled the table, so that it is not searched for idle ones at each request.
    searched: u64,
    /// Connections that wait for their client, in the order in which they came to wait.
    waiting: BTreeMap<u64, (Source, Arc<Notify>)>,
    /// Guests that wait to hear of a change, in the same order.
    guests: BTreeMap<u64, (Source, Arc<Notify>)>,
    /// How often one came to wait.
    came: u64,
}

/// What one client uses.
#[derive(Debug, Default, Clone, Copy)]
struct Client {
    connections: u32,
    held: usize,
    /// When its requests will have been worked off at the rate that it is allowed, in nanoseconds from the start.
    due: u64,
}

/// A client that is connected. It leaves when this is dropped.
pub(super) struct Visit {
    clients: Arc<Clients>,
    source: Source,
    /// Told when it is to leave.
    leave: Arc<Notify>,
}

/// A time in which a connection waits for its client, until this is dropped.
pub(super) struct Waiting {
    clients: Arc<Clients>,
    number: u64,
}

/// A guest that waits to hear of a change, until this is dropped.
pub(super) struct WaitingGuest {
    clients: Arc<Clients>,
    number: u64,
    /// Told when it is to be answered.
    answer: Arc<Notify>,
    _turn: Turn,
}

/// Bytes that are held for a client until this is dropped.
pub(super) struct Held<'a> {
    visit: &'a Visit,
    /// All of them.
    bytes: usize,
    /// Those that count.
    counted: usize,
}

impl Clients {
    /// Nobody yet.
    pub(super) fn new(limits: Limits) -> Self {
        let handshakes = Turns::new(HANDSHAKES, limits.client_handshakes);
        let waiting_guests = Turns::new(limits.waiting_guests, limits.client_waiting_guests);
        Self { limits, start: Instant::now(), handshakes, waiting_guests, table: Mutex::default() }
    }

    /// Lets a client in that has connected, if it may.
    ///
    /// # Errors
    /// [`OverLimit::Client`]
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Visit, OverLimit> {
        let now = self.now();
        let mut table = self.table();
        let source = table.place_for(Source::of(address), now);
        let client = table.known.entry(source).or_default();
        if client.connections >= self.limits.client_connections {
            return Err(OverLimit::Client);
        }
        client.count(self.limits.client_requests_per_second, now)?;
        client.connections += 1;
        Ok(Visit { clients: self.clone(), source, leave: Arc::default() })
    }

    /// Tells one connection to leave that waits for its client, if there is one: of the client that has most, the one that
    /// waits longest. If there is none, a guest is answered that waits to hear of a change, and its connection ends then.
    /// Answers whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let mut table = self.table();
        let number = table.longest_of_most(&table.waiting);
        let leaves = number.and_then(|number| table.waiting.remove(&number)).or_else(|| {
            let number = table.longest_of_most(&table.guests)?;
            table.guests.remove(&number)
        });
        if let Some((_, leave)) = &leaves {
            leave.notify_one();
        }
        leaves.is_some()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Counters only: whole even if a thread died with them.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// Counts a request.
    ///
    /// # Errors
    /// [`OverLimit::Client`]
    pub(super) fn ask(&self) -> Result<(), OverLimit> {
        let now = self.clients.now();
        let rate = self.clients.limits.client_requests_per_second;
        self.clients.table().known.entry(self.source).or_default().count(rate, now)
    }

    /// Holds bytes of a body.
    pub(super) fn hold(&self) -> Held<'_> {
        Held { visit: self, bytes: 0, counted: 0 }
    }

    /// Waits for its client from now on: it may be told to leave.
    pub(super) fn wait(&self) -> Waiting {
        let mut table = self.clients.table();
        table.came += 1;
        let number = table.came;
        table.waiting.insert(number, (self.source, self.leave.clone()));
        Waiting { clients: self.clients.clone(), number }
    }

    /// Which client it is.
    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// Waits for a turn at a TLS handshake.
    pub(super) async fn handshake(&self) -> Option<Turn> {
        self.clients.handshakes.wait(self.source).await
    }

    /// Waits to hear of a change from now on.
    ///
    /// # Errors
    /// [`OverLimit`]
    pub(super) fn wait_for_change(&self) -> Result<WaitingGuest, OverLimit> {
        let turn = self.clients.waiting_guests.take(self.source)?;
        let answer = Arc::<Notify>::default();
        let mut table = self.clients.table();
        table.came += 1;
        let number = table.came;
        table.guests.insert(number, (self.source, answer.clone()));
        Ok(WaitingGuest { clients: self.clients.clone(), number, answer, _turn: turn })
    }

    /// Ends when it was told to leave.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl WaitingGuest {
    /// Ends when it is to be answered because somebody else needs its connection.
    pub(super) async fn told_to_end(&self) {
        self.answer.notified().await;
    }
}

impl Drop for WaitingGuest {
    fn drop(&mut self) {
        self.clients.table().guests.remove(&self.number);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.clients.table().waiting.remove(&self.number);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(client) = self.clients.table().known.get_mut(&self.source) {
            client.connections = client.connections.saturating_sub(1);
        }
    }
}

impl Held<'_> {
    /// Holds `bytes` more.
    ///
    /// # Errors
    /// [`OverLimit`]
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), OverLimit> {
        let all = self.bytes.saturating_add(bytes);
        let more = all.saturating_sub(FREE).saturating_sub(self.counted);
        let limits = self.visit.clients.limits;
        let mut table = self.visit.clients.table();
        if more > 0 && table.held.saturating_add(more) > limits.body_bytes {
            return Err(OverLimit::All);
        }
        let client = table.known.entry(self.visit.source).or_default();
        if more > 0 && client.held.saturating_add(more) > limits.client_body_bytes {
            return Err(OverLimit::Client);
        }
        client.held += more;
        table.held += more;
        (self.bytes, self.counted) = (all, self.counted + more);
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut table = self.visit.clients.table();
        table.held = table.held.saturating_sub(self.counted);
        if let Some(client) = table.known.get_mut(&self.visit.source) {
            client.held = client.held.saturating_sub(self.counted);
        }
    }
}

impl Table {
    /// Of the client that has most connections, the one that waits longest.
    fn longest_of_most(&self, waiting: &BTreeMap<u64, (Source, Arc<Notify>)>) -> Option<u64> {
        let of = |source: &Source| self.known.get(source).map_or(0, |client| client.connections);
        let most = waiting.values().map(|(source, _)| of(source)).max();
        let longest = waiting.iter().find(|(_, (source, _))| Some(of(source)) == most);
        longest.map(|(number, _)| *number)
    }

    /// The entry that `source` has, or gets.
    fn place_for(&mut self, source: Source, now: u64) -> Source {
        if self.known.contains_key(&source) || self.known.len() < CLIENTS {
            return source;
        }
        if now.saturating_sub(self.searched) >= SECOND / 10 {
            self.searched = now;
            self.known.retain(|_, client| client.connections > 0 || client.held > 0 || client.due > now);
        }
        if self.known.len() < CLIENTS { source } else { Source::Others }
    }
}

impl Client {
    /// A second's worth of requests may come at once.
    fn count(&mut self, rate: u32, now: u64) -> Result<(), OverLimit> {
        let each = SECOND.checked_div(u64::from(rate)).ok_or(OverLimit::Client)?;
        let due = self.due.max(now).saturating_add(each);
        if due > now.saturating_add(SECOND) {
            return Err(OverLimit::Client);
        }
        self.due = due;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

    fn clients(limits: Limits) -> Arc<Clients> {
        Arc::new(Clients::new(limits))
    }

    #[test]
    fn one_client_that_asks_too_often_does_not_hold_up_another() {
        let all = clients(Limits { client_requests_per_second: 3, ..Limits::default() });
        let (one, other) = (all.enter(HERE).expect("in"), all.enter(THERE).expect("in"));
        let asked = [one.ask(), one.ask(), one.ask()];
        assert_eq!(asked, [Ok(()), Ok(()), Err(OverLimit::Client)]);
        assert_eq!(other.ask(), Ok(()));
    }

    #[test]
    fn requests_are_worked_off_as_time_passes() {
        let mut client = Client::default();
        let asked = [0, 0, 0, SECOND / 2, SECOND / 2].map(|now| client.count(2, now).is_ok());
        assert_eq!(asked, [true, true, false, true, false]);
    }

    #[test]
    fn a_client_has_as_many_connections_as_it_may_and_no_more() {
        let all = clients(Limits { client_connections: 1, ..Limits::default() });
        let one = all.enter(HERE).expect("in");
        assert_eq!(all.enter(HERE).err(), Some(OverLimit::Client));
        assert!(all.enter(THERE).is_ok());
        drop(one);
        assert!(all.enter(HERE).is_ok());
    }

    #[test]
    fn bodies_are_held_within_a_clients_share_and_within_that_of_all() {
        let all = clients(Limits { client_body_bytes: 10, body_bytes: 15, ..Limits::default() });
        let (one, other) = (all.enter(HERE).expect("in"), all.enter(THERE).expect("in"));
        let (mut mine, mut theirs) = (one.hold(), other.hold());
        assert_eq!((mine.grow(FREE + 10), mine.grow(1)), (Ok(()), Err(OverLimit::Client)));
        assert_eq!((theirs.grow(FREE + 5), theirs.grow(1)), (Ok(()), Err(OverLimit::All)));
        drop(mine);
        assert_eq!(theirs.grow(5), Ok(()));
    }

    #[test]
    fn a_short_body_finds_room_when_others_have_taken_all_that_there_is() {
        let all = clients(Limits { client_body_bytes: 10, body_bytes: 10, ..Limits::default() });
        let (one, other) = (all.enter(HERE).expect("in"), all.enter(THERE).expect("in"));
        let (mut long, mut short) = (one.hold(), other.hold());
        assert_eq!(long.grow(FREE + 10), Ok(()));
        assert_eq!((short.grow(FREE), short.grow(1)), (Ok(()), Err(OverLimit::All)));
        drop((long, short));
        assert_eq!(all.table().held, 0);
    }

    #[tokio::test]
    async fn of_the_client_with_most_connections_the_one_that_waits_longest_leaves() {
        let all = clients(Limits::default());
        let visits = [THERE, HERE, HERE].map(|address| all.enter(address).expect("in"));
        let [other, first, second] = &visits;
        let (_other, busy) = (other.wait(), first.wait());
        drop(busy);
        let (_second, _first) = (second.wait(), first.wait());
        assert!(all.make_room());
        second.told_to_leave().await;
        assert!(all.make_room());
        first.told_to_leave().await;
        assert!(all.make_room());
        other.told_to_leave().await;
        assert!(!all.make_room());
        assert!(all.table().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_guest_that_waits_is_answered_when_no_connection_waits_for_its_client() {
        let all = clients(Limits::default());
        let visits = [HERE, THERE].map(|address| all.enter(address).expect("in"));
        let [idle, polling] = &visits;
        let (idle_waits, guest) = (idle.wait(), polling.wait_for_change().expect("a turn"));
        assert!(all.make_room());
        idle.told_to_leave().await;
        drop(idle_waits);
        assert!(all.make_room());
        guest.told_to_end().await;
        drop(guest);
        assert!(all.table().guests.is_empty());
    }

    #[test]
    fn guests_that_wait_have_a_share_of_their_client_and_of_all() {
        let limits = Limits { waiting_guests: 3, client_waiting_guests: 2, ..Limits::default() };
        let all = clients(limits);
        let (one, other) = (all.enter(HERE).expect("in"), all.enter(THERE).expect("in"));
        let waiting = [one.wait_for_change().expect("a turn"), one.wait_for_change().expect("a turn")];
        assert_eq!(one.wait_for_change().err(), Some(OverLimit::Client));
        let last = other.wait_for_change().expect("a turn");
        assert_eq!(other.wait_for_change().err(), Some(OverLimit::All));
        drop((waiting, last));
        assert!(one.wait_for_change().is_ok());
    }

    #[test]
    fn the_table_has_an_end_and_forgets_only_who_is_idle() {
        let all = clients(Limits::default());
        let busy = all.enter(HERE).expect("in");
        let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
        (0..20_000).for_each(|number| drop(all.enter(address(number))));
        let table = all.table();
        assert!(table.known.len() <= CLIENTS + 1 && table.known.contains_key(&busy.source));
    }
}
