//! Requests and answers as text.

use crate::machine::{Counters, End};

/// The longest packet that is read: no request has half as much.
pub(super) const MOST: usize = 256;

/// What the shim asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Let the processors run.
    Resume,
    /// Hold them.
    Pause,
    /// End the machine.
    Stop,
    /// Say what was counted.
    Counters,
}

impl Request {
    /// Reads a packet.
    pub fn parse(packet: &[u8]) -> Option<Request> {
        match packet {
            b"start" | b"resume" => Some(Request::Resume),
            b"pause" => Some(Request::Pause),
            b"stop" => Some(Request::Stop),
            b"counters" => Some(Request::Counters),
            _ => None,
        }
    }
}

/// The packet that says how the machine ended.
pub fn describe_end(end: &End) -> String {
    let word = match end {
        End::Reset => "reset",
        End::Panic => "panic",
        End::TripleFault { .. } => "triple-fault",
        End::Stopped => "stopped",
        End::Fault { .. } => "fault",
    };
    format!("ended {word}: {end}")
}

pub(super) fn describe_counters(counters: &Counters) -> String {
    let Counters { port_exits, memory_exits, strays, malformed, faults, console_dropped } = counters;
    format!(
        "ok port_exits={port_exits} memory_exits={memory_exits} strays={strays} malformed={malformed} \
         faults={faults} console_dropped={console_dropped}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_anything_behind_it_is_none() {
        assert_eq!(Request::parse(b"stop"), Some(Request::Stop));
        assert_eq!(Request::parse(b"stop\n"), None);
        assert_eq!(Request::parse(b""), None);
    }

    #[test]
    fn an_end_begins_with_one_word() {
        assert_eq!(describe_end(&End::Reset), "ended reset: the guest reset itself");
    }
}
