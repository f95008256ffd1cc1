//! Says in words what a log's events are, and which of their bytes the digest vouches for.
//!
//! ```text
//! measured  bytes of the event that its digest is of: as good as the register that the log replays to
//! label     bytes that it is not of: the host's word, for people
//! kind      the host's word too: no register covers it
//! ```
//! An event that extends no register has nothing measured: EV_NO_ACTION, and what names a register that there is not.

use serde_json::{Map, Value};

use super::event_log::{Event, EventLog};
use crate::cursor::Cursor;
use crate::verdict::printable;

/// Longest text of an event that goes into claims, in characters.
const LONGEST_TEXT: usize = 2048;
const LONGEST_LABEL: usize = 128;

/// What boot loaders put before the text that they measure.
const IPL_PREFIXES: &[&[u8]] =
    &[b"grub_cmd: ", b"grub_cmd ", b"kernel_cmdline: ", b"grub_kernel_cmdline ", b"module_cmdline: "];

const EV_IPL: u32 = 0x0d;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

/// Kinds of events, as TCG names them.
const KINDS: &[(u32, &str)] = &[
    (0x00, "EV_PREBOOT_CERT"),
    (0x01, "EV_POST_CODE"),
    (0x03, "EV_NO_ACTION"),
    (0x04, "EV_SEPARATOR"),
    (0x05, "EV_ACTION"),
    (0x06, "EV_EVENT_TAG"),
    (0x07, "EV_S_CRTM_CONTENTS"),
    (0x08, "EV_S_CRTM_VERSION"),
    (0x09, "EV_CPU_MICROCODE"),
    (0x0a, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0b, "EV_TABLE_OF_DEVICES"),
    (0x0c, "EV_COMPACT_HASH"),
    (EV_IPL, "EV_IPL"),
    (0x0e, "EV_IPL_PARTITION_DATA"),
    (0x0f, "EV_NONHOST_CODE"),
    (0x10, "EV_NONHOST_CONFIG"),
    (0x11, "EV_NONHOST_INFO"),
    (0x12, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (EV_EFI_VARIABLE_DRIVER_CONFIG, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (EV_EFI_VARIABLE_BOOT, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (EV_EFI_VARIABLE_AUTHORITY, "EV_EFI_VARIABLE_AUTHORITY"),
];

impl EventLog {
    /// Every event, for claims.
    pub(super) fn claims(&self) -> Value {
        self.events.iter().map(Event::claims).collect()
    }
}

impl Event {
    /// The bytes that this event's digest is of, if the event holds them and a register was extended with it.
    pub fn measured(&self) -> Option<&[u8]> {
        if !self.extends() || self.rtmr().is_none() {
            return None;
        }
        [Some(self.data.as_slice()), self.content()].into_iter().flatten().find(|part| self.digested(part))
    }

    /// The part of the event's bytes that firmware and boot loaders hash, where it is not the whole.
    fn content(&self) -> Option<&[u8]> {
        match self.kind {
            EV_IPL => {
                let text = IPL_PREFIXES.iter().find_map(|prefix| self.data.strip_prefix(*prefix))?;
                text.split(|byte| *byte == 0).next()
            }
            EV_EFI_VARIABLE_DRIVER_CONFIG | EV_EFI_VARIABLE_BOOT | EV_EFI_VARIABLE_AUTHORITY => {
                variable(&self.data).map(|variable| variable.value)
            }
            _ => None,
        }
    }

    fn claims(&self) -> Value {
        let kind = KINDS.iter().find(|(number, _)| *number == self.kind);
        let kind = kind.map_or_else(|| format!("{:#010x}", self.kind), |(_, name)| (*name).to_owned());
        let mut claims = Map::new();
        claims.insert("register".to_owned(), self.register_name().into());
        claims.insert("kind".to_owned(), kind.into());
        claims.insert("digest".to_owned(), hex::encode(self.digest).into());
        let measured = self.measured();
        // Where the digest is of the value alone, nothing vouches for the name before it.
        let whole = measured == Some(self.data.as_slice());
        let name = || self.variable_name();
        let (told, label) = match measured {
            Some(part) => match (readable(part, LONGEST_TEXT), whole) {
                (None, true) => (name(), None),
                (text, true) => (text, None),
                (text, false) => (text, name()),
            },
            None => (None, readable(&self.data, LONGEST_LABEL).or_else(name)),
        };
        let texts = [("measured", told), ("label", label)];
        for (key, text) in texts.into_iter().filter_map(|(key, text)| Some((key, text?))) {
            claims.insert(key.to_owned(), text.into());
        }
        claims.into()
    }

    fn register_name(&self) -> String {
        match (self.rtmr(), self.register) {
            (Some(rtmr), _) => format!("rtmr{rtmr}"),
            (None, 0) => "mrtd".to_owned(),
            (None, _) => "none".to_owned(),
        }
    }

    /// The name of a UEFI variable whose value is no text.
    fn variable_name(&self) -> Option<String> {
        let kinds = [EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_AUTHORITY];
        let named = kinds.contains(&self.kind).then(|| variable(&self.data)).flatten()?;
        let name: String = named.name.chars().take(LONGEST_LABEL).collect();
        Some(printable(&name))
    }
}

/// UEFI_VARIABLE_DATA: GUID[16], length of the name in UTF-16 units u64, length of the value u64, name, value.
struct Variable<'a> {
    name: String,
    value: &'a [u8],
}

fn variable(data: &[u8]) -> Option<Variable<'_>> {
    let mut cursor = Cursor::new(data);
    cursor.bytes("GUID", 16).ok()?;
    let units = usize::try_from(cursor.u64_le("name length").ok()?).ok()?;
    let length = usize::try_from(cursor.u64_le("value length").ok()?).ok()?;
    let name = cursor.bytes("name", units.checked_mul(2)?).ok()?;
    let units: Vec<u16> = name
        .chunks_exact(2)
        .map(|pair| pair.iter().rev().fold(0, |unit, byte| unit << 8 | u16::from(*byte)))
        .collect();
    let value = cursor.bytes("value", length).ok()?;
    Some(Variable { name: String::from_utf16(&units).ok()?, value })
}

/// `bytes` as text, without the zeros at its end; `None` if it is none or longer than `most`.
fn readable(bytes: &[u8], most: usize) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0)?;
    let text = std::str::from_utf8(bytes.get(..=end)?).ok()?;
    let printable = text.chars().all(|char| !char.is_control() || matches!(char, '\n' | '\t'));
    (printable && text.len() <= most).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes: &[u8]) -> EventLog {
        EventLog::parse(bytes).expect("a log")
    }

    fn claims_with(log: &EventLog, key: &str) -> Vec<String> {
        let claims = log.claims();
        let events = claims.as_array().expect("a list").iter();
        events
            .filter_map(|event| event.get(key))
            .map(|text| text.as_str().expect("a text").to_owned())
            .collect()
    }

    #[test]
    fn a_command_line_that_grub_measured_is_known() {
        let log = log(include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin"));
        let measured = claims_with(&log, "measured");
        assert!(
            measured.iter().any(|text| text.starts_with("/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd"))
        );
        assert!(measured.contains(&"defaultA=2".to_owned()));
        assert!(!measured.contains(&"BootOrder".to_owned()));
    }

    #[test]
    fn the_name_of_a_variable_whose_value_alone_was_measured_is_only_a_label() {
        let mut log = log(include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin"));
        assert!(claims_with(&log, "label").contains(&"BootOrder".to_owned()));
        let boot_order: Vec<u8> = "BootOrder".bytes().flat_map(|byte| [byte, 0]).collect();
        let named = |event: &&mut Event| event.data.windows(18).any(|window| window == boot_order);
        let event = log.events.iter_mut().find(named).expect("the boot order");
        *event.data.get_mut(32).expect("a letter") = b'X';
        let (label, measured) = (claims_with(&log, "label"), claims_with(&log, "measured"));
        assert!(label.contains(&"XootOrder".to_owned()) && !measured.contains(&"XootOrder".to_owned()));
    }

    /// An event with the right digest of its own text.
    fn told(register: u32, kind: u32) -> Event {
        use sha2::{Digest, Sha384};
        let data = b"all is well".to_vec();
        Event { at: 65, register, kind, digest: Sha384::digest(&data).into(), data }
    }

    #[test]
    fn an_event_that_extends_nothing_measures_nothing() {
        let of = |register, kind| told(register, kind).measured().is_some();
        assert_eq!((of(3, 5), of(3, 3), of(0, 5), of(5, 5)), (true, false, false, false));
        let log = EventLog { events: vec![told(3, 3)], used: 0 };
        assert_eq!(claims_with(&log, "label"), ["all is well"]);
        assert!(claims_with(&log, "measured").is_empty());
    }

    #[test]
    fn a_register_that_there_is_not_gets_no_number() {
        let log = EventLog { events: vec![told(u32::MAX - 1, 3), told(0, 5), told(4, 5)], used: 0 };
        assert_eq!(claims_with(&log, "register"), ["none", "mrtd", "rtmr3"]);
    }

    #[test]
    fn what_no_digest_is_of_is_only_a_label() {
        let log = log(include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin"));
        assert_eq!(claims_with(&log, "label").iter().filter(|text| *text == "ACPI DATA").count(), 3);
        assert!(!claims_with(&log, "measured").contains(&"ACPI DATA".to_owned()));
    }

    #[test]
    fn a_text_that_was_changed_under_its_digest_is_only_a_label() {
        let mut log = log(include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin"));
        let event = log.events.iter_mut().find(|event| event.data.starts_with(b"kernel_cmdline: "));
        *event.expect("a command line").data.get_mut(20).expect("a letter") ^= 1;
        assert!(
            !claims_with(&log, "measured").iter().any(|text| text.starts_with("/syslinux/vmlinuz.A init"))
        );
    }

    #[test]
    fn an_attestation_agents_events_are_measured_whole() {
        let log = log(include_bytes!("../../testdata/tdx/misc/ccel-aael-alibaba.bin"));
        let last = log.events.last().expect("events");
        assert_eq!(last.measured(), Some(last.data.as_slice()));
    }
}
