//! Which device answers at which address, for ports and for memory alike.
//!
//! An access that no device answers is no error: a read finds all bits set, as on a board, and a write is lost. Both are
//! counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a write makes the machine do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Go on.
    None,
    /// Start anew, which for this monitor is to end.
    Reset,
}

/// Something that answers at a range of addresses. Several CPUs may ask at once.
pub trait Registers: fmt::Debug + Send + Sync {
    /// Answers a read at `offset` within the range. What it leaves as it is reads as all bits set.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes a write at `offset` within the range.
    fn write(&self, offset: u64, data: &[u8]) -> Effect;
}

/// A range, and who answers there.
#[derive(Debug)]
struct Place {
    start: u64,
    length: u64,
    registers: Arc<dyn Registers>,
}

/// A new range lies over one that is taken.
#[derive(Debug, thiserror::Error)]
#[error("{length} addresses from {start:#x} are not free")]
pub struct Taken {
    /// The first address.
    pub start: u64,
    /// How many.
    pub length: u64,
}

/// All ranges of one kind of address.
#[derive(Debug, Default)]
pub struct Bus {
    places: Vec<Place>,
    strays: AtomicU64,
}

impl Bus {
    /// Lets `registers` answer at `length` addresses from `start`.
    pub fn insert(&mut self, start: u64, length: u64, registers: Arc<dyn Registers>) -> Result<(), Taken> {
        let end = start.checked_add(length).filter(|_| length > 0).ok_or(Taken { start, length })?;
        let overlaps = |place: &Place| place.start < end && start < place.start + place.length;
        if self.places.iter().any(overlaps) {
            return Err(Taken { start, length });
        }
        let at = self.places.partition_point(|place| place.start < start);
        self.places.insert(at, Place { start, length, registers });
        Ok(())
    }

    /// Reads.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some((place, offset)) => place.registers.read(offset, data),
            None => self.count(),
        }
    }

    /// Writes.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address, data.len()) {
            Some((place, offset)) => place.registers.write(offset, data),
            None => {
                self.count();
                Effect::None
            }
        }
    }

    /// How many accesses nobody answered.
    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.strays.fetch_add(1, Ordering::Relaxed);
    }

    /// The place that all `length` addresses lie in, and the offset in it.
    fn find(&self, address: u64, length: usize) -> Option<(&Place, u64)> {
        let after = self.places.partition_point(|place| place.start <= address);
        let place = self.places.get(after.checked_sub(1)?)?;
        let offset = address.checked_sub(place.start)?;
        let end = offset.checked_add(u64::try_from(length).ok()?)?;
        (end <= place.length).then_some((place, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Registers for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }

        fn write(&self, offset: u64, data: &[u8]) -> Effect {
            self.0.lock().unwrap().push((offset, data.to_vec()));
            Effect::Reset
        }
    }

    fn bus() -> (Bus, Arc<Recorder>) {
        let (mut bus, recorder) = (Bus::default(), Arc::new(Recorder::default()));
        bus.insert(0x100, 8, Arc::clone(&recorder) as Arc<dyn Registers>).unwrap();
        (bus, recorder)
    }

    #[test]
    fn an_access_reaches_its_device_with_its_offset() {
        let (bus, recorder) = bus();
        let mut data = [0; 2];
        bus.read(0x106, &mut data);
        assert_eq!(data, [6, 0xff]);
        assert_eq!(bus.write(0x101, &[1, 2]), Effect::Reset);
        assert_eq!(*recorder.0.lock().unwrap(), [(1, vec![1, 2])]);
        assert_eq!(bus.strays(), 0);
    }

    #[test]
    fn an_access_over_the_end_reaches_nobody() {
        let (bus, recorder) = bus();
        assert_eq!(bus.write(0x107, &[1, 2]), Effect::None);
        let mut data = [0; 1];
        bus.read(0xff, &mut data);
        assert_eq!((data, bus.strays()), ([0xff], 2));
        assert!(recorder.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_last_address_of_all_is_no_trap() {
        let (bus, _) = bus();
        assert_eq!(bus.write(u64::MAX, &[0; 8]), Effect::None);
    }

    #[test]
    fn a_range_that_is_taken_in_part_is_refused() {
        let (mut bus, recorder) = bus();
        assert!(bus.insert(0xff, 2, Arc::clone(&recorder) as Arc<dyn Registers>).is_err());
        assert!(bus.insert(u64::MAX, 2, Arc::clone(&recorder) as Arc<dyn Registers>).is_err());
        assert!(bus.insert(0x108, 1, recorder).is_ok());
    }
}
