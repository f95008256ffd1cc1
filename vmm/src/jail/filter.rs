//! System call filters: lists of calls, as programs that the kernel runs before each.
//!
//! The program looks a call up in a balanced tree. The kernel runs it for every number that there is when it is installed,
//! and for each call with bounds whenever it is made, so its depth is what a start and every entry into the guest cost.

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
    let calls: Vec<(u32, &[Bound])> = allowed
        .iter()
        .filter_map(|(call, bounds)| Some((u32::try_from(*call).ok()?, bounds.as_slice())))
        .collect();
    let mut program = vec![
        load(ARCHITECTURE),
        // Calls of another architecture have other numbers.
        test(IF_EQUAL, X86_64, 1, 0),
        give(KILL),
        load(NUMBER),
    ];
    program.extend(tree(&calls));
    program
}

/// Looks up among these calls, which are sorted.
fn tree(calls: &[(u32, &[Bound])]) -> Vec<sock_filter> {
    match calls {
        [] => vec![give(REFUSE)],
        [(call, bounds)] => {
            let mut leaf = vec![test(IF_EQUAL, *call, 1, 0), give(REFUSE)];
            leaf.extend(uses(bounds));
            leaf
        }
        _ => {
            let (left, right) = calls.split_at(calls.len() / 2);
            let middle = right.first().map_or(u32::MAX, |(call, _)| *call);
            let left = tree(left);
            let over = u32::try_from(left.len()).unwrap_or(u32::MAX);
            let mut branch = vec![test(IF_AT_LEAST, middle, 0, 1), jump(over)];
            branch.extend(left);
            branch.extend(tree(right));
            branch
        }
    }
}

fn uses(bounds: &[Bound]) -> Vec<sock_filter> {
    if bounds.is_empty() {
        return vec![give(ALLOW)];
    }
    let mut program = Vec::with_capacity(bounds.len() * 4 + 1);
    for bound in bounds {
        program.push(load(ARGUMENTS + 8 * u32::from(bound.argument)));
        program.push(instruction(AND, bound.mask));
        program.push(test(IF_EQUAL, bound.value, 0, 1));
        program.push(give(ALLOW));
    }
    program.push(give(REFUSE));
    program
}

fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(LOAD, offset)
}

fn jump(over: u32) -> sock_filter {
    instruction(JUMP, over)
}

fn give(action: u32) -> sock_filter {
    instruction(RETURN, action)
}

fn test(code: u16, value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k: value }
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
