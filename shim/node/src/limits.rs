//! How much a pod's machine may move.
//!
//! ```toml
//! [limits]
//! disk_bytes      = { per_second = 104857600, burst = 419430400 }   # all disks of a pod together
//! disk_operations = { per_second = 2000 }                           # burst: as much as in a second, where it is left out
//! nic_bytes       = { per_second = 62500000 }                       # each interface, in each direction
//! nic_packets     = { per_second = 100000 }
//! ```
//! What is left out has no limit. The built-in monitor keeps to them; a machine on QEMU is refused.

use std::num::NonZeroU64;

use coffer_vmm::spec::{Limit, Limits, Rate};
use serde::Deserialize;

/// The table as the file has it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    disk_bytes: Option<RateTable>,
    disk_operations: Option<RateTable>,
    nic_bytes: Option<RateTable>,
    nic_packets: Option<RateTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateTable {
    per_second: NonZeroU64,
    burst: Option<NonZeroU64>,
}

impl From<Table> for Limits {
    fn from(table: Table) -> Limits {
        let rate = |given: RateTable| {
            let RateTable { per_second, burst } = given;
            Rate { per_second, burst: burst.unwrap_or(per_second) }
        };
        let limit = |bytes: Option<RateTable>, operations: Option<RateTable>| Limit {
            bytes: bytes.map(rate),
            operations: operations.map(rate),
        };
        Limits {
            disks: limit(table.disk_bytes, table.disk_operations),
            nics: limit(table.nic_bytes, table.nic_packets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Result<Limits, toml::de::Error> {
        toml::from_str::<Table>(text).map(Limits::from)
    }

    #[test]
    fn an_empty_table_limits_nothing() {
        assert_eq!(limits("").unwrap(), Limits::default());
    }

    #[test]
    fn a_burst_that_is_left_out_is_a_seconds_worth() {
        let found =
            limits("disk_bytes = { per_second = 7, burst = 9 }\nnic_packets = { per_second = 5 }").unwrap();
        let rate = |per_second, burst| {
            Some(Rate {
                per_second: NonZeroU64::new(per_second).unwrap(),
                burst: NonZeroU64::new(burst).unwrap(),
            })
        };
        let disks = Limit { bytes: rate(7, 9), operations: None };
        let nics = Limit { bytes: None, operations: rate(5, 5) };
        assert_eq!(found, Limits { disks, nics });
    }

    #[test]
    fn nothing_a_second_is_refused() {
        assert!(limits("nic_bytes = { per_second = 0 }").is_err());
        assert!(limits("nic_bytes = { per_second = 1, burst = 0 }").is_err());
    }

    #[test]
    fn a_key_that_is_not_known_is_refused() {
        assert!(limits("disk_packets = { per_second = 1 }").is_err());
    }
}
