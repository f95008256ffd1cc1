//! System call filters: lists of calls, as programs that the kernel runs before each.
//!
//! When a program is installed the kernel runs it for every number that there is, and afterwards for each call with bounds
//! whenever it is made, so its steps are what a start and every entry into the guest cost, and its length what it costs to be
//! compiled. So it looks a call up in a tree, in which much that is refused alike is told from the rest by few questions, and all
//! its answers are the same three instructions at its end.

use std::collections::BTreeMap;

use seccompiler::{apply_filter, sock_filter};

use super::process::JailError;

/// Instructions of classic BPF (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (`linux/seccomp.h`): the call's number, the architecture, the arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// The process gets SIGSYS, whose handler says which call it was and ends it: see `report`.
const REFUSE: u32 = libc::SECCOMP_RET_TRAP;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Numbers of calls that a kernel has, about.
const NUMBERS: u32 = 470;

/// A call with bounds counts like so many numbers: what it asks is asked whenever it is made.
const OFTEN: u32 = 64;

/// One use of a call: the lower 32 bits of an argument, under a mask, have this value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Which argument, from 0.
    pub argument: u8,
    /// Bits that count.
    pub mask: u32,
    /// Their value.
    pub value: u32,
}

/// Calls by number, each with the uses that are allowed; without any, every use is.
pub type Rules = BTreeMap<i64, Vec<Bound>>;

/// From here on every system call that is not in `allowed` ends the process.
pub fn allow_only(allowed: &Rules) -> Result<(), JailError> {
    apply_filter(&program(allowed)).map_err(JailError::Install)
}

fn program(allowed: &Rules) -> Vec<sock_filter> {
    let mut program = Backwards::default();
    let refuse = program.push(instruction(RETURN, REFUSE));
    let allow = program.push(instruction(RETURN, ALLOW));
    let kill = program.push(instruction(RETURN, KILL));
    let root = program.tree(&parts(allowed), NUMBERS, (refuse, allow));
    program.follow(root);
    let number = program.push(instruction(LOAD, NUMBER));
    // Calls of another architecture have other numbers.
    program.ask(IF_EQUAL, X86_64, (number, kill));
    program.push(instruction(LOAD, ARCHITECTURE));
    program.0.reverse();
    program.0
}

/// What becomes of calls with neighbouring numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate<'a> {
    Refused,
    Allowed,
    /// Of one call some uses are allowed.
    Bounded(&'a [Bound]),
}

/// Parts all numbers by what becomes of them: the first number of each part.
fn parts(allowed: &Rules) -> Vec<(u32, Fate<'_>)> {
    let mut parts = Vec::with_capacity(2 * allowed.len() + 1);
    let mut next = 0;
    for (call, bounds) in allowed {
        let Ok(call) = u32::try_from(*call) else { continue };
        if call > next {
            parts.push((next, Fate::Refused));
        }
        let fate = if bounds.is_empty() { Fate::Allowed } else { Fate::Bounded(bounds) };
        let goes_on = call == next && fate == Fate::Allowed;
        if !goes_on || parts.last().is_none_or(|(_, before)| *before != Fate::Allowed) {
            parts.push((call, fate));
        }
        next = call.saturating_add(1);
    }
    parts.push((next, Fate::Refused));
    parts
}

/// How often a part is asked for: once for each number when the program is installed, and whenever a call with bounds is made.
fn weight(part: (u32, Fate<'_>), next: u32) -> u32 {
    let numbers = next.min(NUMBERS) - part.0.min(NUMBERS);
    if matches!(part.1, Fate::Bounded(_)) { numbers + OFTEN } else { numbers }
}

/// A place in a program that is written from its end: how many instructions there are from it on.
type Place = usize;

/// A program from its end, so that what is jumped to is there already.
#[derive(Debug, Default)]
struct Backwards(Vec<sock_filter>);

impl Backwards {
    fn push(&mut self, instruction: sock_filter) -> Place {
        self.0.push(instruction);
        self.0.len()
    }

    /// Instructions between what is pushed next and a place.
    fn distance(&self, place: Place) -> u32 {
        u32::try_from(self.0.len().saturating_sub(place)).unwrap_or(u32::MAX)
    }

    /// Has the next instruction be followed by that place.
    fn follow(&mut self, place: Place) -> Place {
        match self.distance(place) {
            0 => place,
            over => self.push(instruction(JUMP, over)),
        }
    }

    /// The place, or one that leads there and that a question can still tell of, also after one more instruction.
    fn near(&mut self, place: Place) -> Place {
        if self.distance(place) < u32::from(u8::MAX) { place } else { self.follow(place) }
    }

    /// A question, and where it goes on if the answer is yes, and if it is no.
    fn ask(&mut self, code: u16, value: u32, (yes, no): (Place, Place)) -> Place {
        let (yes, no) = (self.near(yes), self.near(no));
        let short = |over: u32| u8::try_from(over).unwrap_or(u8::MAX);
        let (jt, jf) = (short(self.distance(yes)), short(self.distance(no)));
        self.push(sock_filter { code, jt, jf, k: value })
    }

    /// Looks a number up among these parts, of which the last ends before `end`.
    fn tree(&mut self, parts: &[(u32, Fate<'_>)], end: u32, (refuse, allow): (Place, Place)) -> Place {
        match parts {
            [] | [(_, Fate::Refused)] => refuse,
            [(_, Fate::Allowed)] => allow,
            [(_, Fate::Bounded(bounds))] => self.uses(bounds, (refuse, allow)),
            _ => {
                let (left, right) = parts.split_at(middle(parts, end));
                let first = right.first().map_or(u32::MAX, |(number, _)| *number);
                let above = self.tree(right, end, (refuse, allow));
                let below = self.tree(left, first, (refuse, allow));
                self.ask(IF_AT_LEAST, first, (above, below))
            }
        }
    }

    /// Asks for each use in turn.
    fn uses(&mut self, bounds: &[Bound], (refuse, allow): (Place, Place)) -> Place {
        let mut next = refuse;
        for alike in
            bounds.chunk_by(|one, other| (one.argument, one.mask) == (other.argument, other.mask)).rev()
        {
            for bound in alike.iter().rev() {
                next = self.ask(IF_EQUAL, bound.value, (allow, next));
            }
            let Some(Bound { argument, mask, .. }) = alike.first() else { continue };
            self.follow(next);
            if *mask != u32::MAX {
                self.push(instruction(AND, *mask));
            }
            next = self.push(instruction(LOAD, ARGUMENTS + 8 * u32::from(*argument)));
        }
        next
    }
}

/// Where to part these, of which there are two at least, so that each half is asked for about as often.
fn middle(parts: &[(u32, Fate<'_>)], end: u32) -> usize {
    let following = parts.iter().skip(1).map(|(number, _)| *number).chain([end]);
    let weights: Vec<u32> = parts.iter().zip(following).map(|(part, next)| weight(*part, next)).collect();
    let all: u32 = weights.iter().sum();
    let mut below = 0;
    for (index, weight) in weights.iter().enumerate() {
        // The part in the middle goes to the side on which more of it is.
        if 2 * below + weight >= all {
            return index.clamp(1, parts.len() - 1);
        }
        below += weight;
    }
    parts.len() / 2
}

fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does: gives what it returns, and how many instructions that took.
    fn run(program: &[sock_filter], call: u32, arguments: [u32; 6]) -> (u32, usize) {
        let (mut at, mut value, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            steps += 1;
            match code {
                LOAD if k == NUMBER => value = call,
                LOAD if k == ARCHITECTURE => value = X86_64,
                LOAD => value = arguments[usize::try_from((k - ARGUMENTS) / 8).unwrap()],
                AND => value &= k,
                JUMP => at += usize::try_from(k).unwrap(),
                IF_EQUAL => at += usize::from(if value == k { jt } else { jf }),
                IF_AT_LEAST => at += usize::from(if value >= k { jt } else { jf }),
                RETURN => return (k, steps),
                other => panic!("no instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn every_call_of_the_list_is_allowed_and_no_other() {
        let rules: Rules = (0..40).map(|index| (index * 7, Vec::new())).collect();
        let program = program(&rules);
        for call in 0..500 {
            let (action, steps) = run(&program, call, [0; 6]);
            let expected = if rules.contains_key(&i64::from(call)) { ALLOW } else { REFUSE };
            assert_eq!(action, expected, "call {call}");
            assert!(steps < 20, "{steps} steps for call {call}");
        }
    }

    #[test]
    fn what_a_start_and_an_entry_cost_is_little() {
        // About what a thread that serves devices has.
        let plain = [
            0, 1, 3, 7, 8, 11, 12, 13, 14, 15, 19, 20, 25, 28, 35, 42, 45, 47, 48, 60, 131, 202, 219, 228,
            231, 232,
        ];
        let mut rules: Rules = plain.map(|call| (call, Vec::new())).into();
        rules.insert(16, vec![Bound { argument: 1, mask: u32::MAX, value: 0xae80 }; 4]);
        rules.extend([281, 285, 318, 327, 328, 332, 426].map(|call| (call, Vec::new())));
        let program = program(&rules);
        let steps: usize = (0..NUMBERS).map(|call| run(&program, call, [0; 6]).1).sum();
        let average = steps as f64 / f64::from(NUMBERS);
        let (action, entry) = run(&program, 16, [0, 0xae80, 0, 0, 0, 0]);
        assert_eq!(action, ALLOW);
        assert!(program.len() < 80 && average < 9.5 && entry < 14, "{} {average} {entry}", program.len());
    }

    #[test]
    fn a_program_with_far_ends_is_the_same() {
        // Jumps of one instruction reach 255 others.
        let many: Vec<Bound> = (0..300).map(|value| Bound { argument: 1, mask: u32::MAX, value }).collect();
        let mut rules: Rules = (0..300).map(|index| (index * 2, Vec::new())).collect();
        rules.insert(301, many);
        let program = program(&rules);
        for call in 0..700 {
            let allowed = call < 600 && call % 2 == 0;
            assert_eq!(
                run(&program, call, [0, 300, 0, 0, 0, 0]).0,
                if allowed { ALLOW } else { REFUSE },
                "{call}"
            );
        }
        for value in 0..400 {
            let expected = if value < 300 { ALLOW } else { REFUSE };
            assert_eq!(run(&program, 301, [0, value, 0, 0, 0, 0]).0, expected, "{value}");
        }
    }

    #[test]
    fn a_use_that_is_not_listed_is_refused() {
        let bounds = [4, 9].map(|value| Bound { argument: 2, mask: 0xf, value }).to_vec();
        let program = program(&Rules::from([(5, bounds)]));
        for value in 0..64 {
            let expected = if [4, 9].contains(&(value & 0xf)) { ALLOW } else { REFUSE };
            assert_eq!(run(&program, 5, [0, 0, value, 0, 0, 0]).0, expected, "{value}");
        }
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        assert_eq!(run(&program(&Rules::new()), 0, [0; 6]).0, REFUSE);
    }
}
