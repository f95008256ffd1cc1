//! Replays an event log: the values that RTMR0 to RTMR3 must have if the log tells everything.

use sha2::{Digest, Sha384};

use super::event_log::{Event, EventLog};

/// Registers as a log leads to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// RTMR0 to RTMR3.
    pub rtmr: [[u8; 48]; 4],
    /// How many events extended each.
    pub events: [usize; 4],
}

/// An event for a register that no guest can extend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event at offset {at} extends register {register}: 1 to 4, which are RTMR0 to RTMR3, can be")]
pub struct NoSuchRegister {
    /// Offset of the event in the log, in bytes.
    pub at: usize,
    /// Register found; 0 is MRTD, which is fixed at launch.
    pub register: u32,
}

impl EventLog {
    /// Extends zeroed registers with every event: `SHA-384(register ‖ digest)`.
    ///
    /// # Errors
    /// [`NoSuchRegister`], for the first event that names another register.
    pub fn replay(&self) -> Result<Replayed, NoSuchRegister> {
        let mut replayed = Replayed { rtmr: [[0; 48]; 4], events: [0; 4] };
        for event in self.events.iter().filter(|event| event.extends()) {
            let (register, count) = replayed.of(event).ok_or(NoSuchRegister::from(event))?;
            *register = extended(register, &event.digest);
            *count += 1;
        }
        Ok(replayed)
    }
}

impl Replayed {
    fn of(&mut self, event: &Event) -> Option<(&mut [u8; 48], &mut usize)> {
        let index = event.rtmr()?;
        self.rtmr.get_mut(index).zip(self.events.get_mut(index))
    }
}

impl From<&Event> for NoSuchRegister {
    fn from(event: &Event) -> Self {
        Self { at: event.at, register: event.register }
    }
}

fn extended(register: &[u8; 48], digest: &[u8; 48]) -> [u8; 48] {
    let mut hash = Sha384::new();
    hash.update(register);
    hash.update(digest);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(bytes: &[u8]) -> Replayed {
        EventLog::parse(bytes).expect("a log").replay().expect("registers")
    }

    fn beginnings(replayed: &Replayed) -> Vec<String> {
        replayed.rtmr.iter().map(|rtmr| hex::encode(rtmr.first_chunk::<4>().expect("48 bytes"))).collect()
    }

    #[test]
    fn a_log_of_a_google_machine_leads_to_its_registers() {
        let replayed = replay(include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin"));
        assert_eq!(beginnings(&replayed), ["3fa2f61f", "f62dbc07", "4969684d", "00000000"]);
        assert_eq!(replayed.events.iter().sum::<usize>(), 43);
    }

    #[test]
    fn events_of_an_attestation_agent_extend_the_last_register() {
        let replayed = replay(include_bytes!("../../testdata/tdx/misc/ccel-aael-alibaba.bin"));
        assert_eq!(beginnings(&replayed), ["b796e1c1", "3b0b9061", "35f28013", "5e4ecd49"]);
        assert_eq!(replayed.events.last(), Some(&2));
    }

    #[test]
    fn an_event_for_mrtd_is_refused() {
        let mut log = include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin").to_vec();
        log[65] = 0;
        let log = EventLog::parse(&log).expect("a log");
        assert_eq!(log.replay(), Err(NoSuchRegister { at: 65, register: 0 }));
    }

    #[test]
    fn an_event_for_a_fifth_register_is_refused() {
        let mut log = include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin").to_vec();
        log[65] = 5;
        let log = EventLog::parse(&log).expect("a log");
        assert_eq!(log.replay(), Err(NoSuchRegister { at: 65, register: 5 }));
    }
}
