//! Disks of a machine: logical units of one SCSI controller, added and taken away by QEMU's machine protocol.
//!
//! ```text
//! add-fd ─▶ blockdev-add /dev/fdset/N ─▶ device_add scsi-hd          undone in the other order when a step fails
//! device_del ─▶ DEVICE_DELETED ─▶ blockdev-del ─▶ remove-fd
//! ```
//! QEMU opens no file: it is handed each descriptor. Layers are shared by all pods through the host's page cache.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use coffer_vmm::spec::{Disk, MAX_SERIAL};
use rustix::fs::FileType;
use serde_json::{Value, json};
use tokio::sync::{Mutex, broadcast};
use tokio::time::timeout;

use super::MachineError;
use super::arguments::CONTROLLER;
use super::qmp::{Event, Qmp};

/// Logical units per target that both QEMU and Linux take in their short form.
const MAX_DISKS: u32 = 256;

/// How long the controller may take to let go of a disk.
const DEADLINE: Duration = Duration::from_secs(20);

/// The disks of one machine, by serial, with the unit that each one is.
#[derive(Debug, Default)]
pub(super) struct Disks {
    units: Mutex<BTreeMap<String, u32>>,
}

impl Disks {
    /// Adds a disk.
    pub(super) async fn attach(&self, qmp: &Qmp, disk: Disk) -> Result<(), MachineError> {
        let mut units = self.units.lock().await;
        if !is_serial(&disk.serial) || units.contains_key(&disk.serial) {
            return Err(MachineError::Serial { serial: disk.serial });
        }
        let unit = free_unit(&units).ok_or(MachineError::TooManyDisks { count: units.len() })?;
        let block = block_node(&disk, unit)?;
        // QEMU duplicates the descriptor that it receives; ours is closed when this returns.
        qmp.execute_with("add-fd", json!({ "fdset-id": unit, "opaque": disk.serial }), disk.file.as_fd())
            .await?;
        if let Err(error) = qmp.execute("blockdev-add", block).await {
            remove_file(qmp, unit).await;
            return Err(error);
        }
        if let Err(error) = qmp.execute("device_add", device(&disk.serial, unit)).await {
            // The reason is the caller's; what is left of the disk harms nobody if it cannot be removed.
            let _ = qmp.execute("blockdev-del", json!({ "node-name": node(&disk.serial) })).await;
            remove_file(qmp, unit).await;
            return Err(error);
        }
        units.insert(disk.serial, unit);
        Ok(())
    }

    /// Takes a disk away.
    pub(super) async fn detach(&self, qmp: &Qmp, serial: &str) -> Result<(), MachineError> {
        let mut units = self.units.lock().await;
        let unit = *units.get(serial).ok_or_else(|| MachineError::NoDisk { serial: serial.to_owned() })?;
        let events = qmp.events();
        qmp.execute("device_del", json!({ "id": serial_id(serial) })).await?;
        deleted(events, &serial_id(serial)).await?;
        qmp.execute("blockdev-del", json!({ "node-name": node(serial) })).await?;
        remove_file(qmp, unit).await;
        units.remove(serial);
        Ok(())
    }
}

async fn remove_file(qmp: &Qmp, unit: u32) {
    // Fails when the last user of the set has already closed it, which removes the set as well.
    let _ = qmp.execute("remove-fd", json!({ "fdset-id": unit })).await;
}

async fn deleted(mut events: broadcast::Receiver<Event>, id: &str) -> Result<(), MachineError> {
    let command = || format!("DEVICE_DELETED of {id}");
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event)
                    if event.name == "DEVICE_DELETED" && event.data.get("device") == Some(&json!(id)) =>
                {
                    return Ok(());
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(MachineError::Ended { command: command() });
                }
            }
        }
    };
    match timeout(DEADLINE, wait).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MachineError::Deadline { command: command(), waited: DEADLINE }),
    }
}

fn is_serial(serial: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_SERIAL).contains(&serial.len()) && serial.bytes().all(allowed)
}

fn free_unit(units: &BTreeMap<String, u32>) -> Option<u32> {
    (0..MAX_DISKS).find(|unit| !units.values().any(|taken| taken == unit))
}

fn serial_id(serial: &str) -> String {
    format!("disk-{serial}")
}

fn node(serial: &str) -> String {
    format!("node-{serial}")
}

/// The block node over the descriptor in set `unit`.
fn block_node(disk: &Disk, unit: u32) -> Result<Value, MachineError> {
    let kind = rustix::fs::fstat(&disk.file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let driver = match kind {
        Ok(FileType::RegularFile) => "file",
        Ok(FileType::BlockDevice) => "host_device",
        _ => return Err(MachineError::NoBlocks { serial: disk.serial.clone() }),
    };
    let discard = if disk.read_only { "ignore" } else { "unmap" };
    Ok(json!({
        "driver": "raw",
        "node-name": node(&disk.serial),
        "read-only": disk.read_only,
        "discard": discard,
        // The lock that QEMU would take is on the open file, which for a layer all pods share.
        "file": {
            "driver": driver,
            "filename": format!("/dev/fdset/{unit}"),
            "read-only": disk.read_only,
            "discard": discard,
            "locking": "off",
        },
    }))
}

fn device(serial: &str, unit: u32) -> Value {
    json!({
        "driver": "scsi-hd",
        "id": serial_id(serial),
        "bus": format!("{CONTROLLER}.0"),
        "channel": 0,
        "scsi-id": 0,
        "lun": unit,
        "drive": node(serial),
        "serial": serial,
        // Says that it does not rotate, so that the guest does not schedule for seeks.
        "rotation_rate": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn disk(path: &str) -> Disk {
        Disk { serial: "layer-1".to_owned(), file: File::open(path).unwrap().into(), read_only: true }
    }

    #[test]
    fn a_serial_of_21_bytes_is_refused() {
        assert!(is_serial(&"a".repeat(20)));
        assert!(!is_serial(&"a".repeat(21)));
    }

    #[test]
    fn a_serial_with_a_capital_is_refused() {
        assert!(!is_serial("Layer"));
    }

    #[test]
    fn the_longest_serial_fits_a_node_name() {
        // QEMU's node names have at most 31 bytes.
        assert!(node(&"a".repeat(MAX_SERIAL)).len() <= 31);
    }

    #[test]
    fn a_freed_unit_is_used_again() {
        let units = BTreeMap::from([("a".to_owned(), 0), ("c".to_owned(), 2)]);
        assert_eq!(free_unit(&units), Some(1));
    }

    #[test]
    fn a_full_controller_has_no_unit() {
        let units = (0..MAX_DISKS).map(|unit| (unit.to_string(), unit)).collect();
        assert_eq!(free_unit(&units), None);
    }

    #[test]
    fn a_character_device_is_no_disk() {
        assert!(matches!(block_node(&disk("/dev/null"), 0), Err(MachineError::NoBlocks { .. })));
    }

    #[test]
    fn a_read_only_disk_is_read_only_at_both_levels() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let block = block_node(&disk(file.path().to_str().unwrap()), 3).unwrap();
        assert_eq!((&block["read-only"], &block["file"]["read-only"]), (&json!(true), &json!(true)));
        assert_eq!(block["file"]["filename"], "/dev/fdset/3");
    }
}
