//! The keyboard controller's one line that resets a PC: what `reboot=k` makes a kernel use.

use crate::bus::{Effect, Registers};

/// Offset of the controller's command and status register from port 0x60.
const COMMAND: u64 = 4;

/// The command that pulses the reset line.
const PULSE_RESET: u8 = 0xfe;

/// The two ports of a keyboard controller without a keyboard.
#[derive(Debug, Clone, Copy)]
pub struct ResetPort;

impl ResetPort {
    /// The first port, and how many there are.
    pub const PORTS: (u64, u64) = (0x60, 5);
}

impl Registers for ResetPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // Status: ready for a command, and no key was pressed.
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if offset == COMMAND && data == [PULSE_RESET] { Effect::Reset } else { Effect::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_resets() {
        assert_eq!(ResetPort.write(4, &[0xfe]), Effect::Reset);
        assert_eq!(ResetPort.write(0, &[0xfe]), Effect::None);
        assert_eq!(ResetPort.write(4, &[0xfe, 0]), Effect::None);
        assert_eq!(ResetPort.write(4, &[0xd1]), Effect::None);
    }
}
