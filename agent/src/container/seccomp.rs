//! Compiles an OCI seccomp profile into a classic BPF program.
//!
//! ```text
//! load arch ── other ──► kill thread                        load nr, per ABI: binary search over number ranges
//!          ├── x86_64 ── nr has the x32 bit ── x32 listed? ──► search │ kill thread
//!          │             └─ else ──► search                           ├─ above the last number of the profile ► ENOSYS
//!          └── i386, if listed ──► search                             ├─ rule without arguments ► its action
//!                                                                     └─ rules with arguments, in order ► first match
//! ```
//! Where the specification is silent this does what runc with libseccomp does: names that an ABI lacks are skipped;
//! the first rule of a call without arguments beats its rules with arguments; conditions of one rule must all hold,
//! unless two of them are on one argument, when each is a rule of its own; a rule whose action is the default is
//! dropped; a call that is newer than the whole profile gets ENOSYS, so that C libraries fall back to an older one.
//!
//! Not here: user notification (no supervisor can listen inside the guest), other machines than x86-64.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bpf::{Assembler, Instruction, Label, Test};
use super::error::SpecError;
use super::syscalls::{self, Abi, X32_BIT};
use super::wire::{self, Action, Architecture, FilterFlag, Operator};

/// `AUDIT_ARCH_*` of the kernel's `linux/audit.h`.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// Offsets in the kernel's `struct seccomp_data`.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

/// The largest number that the kernel returns as an errno (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// The number that a tracer writes to skip a call.
const SKIPPED_CALL: u32 = u32::MAX;

const FIELD: &str = "linux.seccomp";

/// A filter that the kernel accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    pub(super) program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u32,
}

/// Compiles a profile.
pub(super) fn compile(profile: &wire::Seccomp) -> Result<Filter, SpecError> {
    let default =
        verdict(profile.default_action, profile.default_errno_ret, ["defaultAction", "defaultErrnoRet"])?;
    let rules = parse_rules(profile)?;
    let newer = newer_calls_get_enosys(profile, default);
    let plan = |abi| Plan::new(abi, &rules, default, newer);
    let program = assemble(profile, default, plan);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SpecError::Value {
            field: FIELD.to_owned(),
            value: format!("{} instructions", program.len()),
            rule: "the kernel takes at most 4096",
        });
    }
    Ok(Filter { program, flags: flags(profile) })
}

/// Written from the program's end, as the assembler works: each step goes on to the one above it.
fn assemble(profile: &wire::Seccomp, default: u32, plan: impl Fn(Abi) -> Plan) -> Vec<Instruction> {
    let lists = |architecture| profile.architectures.contains(&architecture);
    let mut asm = Assembler::new();
    let i386 = lists(Architecture::X86).then(|| plan(Abi::I386).emit(&mut asm));
    let x32 = lists(Architecture::X32).then(|| plan(Abi::X32).emit(&mut asm));
    let x86_64 = plan(Abi::X86_64).emit(&mut asm);

    let foreign = match i386 {
        Some(search) => {
            asm.jump(search);
            let search = asm.load(OFFSET_NR);
            let kill = asm.ret(libc::SECCOMP_RET_KILL_THREAD);
            asm.test(Test::Equal, AUDIT_ARCH_I386, search, kill)
        }
        None => asm.ret(libc::SECCOMP_RET_KILL_THREAD),
    };
    let x32 = x32.unwrap_or_else(|| asm.ret(libc::SECCOMP_RET_KILL_THREAD));
    let by_bit = asm.test(Test::GreaterOrEqual, X32_BIT, x32, x86_64);
    let skipped = asm.ret(default);
    asm.test(Test::Equal, SKIPPED_CALL, skipped, by_bit);
    let native = asm.load(OFFSET_NR);
    asm.test(Test::Equal, AUDIT_ARCH_X86_64, native, foreign);
    asm.load(OFFSET_ARCH);
    asm.finish()
}

/// `TSYNC` has no effect on the single thread that loads the filter, `WAIT_KILLABLE_RECV` only on notifications.
fn flags(profile: &wire::Seccomp) -> u32 {
    let bits = profile.flags.iter().map(|flag| match flag {
        FilterFlag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
        FilterFlag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        FilterFlag::Tsync | FilterFlag::WaitKillableRecv => 0,
    });
    u32::try_from(bits.fold(0, |all, bit| all | bit)).unwrap_or(0)
}

/// A permissive profile lets new calls through by itself, and one whose default is ENOSYS needs no help.
fn newer_calls_get_enosys(profile: &wire::Seccomp, default: u32) -> bool {
    !matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace) && default != enosys()
}

fn enosys() -> u32 {
    libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()
}

/// The value that a filter returns for an action; `fields` names the action and its errno.
fn verdict(action: Action, errno: Option<u32>, fields: [&str; 2]) -> Result<u32, SpecError> {
    let data = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let [action_field, errno_field] = fields;
    if data > MAX_ERRNO {
        return Err(SpecError::Value {
            field: format!("{FIELD}.{errno_field}"),
            value: data.to_string(),
            rule: "an errno is at most 4095",
        });
    }
    Ok(match action {
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Errno => libc::SECCOMP_RET_ERRNO | data,
        Action::Trace => libc::SECCOMP_RET_TRACE | data,
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Notify => {
            return Err(SpecError::Unsupported {
                field: format!("{FIELD}.{action_field}"),
                why: "SCMP_ACT_NOTIFY needs a supervisor at listenerPath, which is on the host; \
                      use an action that the kernel decides",
            });
        }
    })
}

/// One rule, with what its syscalls are called.
struct Rule<'a> {
    names: &'a [String],
    conditions: Vec<Condition>,
    verdict: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    operator: Operator,
    value: u64,
    value_two: u64,
}

fn parse_rules(profile: &wire::Seccomp) -> Result<Vec<Rule<'_>>, SpecError> {
    let mut rules = Vec::new();
    for (position, rule) in profile.syscalls.iter().enumerate() {
        let fields = [format!("syscalls[{position}].action"), format!("syscalls[{position}].errnoRet")];
        let verdict = verdict(rule.action, rule.errno_ret, fields.each_ref().map(String::as_str))?;
        if rule.names.is_empty() {
            return Err(SpecError::Missing { field: format!("{FIELD}.syscalls[{position}].names") });
        }
        let conditions = parse_conditions(&rule.args, position)?;
        let arguments: BTreeSet<u32> = conditions.iter().map(|condition| condition.index).collect();
        let alternatives = match arguments.len() < conditions.len() {
            true => conditions.into_iter().map(|condition| vec![condition]).collect(),
            false => vec![conditions],
        };
        let names = rule.names.as_slice();
        rules.extend(alternatives.into_iter().map(|conditions| Rule { names, conditions, verdict }));
    }
    Ok(rules)
}

fn parse_conditions(args: &[wire::SyscallArg], rule: usize) -> Result<Vec<Condition>, SpecError> {
    let check = |(position, arg): (usize, &wire::SyscallArg)| {
        if arg.index > 5 {
            return Err(SpecError::Value {
                field: format!("{FIELD}.syscalls[{rule}].args[{position}].index"),
                value: arg.index.to_string(),
                rule: "a system call has the arguments 0 to 5",
            });
        }
        Ok(Condition { index: arg.index, operator: arg.op, value: arg.value, value_two: arg.value_two })
    };
    args.iter().enumerate().map(check).collect()
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Always(u32),
    /// The first alternative whose conditions all hold; else the default.
    FirstMatch(Vec<(Vec<Condition>, u32)>),
}

/// What one ABI's calls lead to.
struct Plan {
    default: u32,
    /// First number of a range, and what the range leads to; sorted, starting at 0, neighbours differ.
    ranges: Vec<(u32, Outcome)>,
}

impl Plan {
    fn new(abi: Abi, rules: &[Rule<'_>], default: u32, newer_is_enosys: bool) -> Plan {
        let numbers = syscalls::numbers(abi);
        let mut calls: BTreeMap<u32, Outcome> = BTreeMap::new();
        let mut last = None;
        for rule in rules {
            for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str()).copied()) {
                last = last.max(Some(number));
                if rule.verdict != default {
                    merge(calls.entry(number).or_insert_with(|| Outcome::FirstMatch(Vec::new())), rule);
                }
            }
        }
        let mut ranges = vec![(0, Outcome::Always(default))];
        for (number, outcome) in calls {
            ranges.push((number, outcome));
            if let Some(next) = number.checked_add(1) {
                ranges.push((next, Outcome::Always(default)));
            }
        }
        if let (true, Some(next)) = (newer_is_enosys, last.and_then(|number| number.checked_add(1))) {
            ranges.push((next, Outcome::Always(enosys())));
        }
        Plan { default, ranges: compact(ranges) }
    }

    /// Emits the search, entered with the call's number in the accumulator.
    fn emit(&self, asm: &mut Assembler) -> Label {
        self.emit_ranges(asm, &self.ranges)
    }

    fn emit_ranges(&self, asm: &mut Assembler, ranges: &[(u32, Outcome)]) -> Label {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        match (low, high) {
            ([], [(_, outcome), ..]) => self.emit_outcome(asm, outcome),
            (_, [(start, _), ..]) => {
                let high = self.emit_ranges(asm, high);
                let low = self.emit_ranges(asm, low);
                asm.test(Test::GreaterOrEqual, *start, high, low)
            }
            (_, []) => asm.ret(self.default),
        }
    }

    fn emit_outcome(&self, asm: &mut Assembler, outcome: &Outcome) -> Label {
        match outcome {
            Outcome::Always(verdict) => asm.ret(*verdict),
            Outcome::FirstMatch(alternatives) => {
                let mut next = asm.ret(self.default);
                for (conditions, verdict) in alternatives.iter().rev() {
                    let mut matched = asm.ret(*verdict);
                    for condition in conditions.iter().rev() {
                        matched = emit_condition(asm, condition, matched, next);
                    }
                    next = matched;
                }
                next
            }
        }
    }
}

/// Adds a rule to what a call leads to.
fn merge(outcome: &mut Outcome, rule: &Rule<'_>) {
    if let Outcome::FirstMatch(alternatives) = outcome {
        match rule.conditions.is_empty() {
            true => *outcome = Outcome::Always(rule.verdict),
            false => alternatives.push((rule.conditions.clone(), rule.verdict)),
        }
    }
}

/// A later range with the same start replaces an earlier one; equal neighbours become one.
fn compact(ranges: Vec<(u32, Outcome)>) -> Vec<(u32, Outcome)> {
    let mut compacted: Vec<(u32, Outcome)> = Vec::with_capacity(ranges.len());
    for (start, outcome) in ranges {
        if compacted.last().is_some_and(|(last, _)| *last == start) {
            compacted.pop();
        }
        if compacted.last().is_none_or(|(_, last)| *last != outcome) {
            compacted.push((start, outcome));
        }
    }
    compacted
}

/// Emits one 64-bit comparison out of 32-bit ones.
fn emit_condition(asm: &mut Assembler, condition: &Condition, yes: Label, no: Label) -> Label {
    let Condition { index, operator, value, value_two } = *condition;
    let low_offset = OFFSET_ARGS + 8 * index;
    let high_offset = low_offset + 4;
    let (high, low) = halves(value);
    let (test, yes, no) = match operator {
        Operator::Equal => (Test::Equal, yes, no),
        Operator::NotEqual => (Test::Equal, no, yes),
        Operator::Greater => (Test::Greater, yes, no),
        Operator::LessOrEqual => (Test::Greater, no, yes),
        Operator::GreaterOrEqual => (Test::GreaterOrEqual, yes, no),
        Operator::Less => (Test::GreaterOrEqual, no, yes),
        Operator::MaskedEqual => {
            let (want_high, want_low) = halves(value & value_two);
            asm.test(Test::Equal, want_low, yes, no);
            asm.mask(low);
            let low_half = asm.load(low_offset);
            asm.test(Test::Equal, want_high, low_half, no);
            asm.mask(high);
            return asm.load(high_offset);
        }
    };
    asm.test(test, low, yes, no);
    let low_half = asm.load(low_offset);
    match test {
        Test::Equal => asm.test(Test::Equal, high, low_half, no),
        Test::Greater | Test::GreaterOrEqual => {
            let not_greater = asm.test(Test::Equal, high, low_half, no);
            asm.test(Test::Greater, high, yes, not_greater)
        }
    };
    asm.load(high_offset)
}

/// The upper and the lower half of a 64-bit value.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::super::bpf::code;
    use super::*;

    /// What the kernel shows a filter.
    #[derive(Debug, Clone, Copy)]
    struct Call {
        arch: u32,
        nr: u32,
        args: [u64; 6],
    }

    fn word(call: &Call, offset: u32) -> u32 {
        match offset {
            0 => call.nr,
            4 => call.arch,
            _ => {
                let (high, low) = halves(call.args[usize::try_from((offset - 16) / 8).unwrap()]);
                if offset.is_multiple_of(8) { low } else { high }
            }
        }
    }

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], call: &Call) -> u32 {
        let mut accumulator = 0u32;
        let mut at = 0usize;
        loop {
            let Instruction(op, jump_true, jump_false, k) = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jump_true } else { jump_false });
            match op {
                code::LOAD_WORD => accumulator = word(call, k),
                code::AND => accumulator &= k,
                code::JUMP => at += usize::try_from(k).unwrap(),
                code::JUMP_EQUAL => branch(accumulator == k),
                code::JUMP_GREATER => branch(accumulator > k),
                code::JUMP_GREATER_OR_EQUAL => branch(accumulator >= k),
                code::RETURN => return k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn holds(arg: &wire::SyscallArg, args: &[u64; 6]) -> bool {
        let found = args[usize::try_from(arg.index).unwrap()];
        match arg.op {
            Operator::NotEqual => found != arg.value,
            Operator::Less => found < arg.value,
            Operator::LessOrEqual => found <= arg.value,
            Operator::Equal => found == arg.value,
            Operator::GreaterOrEqual => found >= arg.value,
            Operator::Greater => found > arg.value,
            Operator::MaskedEqual => found & arg.value == arg.value_two & arg.value,
        }
    }

    fn rule_holds(rule: &wire::SyscallRule, args: &[u64; 6]) -> bool {
        let repeated =
            rule.args.iter().enumerate().any(|(i, a)| rule.args[..i].iter().any(|b| b.index == a.index));
        match repeated {
            true => rule.args.iter().any(|arg| holds(arg, args)),
            false => rule.args.iter().all(|arg| holds(arg, args)),
        }
    }

    /// Calls by name, looked up once per ABI.
    fn number_of(abi: Abi, name: &str) -> Option<u32> {
        static TABLES: OnceLock<[HashMap<&str, u32>; 3]> = OnceLock::new();
        let [x86_64, x32, i386] =
            TABLES.get_or_init(|| [Abi::X86_64, Abi::X32, Abi::I386].map(syscalls::numbers));
        let table = match abi {
            Abi::X86_64 => x86_64,
            Abi::X32 => x32,
            Abi::I386 => i386,
        };
        table.get(name).copied()
    }

    /// The profile's meaning, without any of the compiler's steps.
    fn evaluate(profile: &wire::Seccomp, call: &Call) -> u32 {
        let names = ["", ""];
        let default = verdict(profile.default_action, profile.default_errno_ret, names).unwrap();
        let lists = |architecture| profile.architectures.contains(&architecture);
        let abi = match call.arch {
            AUDIT_ARCH_X86_64 if call.nr == SKIPPED_CALL => return default,
            AUDIT_ARCH_X86_64 if call.nr < X32_BIT => Abi::X86_64,
            AUDIT_ARCH_X86_64 if lists(Architecture::X32) => Abi::X32,
            AUDIT_ARCH_I386 if lists(Architecture::X86) => Abi::I386,
            _ => return libc::SECCOMP_RET_KILL_THREAD,
        };
        let number = |name: &String| number_of(abi, name);
        let last = profile.syscalls.iter().flat_map(|rule| rule.names.iter().filter_map(number)).max();
        if newer_calls_get_enosys(profile, default) && last.is_some_and(|last| call.nr > last) {
            return enosys();
        }
        let mine: Vec<_> = profile
            .syscalls
            .iter()
            .map(|rule| (rule, verdict(rule.action, rule.errno_ret, names).unwrap()))
            .filter(|(rule, v)| *v != default && rule.names.iter().any(|name| number(name) == Some(call.nr)))
            .collect();
        let unconditional = mine.iter().find(|(rule, _)| rule.args.is_empty());
        let first = unconditional.or_else(|| mine.iter().find(|(rule, _)| rule_holds(rule, &call.args)));
        first.map_or(default, |(_, verdict)| *verdict)
    }

    fn action() -> impl Strategy<Value = Action> {
        prop::sample::select(vec![
            Action::Allow,
            Action::Errno,
            Action::KillProcess,
            Action::KillThread,
            Action::Log,
            Action::Trace,
            Action::Trap,
        ])
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..4, Just(u64::MAX), Just(1 << 32), Just((1 << 32) | 1), Just(u64::from(u32::MAX))]
    }

    fn arg() -> impl Strategy<Value = wire::SyscallArg> {
        let operator = prop::sample::select(vec![
            Operator::NotEqual,
            Operator::Less,
            Operator::LessOrEqual,
            Operator::Equal,
            Operator::GreaterOrEqual,
            Operator::Greater,
            Operator::MaskedEqual,
        ]);
        (0u32..6, value(), value(), operator).prop_map(|(index, value, value_two, op)| wire::SyscallArg {
            index,
            value,
            value_two,
            op,
        })
    }

    const NAMES: [&str; 14] = [
        "read",
        "write",
        "open",
        "close",
        "clone",
        "clone3",
        "execve",
        "personality",
        "socket",
        "socketcall",
        "mseal",
        "uretprobe",
        "statx",
        "no_such_call",
    ];

    fn rule() -> impl Strategy<Value = wire::SyscallRule> {
        let names = prop::collection::vec(prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), 1..5);
        (names, action(), prop::option::of(0u32..4), prop::collection::vec(arg(), 0..4))
            .prop_map(|(names, action, errno_ret, args)| wire::SyscallRule { names, action, errno_ret, args })
    }

    fn profile() -> impl Strategy<Value = wire::Seccomp> {
        let architectures = prop::sample::subsequence(
            vec![Architecture::X86_64, Architecture::X86, Architecture::X32, Architecture::Foreign],
            0..=4,
        );
        (
            action(),
            prop::option::of(prop_oneof![Just(1), Just(38)]),
            architectures,
            prop::collection::vec(rule(), 0..12),
        )
            .prop_map(|(default_action, default_errno_ret, architectures, syscalls)| wire::Seccomp {
                default_action,
                default_errno_ret,
                architectures,
                flags: Vec::new(),
                syscalls,
            })
    }

    fn call() -> impl Strategy<Value = Call> {
        let arch =
            prop::sample::select(vec![AUDIT_ARCH_X86_64, AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, 0xc000_00b7]);
        let named = prop::sample::select(NAMES.to_vec()).prop_flat_map(|name| {
            let of = [Abi::X86_64, Abi::X32, Abi::I386].map(|abi| number_of(abi, name));
            prop::sample::select(of.map(|n| n.unwrap_or(7)).to_vec())
        });
        let nr = prop_oneof![4 => named, 1 => 0u32..600, 1 => Just(X32_BIT), 1 => Just(u32::MAX), 1 => any::<u32>()];
        (arch, nr, prop::array::uniform6(value())).prop_map(|(arch, nr, args)| Call { arch, nr, args })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn the_program_decides_as_the_profile_says(profile in profile(), calls in prop::collection::vec(call(), 200)) {
            let filter = compile(&profile).unwrap();
            for call in calls {
                prop_assert_eq!(run(&filter.program, &call), evaluate(&profile, &call), "{:?}", call);
            }
        }
    }

    fn parse(json: &str) -> wire::Seccomp {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_allow_list_of_every_call_still_fits_and_decides_each_one() {
        let numbers = syscalls::numbers(Abi::X86_64);
        // Every second call carries a condition, so that no range can be merged and jumps are far.
        let rules: Vec<_> = numbers
            .iter()
            .map(|(name, number)| {
                let args = match number % 2 {
                    0 => r#"[{"index":1,"value":5,"op":"SCMP_CMP_EQ"}]"#,
                    _ => "[]",
                };
                format!(r#"{{"names":["{name}"],"action":"SCMP_ACT_ALLOW","args":{args}}}"#)
            })
            .collect();
        let profile =
            parse(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, rules.join(",")));
        let filter = compile(&profile).unwrap();
        for number in 0..700 {
            for second in [5, 6] {
                let call = Call { arch: AUDIT_ARCH_X86_64, nr: number, args: [0, second, 0, 0, 0, 0] };
                assert_eq!(run(&filter.program, &call), evaluate(&profile, &call), "{call:?}");
            }
        }
    }

    #[test]
    fn notify_is_refused_and_says_what_to_use() {
        let profile = parse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        let error = compile(&profile).unwrap_err();
        assert!(
            error.to_string().starts_with("linux.seccomp.syscalls[0].action is not supported"),
            "{error}"
        );
    }

    #[test]
    fn an_argument_index_of_6_is_refused() {
        let profile = parse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        let error = compile(&profile).unwrap_err();
        assert!(error.to_string().starts_with("linux.seccomp.syscalls[0].args[0].index"), "{error}");
    }

    #[test]
    fn an_errno_over_4095_is_refused() {
        let profile = parse(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#);
        let error = compile(&profile).unwrap_err();
        assert!(error.to_string().starts_with("linux.seccomp.defaultErrnoRet"), "{error}");
    }
}
