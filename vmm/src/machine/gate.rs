//! Stops processors for a pause or for good: each passes here whenever it was kicked.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What processors are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Pause,
    Stop,
}

/// What a processor does after it has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// It goes on as if nothing had been.
    On,
    /// It goes on after it was held.
    Held,
    /// It ends.
    Out,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// Processors that wait here, or have ended.
    inside: usize,
}

/// The gate.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// An open one, or one that holds every processor that comes.
    pub(super) fn new(open: bool) -> Gate {
        let order = if open { Order::Run } else { Order::Pause };
        Gate { state: Mutex::new(State { order, inside: 0 }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, order: Order) {
        let mut state = self.state();
        // A machine that was stopped stays so.
        if state.order != Order::Stop {
            state.order = order;
        }
        self.changed.notify_all();
    }

    /// Holds processors that come.
    pub(super) fn close(&self) {
        self.set(Order::Pause);
    }

    /// Lets processors go on.
    pub(super) fn open(&self) {
        self.set(Order::Run);
    }

    /// Ends processors that come.
    pub(super) fn stop(&self) {
        self.set(Order::Stop);
    }

    /// Waits until `count` processors are held or have ended.
    pub(super) fn wait_for(&self, count: usize) {
        let mut state = self.state();
        while state.inside < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What a processor calls when it was kicked.
    pub(super) fn pass(&self) -> Passed {
        let mut state = self.state();
        let mut passed = Passed::On;
        while state.order == Order::Pause {
            state.inside += 1;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.inside -= 1;
            passed = Passed::Held;
        }
        if state.order == Order::Stop { Passed::Out } else { passed }
    }

    /// What a processor calls when it ends: from now on it counts as held.
    pub(super) fn leave(&self) {
        self.state().inside += 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_open_gate_holds_nobody() {
        assert_eq!(Gate::new(true).pass(), Passed::On);
    }

    #[test]
    fn a_held_processor_goes_on_when_the_gate_opens() {
        let gate = Arc::new(Gate::new(false));
        let thread = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.pass()
        });
        gate.wait_for(1);
        gate.open();
        assert_eq!(thread.join().unwrap(), Passed::Held);
    }

    #[test]
    fn a_stopped_machine_does_not_go_on() {
        let gate = Gate::new(true);
        gate.stop();
        gate.open();
        assert_eq!(gate.pass(), Passed::Out);
    }

    #[test]
    fn a_processor_that_ended_is_not_waited_for() {
        let gate = Gate::new(true);
        gate.leave();
        gate.wait_for(1);
    }
}
