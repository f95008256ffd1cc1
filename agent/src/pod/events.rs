//! What happened in the guest without anybody asking, kept until the shim has had the time to fetch it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Events kept; an older one is lost when nobody fetches it.
const KEPT: usize = 256;

/// One event: the kernel killed a process of this container for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Counts from 1.
    pub(crate) sequence: u64,
    /// Container id.
    pub(crate) oom: String,
}

/// The log of events; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    log: Arc<Mutex<VecDeque<Event>>>,
    last: Arc<watch::Sender<u64>>,
}

impl Events {
    /// An empty log.
    pub(crate) fn new() -> Self {
        Events { log: Arc::default(), last: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds an event.
    pub(crate) fn oom(&self, container: String) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.last.borrow() + 1;
        if log.len() == KEPT {
            log.pop_front();
        }
        log.push_back(Event { sequence, oom: container });
        self.last.send_replace(sequence);
    }

    /// The events after `after`; waits up to `patience` for the first one.
    pub(crate) async fn after(&self, after: u64, patience: Duration) -> Vec<Event> {
        let mut last = self.last.subscribe();
        // Both ends of this are an answer: something came, or nothing did.
        let _ = timeout(patience, last.wait_for(|last| *last > after)).await;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|event| event.sequence > after).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn an_event_that_was_there_before_is_answered_at_once() {
        let events = Events::new();
        events.oom("c1".to_owned());
        events.oom("c2".to_owned());
        assert_eq!(events.after(1, LONG).await, [Event { sequence: 2, oom: "c2".to_owned() }]);
    }

    #[tokio::test]
    async fn a_waiting_call_is_answered_by_the_next_event() {
        let events = Events::new();
        let (got, ()) = tokio::join!(events.after(0, LONG), async { events.oom("c".to_owned()) });
        assert_eq!(got.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_vain_is_answered_with_nothing() {
        assert!(Events::new().after(0, LONG).await.is_empty());
    }

    #[tokio::test]
    async fn an_unread_log_does_not_grow_for_ever() {
        let events = Events::new();
        (0..KEPT + 10).for_each(|_| events.oom("c".to_owned()));
        let kept = events.after(0, LONG).await;
        assert_eq!((kept.len(), kept[0].sequence), (KEPT, 11));
    }
}
