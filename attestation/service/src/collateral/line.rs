//! In which order items are asked for: lists first, then one of each client in turn, so that nobody who invents chips keeps
//! the others waiting. Nothing here asks, waits or looks at a clock.

use std::collections::VecDeque;

use coffer_attestation::time::UnixTime;

use super::item::Item;
use crate::source::Source;

/// Items of each kind that wait.
const MOST: usize = 16;
/// Those of one client, lists aside: there are only a few lists, whoever asks for them.
const SHARE: usize = 4;

/// Something that is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) item: Item,
    /// As of which time.
    pub(super) at: UnixTime,
    /// Who wanted it first.
    pub(super) wanted_by: Source,
    /// How often it was asked for in vain.
    pub(super) tries: u32,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Lists and chains of authorities.
    first: VecDeque<Job>,
    others: VecDeque<Job>,
    /// Whose turn was last among the others.
    last: Option<Source>,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Line {
    /// Adds a job. Where there is no room, it takes that of the newest job of the client that has most, and answers that job.
    pub(super) fn add(&mut self, job: Job) -> Result<Option<Job>, Full> {
        if goes_first(&job.item) {
            return if self.first.len() < MOST { Ok(push(&mut self.first, job)) } else { Err(Full) };
        }
        let mine = self.jobs_of(job.wanted_by);
        if mine >= SHARE {
            return Err(Full);
        }
        if self.others.len() < MOST {
            return Ok(push(&mut self.others, job));
        }
        let newest_of_most = self.others.iter().enumerate().max_by_key(|(place, other)| {
            // The later of two that have as many.
            (self.jobs_of(other.wanted_by), *place)
        });
        match newest_of_most.map(|(place, other)| (place, self.jobs_of(other.wanted_by))) {
            // With as many afterwards as the newcomer has.
            Some((place, most)) if most > mine + 1 => {
                let gone = self.others.remove(place);
                self.others.push_back(job);
                Ok(gone)
            }
            _ => Err(Full),
        }
    }

    /// Who is next.
    pub(super) fn next(&self) -> Option<&Job> {
        self.first.front().or_else(|| self.others.get(self.turn()))
    }

    /// Takes that one.
    pub(super) fn take(&mut self) -> Option<Job> {
        self.first.pop_front().or_else(|| {
            let job = self.others.remove(self.turn())?;
            self.last = Some(job.wanted_by);
            Some(job)
        })
    }

    /// Has a job done again, before others of its kind and its client.
    pub(super) fn again(&mut self, job: Job) {
        if goes_first(&job.item) { self.first.push_front(job) } else { self.others.push_front(job) }
    }

    /// Another client's than the last one, if there is one.
    fn turn(&self) -> usize {
        self.others.iter().position(|job| Some(job.wanted_by) != self.last).unwrap_or(0)
    }

    fn jobs_of(&self, source: Source) -> usize {
        self.others.iter().filter(|job| job.wanted_by == source).count()
    }
}

fn push(queue: &mut VecDeque<Job>, job: Job) -> Option<Job> {
    queue.push_back(job);
    None
}

fn goes_first(item: &Item) -> bool {
    matches!(item, Item::List { .. } | Item::Chain { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::snp::{Generation, Tcb};

    const MALLORY: u8 = 66;

    fn chip(number: u8, of: u8) -> Job {
        let tcb = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };
        let item = Item::Vcek { generation: Generation::Milan, chip: vec![of, number], tcb };
        Job { item, at: UnixTime(0), wanted_by: Source::V4([of; 4]), tries: 0 }
    }

    fn list(of: u8) -> Job {
        let item = Item::List { generation: Generation::Milan, simulated: false };
        Job { item, ..chip(0, of) }
    }

    fn sources(line: &mut Line) -> Vec<Source> {
        std::iter::from_fn(|| line.take()).map(|job| job.wanted_by).collect()
    }

    #[test]
    fn a_list_is_asked_for_before_chips_that_came_earlier_and_has_room_beside_them() {
        let mut line = Line::default();
        (0..16).for_each(|of| assert_eq!(line.add(chip(0, of)), Ok(None)));
        assert_eq!(line.add(list(99)), Ok(None));
        assert_eq!(line.next(), Some(&list(99)));
        assert_eq!(line.take(), Some(list(99)));
        assert_eq!(line.take(), Some(chip(0, 0)));
    }

    #[test]
    fn one_client_has_its_share_of_the_line_and_no_more() {
        let mut line = Line::default();
        let added: Vec<_> = (0..6).map(|number| line.add(chip(number, MALLORY)).is_ok()).collect();
        assert_eq!(added, [true, true, true, true, false, false]);
        assert_eq!(line.add(chip(0, 1)), Ok(None));
    }

    #[test]
    fn clients_take_turns_however_many_chips_one_of_them_asks_for() {
        let mut line = Line::default();
        (0..4).for_each(|number| drop(line.add(chip(number, MALLORY))));
        line.add(chip(0, 1)).expect("room");
        line.add(chip(0, 2)).expect("room");
        let order = sources(&mut line);
        let of = |number| Source::V4([number; 4]);
        assert_eq!(order[..3], [of(MALLORY), of(1), of(MALLORY)]);
        assert_eq!(order[3], of(2));
    }

    #[test]
    fn in_a_full_line_the_newest_of_whoever_has_most_gives_way_to_who_has_less() {
        let mut line = Line::default();
        for of in [MALLORY, 1, 2, 3] {
            (0..4).for_each(|number| assert_eq!(line.add(chip(number, of)), Ok(None)));
        }
        assert_eq!(line.add(chip(0, 9)), Ok(Some(chip(3, 3))));
        assert_eq!(line.add(chip(4, 1)), Err(Full));
        let mut line = Line::default();
        (0..16).for_each(|of| assert_eq!(line.add(chip(0, of)), Ok(None)));
        assert_eq!(line.add(chip(0, 99)), Err(Full));
    }

    #[test]
    fn what_failed_is_tried_again_before_others() {
        let mut line = Line::default();
        line.add(chip(0, 1)).expect("room");
        line.add(chip(1, 1)).expect("room");
        let job = line.take().expect("a job");
        line.again(Job { tries: 1, ..job });
        assert_eq!(line.take().map(|job| job.tries), Some(1));
    }
}
