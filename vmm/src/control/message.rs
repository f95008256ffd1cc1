//! Requests and answers as text.

use crate::machine::{Counters, End};

/// The longest packet that is read: no request has half as much.
pub(super) const MOST: usize = 256;

/// What the shim asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Let the processors run.
    Resume,
    /// Hold them.
    Pause,
    /// End the machine.
    Stop,
    /// Say what was counted.
    Counters,
    /// Have the guest be content with so much of its memory.
    Memory {
        /// MiB.
        mib: u32,
    },
    /// Add a disk, whose file comes with the packet.
    Attach {
        /// By this the guest finds it.
        serial: String,
        /// Whether the guest may only read it.
        read_only: bool,
    },
    /// Give a seat an interface, whose tap comes with the packet.
    Plug {
        /// The seat's number, from 0.
        seat: usize,
    },
    /// Take a seat's interface away.
    Unplug {
        /// The seat's number.
        seat: usize,
    },
    /// Take a disk away.
    Detach {
        /// Its serial.
        serial: String,
    },
}

impl Request {
    /// Reads a packet.
    pub fn parse(packet: &[u8]) -> Option<Request> {
        let words: Vec<&str> = std::str::from_utf8(packet).ok()?.split(' ').collect();
        Some(match words[..] {
            ["start" | "resume"] => Request::Resume,
            ["pause"] => Request::Pause,
            ["stop"] => Request::Stop,
            ["counters"] => Request::Counters,
            ["memory", mib] => Request::Memory { mib: mib.parse().ok()? },
            ["attach", serial, access @ ("ro" | "rw")] => {
                Request::Attach { serial: serial.to_owned(), read_only: access == "ro" }
            }
            ["plug", seat] => Request::Plug { seat: seat.parse().ok()? },
            ["unplug", seat] => Request::Unplug { seat: seat.parse().ok()? },
            ["detach", serial] => Request::Detach { serial: serial.to_owned() },
            _ => return None,
        })
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

pub(super) fn describe_counters(counters: &Counters, given_mib: u32) -> String {
    let Counters { port_exits, memory_exits, strays, malformed, faults, console_dropped } = counters;
    format!(
        "ok port_exits={port_exits} memory_exits={memory_exits} strays={strays} malformed={malformed} \
         faults={faults} console_dropped={console_dropped} given_mib={given_mib}"
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
    fn a_disk_is_attached_with_a_word_about_access() {
        let request = Request::Attach { serial: "layer-1".to_owned(), read_only: true };
        assert_eq!(Request::parse(b"attach layer-1 ro"), Some(request));
        assert_eq!(Request::parse(b"attach layer-1"), None);
        assert_eq!(Request::parse(b"attach layer-1 ro rw"), None);
    }

    #[test]
    fn a_seat_has_a_number() {
        assert_eq!(Request::parse(b"plug 2"), Some(Request::Plug { seat: 2 }));
        assert_eq!(Request::parse(b"unplug 0"), Some(Request::Unplug { seat: 0 }));
        assert_eq!(Request::parse(b"plug"), None);
        assert_eq!(Request::parse(b"unplug -1"), None);
    }

    #[test]
    fn memory_is_asked_for_in_mib() {
        assert_eq!(Request::parse(b"memory 256"), Some(Request::Memory { mib: 256 }));
        assert_eq!(Request::parse(b"memory -1"), None);
        assert_eq!(Request::parse(b"memory"), None);
    }

    #[test]
    fn an_end_begins_with_one_word() {
        assert_eq!(describe_end(&End::Reset), "ended reset: the guest reset itself");
    }
}
