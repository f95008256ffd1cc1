#![allow(unsafe_code)] // bpf(2) has no wrapper in the libraries at hand.
//! Device access of a cgroup: a BPF program, assembled here, that the kernel asks at every open and mknod.
//!
//! ```text
//! r2 = requested access, r3 = kind, r4 = major, r5 = minor
//! for each rule, last to first:   does it match the device?
//!    deny ──► any requested bit in it? ► refuse
//!    allow ─► take its bits off the request; nothing left? ► permit
//! ► refuse
//! ```
//! So for each bit of access the last rule that matches decides, and what no rule matches is refused.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::resources::{ACCESS_MKNOD, ACCESS_READ, ACCESS_WRITE, DEVICE_BLOCK, DEVICE_CHAR, DeviceRule};

const ALL: u32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

const fn permit(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> DeviceRule {
    DeviceRule { allow: true, kind: Some(kind), major, minor, access }
}

/// What every container may: make any node, and use the harmless ones and its terminals.
const USUAL: [DeviceRule; 10] = [
    permit(DEVICE_CHAR, None, None, ACCESS_MKNOD),
    permit(DEVICE_BLOCK, None, None, ACCESS_MKNOD),
    permit(DEVICE_CHAR, Some(1), Some(3), ALL),
    permit(DEVICE_CHAR, Some(1), Some(5), ALL),
    permit(DEVICE_CHAR, Some(1), Some(7), ALL),
    permit(DEVICE_CHAR, Some(1), Some(8), ALL),
    permit(DEVICE_CHAR, Some(1), Some(9), ALL),
    permit(DEVICE_CHAR, Some(5), Some(0), ALL),
    permit(DEVICE_CHAR, Some(5), Some(2), ALL),
    permit(DEVICE_CHAR, Some(136), None, ALL),
];

/// `struct bpf_insn`: code, destination and source register, jump offset, operand.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    operand: i32,
}

/// Codes of the kernel's `linux/bpf.h`, put together.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const SET: u8 = 0xb7;
const JUMP_IF_NOT_EQUAL: u8 = 0x56;
const JUMP: u8 = 0x05;
const JUMP_IF_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const REQUESTED: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The attached program; it stays attached when this is dropped, until its cgroup is removed.
#[derive(Debug)]
pub(super) struct Attached {
    program: OwnedFd,
}

/// Attaches a program for `rules` to a cgroup, in place of `earlier`.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    rules: &[DeviceRule],
    earlier: Option<&Attached>,
) -> io::Result<Attached> {
    let program = load(&assemble(rules))?;
    let replace = earlier.map(|earlier| earlier.program.as_raw_fd());
    let attributes = AttachAttributes {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replace.is_some() { REPLACE } else { 0 },
        replace: replace.unwrap_or(0),
    };
    bpf(COMMAND_ATTACH, &attributes)?;
    Ok(Attached { program })
}

fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, REQUESTED, CONTEXT, 0, 0),
        instruction(COPY, KIND, REQUESTED, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, REQUESTED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().chain(&USUAL).rev() {
        program.extend(assemble_rule(rule));
    }
    program.extend([instruction(SET, RESULT, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn assemble_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let access = rule.access.cast_signed();
    let act = match rule.allow {
        true => [
            instruction(AND, REQUESTED, 0, 0, !access),
            instruction(JUMP_IF_NOT_EQUAL, REQUESTED, 0, 2, 0),
            instruction(SET, RESULT, 0, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ],
        false => [
            instruction(JUMP_IF_ANY_BIT, REQUESTED, 0, 1, access),
            instruction(JUMP, 0, 0, 2, 0),
            instruction(SET, RESULT, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ],
    };
    let compared = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
    let mut left = 4;
    let mut backwards: Vec<Instruction> = act.into_iter().rev().collect();
    for (register, value) in compared.into_iter().rev() {
        if let Some(value) = value {
            backwards.push(instruction(JUMP_IF_NOT_EQUAL, register, 0, left, value.cast_signed()));
            left += 1;
        }
    }
    backwards.reverse();
    backwards
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, operand: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, operand }
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes what is missing as zero.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttributes {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
    replace: i32,
}

/// Numbers of the kernel's `linux/bpf.h`.
const COMMAND_LOAD: libc::c_int = 5;
const COMMAND_ATTACH: libc::c_int = 8;
const PROGRAM_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let address = |pointer: usize| u64::try_from(pointer).unwrap_or_default();
    let attributes = LoadAttributes {
        kind: PROGRAM_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: address(program.as_ptr().addr()),
        // Only a program that calls the kernel's GPL helpers needs another licence.
        license: address(c"Apache-2.0".as_ptr().addr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let descriptor = bpf(COMMAND_LOAD, &attributes)?;
    // SAFETY: a successful BPF_PROG_LOAD returns a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is one of the two structures above, of the size that is passed; what it points to (the
    // instructions, the licence) is borrowed or static and outlives the call; the kernel copies both.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(i32::try_from(value).unwrap_or(-1)),
    }
}

/// Whether this machine lets this process load programs at all.
#[cfg(test)]
pub(super) fn can_load() -> bool {
    load(&assemble(&[])).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel does, for the instructions that occur.
    fn run(program: &[Instruction], access: u32, kind: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0i64;
        loop {
            let i = program[usize::try_from(at).unwrap()];
            at += 1;
            let destination = usize::from(i.registers & 0xf);
            let source = usize::from(i.registers >> 4);
            let operand = i64::from(i.operand).cast_unsigned();
            let word = u32::try_from(registers[destination] & 0xffff_ffff).unwrap();
            let mut branch = |holds: bool| at += if holds { i64::from(i.offset) } else { 0 };
            match i.code {
                LOAD_WORD => registers[destination] = context[usize::try_from(i.offset / 4).unwrap()].into(),
                COPY => registers[destination] = registers[source],
                AND => registers[destination] &= operand,
                SHIFT_RIGHT => registers[destination] >>= operand,
                SET => registers[destination] = operand,
                JUMP => branch(true),
                JUMP_IF_NOT_EQUAL => branch(word != i.operand.cast_unsigned()),
                JUMP_IF_ANY_BIT => branch(word & i.operand.cast_unsigned() != 0),
                EXIT => return registers[0],
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    /// Each bit of access by itself: the last rule that matches decides.
    fn evaluate(rules: &[DeviceRule], access: u32, kind: u32, major: u32, minor: u32) -> u64 {
        let fits = |wanted: Option<u32>, found| wanted.is_none_or(|wanted| wanted == found);
        let permitted = |bit: u32| {
            let matching = |rule: &&DeviceRule| {
                rule.access & bit != 0
                    && fits(rule.kind, kind)
                    && fits(rule.major, major)
                    && fits(rule.minor, minor)
            };
            rules.iter().chain(&USUAL).rev().find(matching).is_some_and(|rule| rule.allow)
        };
        u64::from([1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(permitted))
    }

    fn number() -> impl Strategy<Value = u32> {
        prop::sample::select(vec![0, 1, 3, 5, 8, 136, u32::MAX])
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop::option::of(1u32..3);
        (any::<bool>(), kind, prop::option::of(number()), prop::option::of(number()), 0u32..8)
            .prop_map(|(allow, kind, major, minor, access)| DeviceRule { allow, kind, major, minor, access })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_say(
            rules in prop::collection::vec(rule(), 0..8),
            calls in prop::collection::vec((1u32..8, 1u32..3, number(), number()), 64),
        ) {
            let program = assemble(&rules);
            for (access, kind, major, minor) in calls {
                let expected = evaluate(&rules, access, kind, major, minor);
                prop_assert_eq!(run(&program, access, kind, major, minor), expected);
            }
        }
    }

    #[test]
    fn without_rules_the_null_device_works_and_a_disk_can_be_made_but_not_read() {
        let program = assemble(&[]);
        assert_eq!(run(&program, ALL, DEVICE_CHAR, 1, 3), 1);
        assert_eq!(run(&program, ACCESS_MKNOD, DEVICE_BLOCK, 8, 0), 1);
        assert_eq!(run(&program, ACCESS_READ, DEVICE_BLOCK, 8, 0), 0);
    }
}
