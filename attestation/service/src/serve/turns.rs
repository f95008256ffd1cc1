//! Turns at something of which there is only so much: so many in all, and of each client only its share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::source::Source;

/// All turns there are.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    share: usize,
    /// Clients that have a turn or wait for one: no more of them than connections.
    clients: Mutex<HashMap<Source, Share>>,
}

struct Share {
    turns: Arc<Semaphore>,
    users: usize,
}

/// A client that wants more than its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverLimit {
    /// It asks too often, sends too much at once, or has its turns.
    Client,
    /// All together do.
    All,
}

/// One turn, until this is dropped.
pub(super) struct Turn {
    /// Given back in this order, so that a client's next turn never waits for its last.
    _one_of_all: OwnedSemaphorePermit,
    _one_of_mine: OwnedSemaphorePermit,
    _user: User,
}

/// Somebody who has a turn or waits for one.
struct User {
    turns: Arc<Turns>,
    source: Source,
}

impl Turns {
    /// So many in all, and so many of one client: at least one.
    pub(super) fn new(all: usize, share: usize) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(all.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { all, share: share.clamp(1, Semaphore::MAX_PERMITS), clients: Mutex::default() })
    }

    /// Waits for one: while a client has its share, its next turn keeps no other client's.
    pub(super) async fn wait(self: &Arc<Self>, source: Source) -> Option<Turn> {
        let (user, mine) = self.user(source);
        let one_of_mine = mine.acquire_owned().await.ok()?;
        let one_of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _one_of_all: one_of_all, _one_of_mine: one_of_mine, _user: user })
    }

    /// Takes one, if there is one now.
    ///
    /// # Errors
    /// [`OverLimit`]
    pub(super) fn take(self: &Arc<Self>, source: Source) -> Result<Turn, OverLimit> {
        let (user, mine) = self.user(source);
        let one_of_mine = mine.try_acquire_owned().map_err(|_| OverLimit::Client)?;
        let one_of_all = self.all.clone().try_acquire_owned().map_err(|_| OverLimit::All)?;
        Ok(Turn { _one_of_all: one_of_all, _one_of_mine: one_of_mine, _user: user })
    }

    fn user(self: &Arc<Self>, source: Source) -> (User, Arc<Semaphore>) {
        let mut clients = self.clients();
        let fresh = || Share { turns: Arc::new(Semaphore::new(self.share)), users: 0 };
        let share = clients.entry(source).or_insert_with(fresh);
        share.users += 1;
        (User { turns: self.clone(), source }, share.turns.clone())
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Source, Share>> {
        // Counters only: whole even if a thread died with them.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut clients = self.turns.clients();
        let Some(share) = clients.get_mut(&self.source) else { return };
        share.users = share.users.saturating_sub(1);
        if share.users == 0 {
            clients.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    const MALLORY: Source = Source::V4([192, 0, 2, 66]);
    const ALICE: Source = Source::V4([192, 0, 2, 1]);

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_client_that_keeps_its_turns_keeps_no_others_from_theirs() {
        let turns = Turns::new(8, 3);
        let mut held: Vec<_> = (0..20).filter_map(|_| now(turns.wait(MALLORY)).flatten()).collect();
        assert_eq!(held.len(), 3);
        assert!(now(turns.wait(ALICE)).flatten().is_some());
        held.pop();
        assert!(now(turns.wait(MALLORY)).flatten().is_some(), "what was given back is there");
    }

    #[test]
    fn who_does_not_wait_is_told_whose_limit_it_is() {
        let turns = Turns::new(3, 2);
        let held = [turns.take(MALLORY).expect("a turn"), turns.take(MALLORY).expect("a turn")];
        assert_eq!(turns.take(MALLORY).err(), Some(OverLimit::Client));
        let last = turns.take(ALICE).expect("a turn");
        assert_eq!(turns.take(Source::Others).err(), Some(OverLimit::All));
        drop((held, last));
        assert!(turns.take(Source::Others).is_ok());
    }

    #[test]
    fn nothing_is_remembered_of_clients_that_have_no_turn() {
        let turns = Turns::new(4, 1);
        let held = turns.take(MALLORY).expect("a turn");
        let _ = (turns.take(MALLORY).err(), turns.take(ALICE).map(drop));
        assert_eq!(turns.clients().len(), 1);
        drop(held);
        assert!(turns.clients().is_empty());
    }
}
