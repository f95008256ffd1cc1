//! Assembles classic BPF from its last instruction to its first, so that every jump's distance is known at once.
//!
//! A conditional jump reaches 255 instructions; where a target is further off the assembler puts an unconditional
//! jump in between, or repeats a `return`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// `struct sock_filter`: code, jump if true, jump if false, operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instruction(pub(super) u16, pub(super) u8, pub(super) u8, pub(super) u32);

/// `BPF_*` of the kernel's `linux/bpf_common.h`, put together.
pub(super) mod code {
    pub(in crate::container) const LOAD_WORD: u16 = 0x20;
    pub(in crate::container) const AND: u16 = 0x54;
    pub(in crate::container) const JUMP: u16 = 0x05;
    pub(in crate::container) const JUMP_EQUAL: u16 = 0x15;
    pub(in crate::container) const JUMP_GREATER: u16 = 0x25;
    pub(in crate::container) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
    pub(in crate::container) const RETURN: u16 = 0x06;
}

/// A comparison of the accumulator with a constant, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    /// A = k
    Equal,
    /// A > k
    Greater,
    /// A ≥ k
    GreaterOrEqual,
}

/// A place in the program, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    returns: HashMap<u32, Label>,
}

impl Assembler {
    /// An empty program.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The program, first instruction first.
    pub(super) fn finish(self) -> Vec<Instruction> {
        self.reversed.into_iter().rev().collect()
    }

    /// A place that ends the filter with `value`; one nearby is used again.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        if let Some(label) = self.returns.get(&value).copied().filter(|label| self.reach(*label).is_some()) {
            return label;
        }
        let label = self.push(Instruction(code::RETURN, 0, 0, value));
        self.returns.insert(value, label);
        label
    }

    /// Loads the word at `offset` and goes on with the instruction that was emitted last.
    pub(super) fn load(&mut self, offset: u32) -> Label {
        self.push(Instruction(code::LOAD_WORD, 0, 0, offset))
    }

    /// Masks the accumulator and goes on with the instruction that was emitted last.
    pub(super) fn mask(&mut self, mask: u32) -> Label {
        self.push(Instruction(code::AND, 0, 0, mask))
    }

    /// Goes to `target`, however far.
    pub(super) fn jump(&mut self, target: Label) -> Label {
        let distance = u32::try_from(self.reversed.len() - target.0).unwrap_or(u32::MAX);
        self.push(Instruction(code::JUMP, 0, 0, distance))
    }

    /// Compares the accumulator with `k`.
    pub(super) fn test(&mut self, test: Test, k: u32, yes: Label, no: Label) -> Label {
        let code = match test {
            Test::Equal => code::JUMP_EQUAL,
            Test::Greater => code::JUMP_GREATER,
            Test::GreaterOrEqual => code::JUMP_GREATER_OR_EQUAL,
        };
        match (self.reach(yes), self.reach(no)) {
            (Some(jump_true), Some(jump_false)) => self.push(Instruction(code, jump_true, jump_false, k)),
            (None, _) => {
                let yes = self.jump(yes);
                self.test(test, k, yes, no)
            }
            (Some(_), None) => {
                let no = self.jump(no);
                self.test(test, k, yes, no)
            }
        }
    }

    fn push(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        Label(self.reversed.len())
    }

    /// The distance to a place from an instruction emitted now, if a conditional jump can hold it.
    fn reach(&self, label: Label) -> Option<u8> {
        u8::try_from(self.reversed.len() - label.0).ok()
    }
}
