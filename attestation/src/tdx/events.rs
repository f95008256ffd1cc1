//! Says in words what a log's events are, and which of their bytes the digest vouches for.
//!
//! ```text
//! measured  bytes of the event that its digest is of: as good as the register that the log replays to
//! label     bytes that it is not of: the host's word, for people
//! ```

use serde_json::{Value, json};

use super::event_log::{Event, EventLog};
use crate::cursor::Cursor;

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
    /// The bytes that this event's digest is of, if the event holds them.
    pub fn measured(&self) -> Option<&[u8]> {
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
        let mut claims = json!({
            "register": self.register_name(),
            "kind": kind,
            "digest": hex::encode(self.digest),
        });
        let (key, text) = match self.measured() {
            Some(measured) => ("measured", readable(measured, LONGEST_TEXT)),
            None => ("label", readable(&self.data, LONGEST_LABEL)),
        };
        if let (Some(claims), Some(text)) = (claims.as_object_mut(), text.or_else(|| self.variable_name())) {
            claims.insert(key.to_owned(), text.into());
        }
        claims
    }

    fn register_name(&self) -> String {
        match self.register.checked_sub(1) {
            Some(rtmr) => format!("rtmr{rtmr}"),
            None => "mrtd".to_owned(),
        }
    }

    /// The name of a UEFI variable whose value is no text.
    fn variable_name(&self) -> Option<String> {
        let kinds = [EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_BOOT, EV_EFI_VARIABLE_AUTHORITY];
        let named = kinds.contains(&self.kind).then(|| variable(&self.data)).flatten()?;
        Some(named.name.chars().take(LONGEST_LABEL).collect())
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
        assert!(measured.contains(&"BootOrder".to_owned()));
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
