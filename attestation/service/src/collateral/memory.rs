//! What was read from the cache's directory and verified, as much as there is room for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::item::Item;
use super::read::Kept;

/// Items in memory; the one that was not used for longest gives way, and is read again.
const MAX_ITEMS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    items: HashMap<Item, Entry>,
    /// How often something was used.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    /// `None`: there is a file, and it is not what its name says.
    kept: Option<Arc<Kept>>,
    used: u64,
}

impl Memory {
    /// `None`: it is to be looked for.
    pub(super) fn find(&self, item: &Item) -> Option<Option<Arc<Kept>>> {
        let mut memory = self.lock();
        memory.uses += 1;
        let now = memory.uses;
        let entry = memory.items.get_mut(item)?;
        entry.used = now;
        Some(entry.kept.clone())
    }

    pub(super) fn remember(&self, item: &Item, kept: Option<Arc<Kept>>) {
        let mut memory = self.lock();
        if memory.items.len() >= MAX_ITEMS {
            let oldest =
                memory.items.iter().min_by_key(|(_, entry)| entry.used).map(|(item, _)| item.clone());
            oldest.and_then(|item| memory.items.remove(&item));
        }
        memory.uses += 1;
        let used = memory.uses;
        memory.items.insert(item.clone(), Entry { kept, used });
    }

    /// When it was used, beside other items; `None` if it is not here.
    pub(super) fn used(&self, item: &Item) -> Option<u64> {
        self.lock().items.get(item).map(|entry| entry.used)
    }

    pub(super) fn drop_item(&self, item: &Item) {
        self.lock().items.remove(item);
    }

    pub(super) fn clear(&self) {
        self.lock().items.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Each change is one call: the map is whole even if a thread died with it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::snp::{Generation, Tcb};

    fn chip(number: usize) -> Item {
        let tcb = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };
        Item::Vcek { generation: Generation::Milan, chip: number.to_be_bytes().to_vec(), tcb }
    }

    #[test]
    fn what_is_used_stays_when_there_is_no_room_for_more() {
        let memory = Memory::default();
        memory.remember(&chip(0), None);
        for number in 1..3 * MAX_ITEMS {
            memory.remember(&chip(number), None);
            assert!(memory.find(&chip(0)).is_some());
        }
        assert_eq!(memory.lock().items.len(), MAX_ITEMS);
        assert!(memory.find(&chip(1)).is_none());
    }
}
