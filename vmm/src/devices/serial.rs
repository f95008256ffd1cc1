//! One 16550 serial port without a line behind it that could be too slow: the kernel's console, output only.
//!
//! What the guest writes is handed on line by line, and is dropped when nobody reads it: a guest that writes faster
//! than it is read must not stop, nor fill the monitor's memory.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use crate::bus::{Effect, Registers};
use crate::event::Event;

/// Registers by their offset: data or divisor, interrupt enable, interrupt identity, line control and status.
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_IDENTITY: u64 = 2;
const LINE_CONTROL: u64 = 3;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const MODEM_STATUS: u64 = 6;
const SCRATCH: u64 = 7;

/// Interrupt when the transmitter is empty; its identity; and the identity when there is none, with FIFOs enabled.
const ENABLE_EMPTY: u8 = 2;
const IDENTITY_EMPTY: u8 = 0xc2;
const IDENTITY_NONE: u8 = 0xc1;

/// The divisor is at the first two registers.
const DIVISOR_ACCESS: u8 = 0x80;

/// Transmitter and its holding register are empty: always.
const LINE_READY: u8 = 0x60;

/// Clear to send, data set ready, carrier.
const MODEM_READY: u8 = 0xb0;

/// In loopback a driver finds out whether there is a port: it sees its own outputs.
const LOOPBACK: u8 = 0x10;

/// The longest piece of a line that is held back.
const LINE: usize = 256;

/// What every Linux kernel says when it gives up.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The port.
#[derive(Debug)]
pub struct Serial {
    interrupt: Event,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    output: File,
    line: Vec<u8>,
    /// The end of what was handed on last, as long as it may be the beginning of what a kernel says when it gives up.
    before: Vec<u8>,
    enabled: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// The transmitter has become empty, and the driver was not told yet.
    empty: bool,
    dropped: u64,
    panicked: bool,
}

impl Serial {
    /// The first port, and how many there are.
    pub const PORTS: (u64, u64) = (0x3f8, 8);

    /// Its interrupt line.
    pub const LINE: u8 = 4;

    /// A port whose output goes to `output`, which is never waited for if it is non-blocking, and whose interrupt is
    /// `interrupt`.
    pub fn new(output: File, interrupt: Event) -> Serial {
        let state = State {
            output,
            line: Vec::with_capacity(LINE),
            before: Vec::with_capacity(LINE + PANIC.len()),
            enabled: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: [12, 0],
            empty: false,
            dropped: 0,
            panicked: false,
        };
        Serial { interrupt, state: Mutex::new(state) }
    }

    /// Hands on what is left of a line.
    pub fn flush(&self) {
        self.state().flush();
    }

    /// Whether the kernel has said that it gives up. That is the guest's word and nothing more.
    pub fn panicked(&self) -> bool {
        self.state().panicked
    }

    /// How many bytes were dropped because nobody read them.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, byte: u8) {
        self.line.push(byte);
        if byte == b'\n' || self.line.len() >= LINE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.before.extend_from_slice(&self.line);
        self.panicked |= self.before.windows(PANIC.len()).any(|part| part == PANIC);
        self.before.drain(..self.before.len().saturating_sub(PANIC.len() - 1));
        match self.output.write(&self.line) {
            Ok(written) if written == self.line.len() => {}
            outcome => {
                let lost = self.line.len() - outcome.unwrap_or(0);
                self.dropped = self.dropped.saturating_add(u64::try_from(lost).unwrap_or(u64::MAX));
            }
        }
        self.line.clear();
    }

    fn read(&mut self, register: u64) -> u8 {
        let divisor = self.line_control & DIVISOR_ACCESS != 0;
        match register {
            DATA if divisor => self.divisor[0],
            INTERRUPT_ENABLE if divisor => self.divisor[1],
            INTERRUPT_ENABLE => self.enabled,
            INTERRUPT_IDENTITY => {
                if std::mem::take(&mut self.empty) {
                    IDENTITY_EMPTY
                } else {
                    IDENTITY_NONE
                }
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => LINE_READY,
            MODEM_STATUS if self.modem_control & LOOPBACK != 0 => {
                // Outputs DTR, RTS, OUT1, OUT2 are seen as the inputs DSR, CTS, RI, DCD.
                let out = self.modem_control;
                (out & 2) << 3 | (out & 1) << 5 | (out & 4) << 4 | (out & 8) << 4
            }
            MODEM_STATUS => MODEM_READY,
            SCRATCH => self.scratch,
            _ => 0,
        }
    }

    /// Takes a write; says whether the transmitter has become empty and the driver wants to know.
    fn write(&mut self, register: u64, value: u8) -> bool {
        let divisor = self.line_control & DIVISOR_ACCESS != 0;
        match register {
            DATA if divisor => self.divisor[0] = value,
            INTERRUPT_ENABLE if divisor => self.divisor[1] = value,
            DATA if self.modem_control & LOOPBACK == 0 => {
                self.put(value);
                self.empty = self.enabled & ENABLE_EMPTY != 0;
            }
            INTERRUPT_ENABLE => {
                // A driver that begins to wait for the transmitter finds it empty.
                self.empty = value & !self.enabled & ENABLE_EMPTY != 0;
                self.enabled = value & 0xf;
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & 0x1f,
            SCRATCH => self.scratch = value,
            _ => {}
        }
        matches!(register, DATA | INTERRUPT_ENABLE) && self.empty
    }
}

impl Registers for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.state().read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if let [byte] = data
            && self.state().write(offset, *byte)
        {
            self.interrupt.signal();
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn port() -> (Serial, std::io::PipeReader, Event) {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let line = Event::new().unwrap();
        let output = File::from(std::os::fd::OwnedFd::from(writer));
        (Serial::new(output, line.try_clone().unwrap()), reader, line)
    }

    fn say(serial: &Serial, text: &[u8]) {
        for byte in text {
            serial.write(DATA, &[*byte]);
        }
    }

    fn get(serial: &Serial, register: u64) -> u8 {
        let mut data = [0];
        serial.read(register, &mut data);
        data[0]
    }

    #[test]
    fn a_line_is_handed_on_as_a_whole() {
        let (serial, mut reader, _) = port();
        say(&serial, b"hello\nrest");
        let mut bytes = [0; 64];
        assert_eq!(reader.read(&mut bytes).unwrap(), 6);
        serial.flush();
        assert_eq!(reader.read(&mut bytes).unwrap(), 4);
        assert_eq!(&bytes[..4], b"rest");
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted() {
        let (serial, reader, _) = port();
        drop(reader);
        say(&serial, b"gone\n");
        assert_eq!(serial.dropped(), 5);
    }

    #[test]
    fn a_full_pipe_does_not_stop_the_guest() {
        let (serial, _reader, _) = port();
        for _ in 0..2000 {
            say(&serial, &[b'x'; 99]);
            say(&serial, b"\n");
        }
        assert!(serial.dropped() > 0);
    }

    #[test]
    fn a_driver_that_waits_for_the_transmitter_is_told_once_per_byte() {
        let (serial, _reader, line) = port();
        serial.write(INTERRUPT_ENABLE, &[ENABLE_EMPTY]);
        assert_eq!(line.take(), 1);
        assert_eq!((get(&serial, INTERRUPT_IDENTITY), get(&serial, INTERRUPT_IDENTITY)), (0xc2, 0xc1));
        say(&serial, b"a");
        assert_eq!(line.take(), 1);
    }

    #[test]
    fn a_driver_finds_the_port_by_its_loopback() {
        let (serial, _reader, _) = port();
        serial.write(MODEM_CONTROL, &[0x10 | 0x0a]);
        assert_eq!(get(&serial, MODEM_STATUS) & 0xf0, 0x90);
    }

    #[test]
    fn a_kernel_that_gives_up_is_noticed() {
        let (serial, _reader, _) = port();
        say(&serial, b"[    1.2] Kernel panic - not syncing: VFS\n");
        assert!(serial.panicked());
    }

    #[test]
    fn a_kernel_that_gives_up_across_two_pieces_of_a_line_is_noticed() {
        let (serial, _reader, _) = port();
        say(&serial, &[b' '; LINE - 9]);
        say(&serial, b"Kernel panic - not syncing: VFS\n");
        assert!(serial.panicked());
    }

    #[test]
    fn the_divisor_is_not_printed() {
        let (serial, mut reader, _) = port();
        serial.write(LINE_CONTROL, &[DIVISOR_ACCESS]);
        say(&serial, b"x");
        serial.write(LINE_CONTROL, &[3]);
        say(&serial, b"y\n");
        let mut bytes = [0; 8];
        assert_eq!(reader.read(&mut bytes).unwrap(), 2);
    }
}
