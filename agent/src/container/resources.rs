//! Translates OCI resources into writes to cgroup v2 files: a pure table, carried out by `cgroup.rs`.
//!
//! Left out with a note: what means something only on the host (its CPU and memory node numbers, its block devices)
//! and what cgroup v2 lacks (real-time scheduling, network classes).

use super::error::SpecError;
use super::wire;

/// New limits for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourceUpdate {
    pub(super) writes: Vec<Write>,
    pub(super) devices: Vec<DeviceRule>,
    /// What was left out, as sentences.
    pub(crate) notes: Vec<String>,
}

/// One write to a file of the container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) file: String,
    pub(super) value: String,
    /// Whether a kernel without this file is an error.
    pub(super) required: bool,
}

/// One rule about device access; a later one beats an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceRule {
    pub(super) allow: bool,
    /// `BPF_DEVCG_DEV_*`; `None` is any.
    pub(super) kind: Option<u32>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// `BPF_DEVCG_ACC_*` bits.
    pub(super) access: u32,
}

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*` of the kernel's `linux/bpf.h`.
pub(super) const DEVICE_BLOCK: u32 = 1;
pub(super) const DEVICE_CHAR: u32 = 2;
pub(super) const ACCESS_MKNOD: u32 = 1;
pub(super) const ACCESS_READ: u32 = 2;
pub(super) const ACCESS_WRITE: u32 = 4;

const FIELD: &str = "linux.resources";

impl ResourceUpdate {
    /// Parses a `linux.resources` object.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, SpecError> {
        Self::from_wire(&wire::parse::<wire::Resources>(json)?)
    }

    pub(super) fn from_wire(resources: &wire::Resources) -> Result<Self, SpecError> {
        let mut update = ResourceUpdate::default();
        resources.memory.iter().try_for_each(|memory| update.memory(memory))?;
        resources.cpu.iter().for_each(|cpu| update.cpu(cpu));
        resources.pids.iter().for_each(|pids| update.pids(pids));
        resources.block_io.iter().for_each(|io| update.block_io(io));
        update.hugepages(&resources.hugepage_limits)?;
        update.unified(resources)?;
        for (position, rule) in resources.devices.iter().enumerate() {
            update.devices.push(device_rule(rule, position)?);
        }
        if resources.network.is_some() || !resources.rdma.is_empty() {
            update.note("network classes and RDMA limits are left out: the guest has neither");
        }
        Ok(update)
    }

    fn memory(&mut self, memory: &wire::Memory) -> Result<(), SpecError> {
        if let Some(swap) = swap_alone(memory)? {
            self.optional("memory.swap.max", swap);
        }
        if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
            self.required("memory.max", limit_text(limit));
        }
        if let Some(reservation) = memory.reservation.filter(|reservation| *reservation != 0) {
            self.required("memory.low", limit_text(reservation));
        }
        if memory.disable_oom_killer == Some(true) {
            self.note("disableOOMKiller is left out: cgroup v2 always kills");
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &wire::Cpu) {
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
            self.required("cpu.weight", weight_of_shares(shares).to_string());
        }
        if let Some(idle) = cpu.idle {
            self.optional("cpu.idle", idle.to_string());
        }
        if let Some(limit) = cpu_max(cpu) {
            self.required("cpu.max", limit);
        }
        if let Some(burst) = cpu.burst {
            self.optional("cpu.max.burst", burst.to_string());
        }
        if !cpu.cpus.is_empty() || !cpu.mems.is_empty() {
            self.note("cpus and mems are left out: they number the host's CPUs and memory nodes");
        }
        if cpu.realtime_period.is_some_and(|p| p != 0) || cpu.realtime_runtime.is_some_and(|r| r != 0) {
            self.note("real-time limits are left out: cgroup v2 has none");
        }
    }

    fn pids(&mut self, pids: &wire::Pids) {
        if let Some(limit) = pids.limit.filter(|limit| *limit != 0) {
            self.required("pids.max", limit_text(limit));
        }
    }

    fn block_io(&mut self, io: &wire::BlockIo) {
        if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
            // From 10..1000 to 1..10000, as the kernel's own documentation of the two ranges suggests.
            let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990;
            self.optional("io.weight", weight.to_string());
        }
        let per_device = [
            &io.weight_device,
            &io.throttle_read_bps_device,
            &io.throttle_write_bps_device,
            &io.throttle_read_iops_device,
            &io.throttle_write_iops_device,
        ];
        if per_device.iter().any(|devices| !devices.is_empty()) {
            self.note("limits per block device are left out: they number the host's devices");
        }
    }

    fn hugepages(&mut self, limits: &[wire::HugepageLimit]) -> Result<(), SpecError> {
        for (position, limit) in limits.iter().enumerate() {
            let digits = ["KB", "MB", "GB"].iter().find_map(|unit| limit.page_size.strip_suffix(unit));
            if !digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
            {
                return Err(SpecError::Value {
                    field: format!("{FIELD}.hugepageLimits[{position}].pageSize"),
                    value: limit.page_size.clone(),
                    rule: "a page size is a number and KB, MB or GB",
                });
            }
            self.optional(&format!("hugetlb.{}.max", limit.page_size), limit.limit.to_string());
            self.optional(&format!("hugetlb.{}.rsvd.max", limit.page_size), limit.limit.to_string());
        }
        Ok(())
    }

    fn unified(&mut self, resources: &wire::Resources) -> Result<(), SpecError> {
        for (file, value) in &resources.unified {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
            let named = file.bytes().all(plain) && file.contains('.') && !file.contains("..");
            if !named || file.starts_with('.') || file.starts_with("cgroup.") {
                return Err(SpecError::Value {
                    field: format!("{FIELD}.unified"),
                    value: file.clone(),
                    rule: "a key is a controller's file such as memory.high",
                });
            }
            self.required(file, value.clone());
        }
        Ok(())
    }

    fn required(&mut self, file: &str, value: String) {
        self.writes.push(Write { file: file.to_owned(), value, required: true });
    }

    fn optional(&mut self, file: &str, value: String) {
        self.writes.push(Write { file: file.to_owned(), value, required: false });
    }

    fn note(&mut self, note: &str) {
        self.notes.push(format!("{FIELD}: {note}"));
    }
}

/// A negative limit is none.
fn limit_text(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// The specification's `swap` is memory and swap together; the kernel's is swap alone.
fn swap_alone(memory: &wire::Memory) -> Result<Option<String>, SpecError> {
    let Some(swap) = memory.swap.filter(|swap| *swap != 0) else { return Ok(None) };
    if swap < 0 {
        return Ok(Some("max".to_owned()));
    }
    let refused =
        |rule| SpecError::Value { field: format!("{FIELD}.memory.swap"), value: swap.to_string(), rule };
    match memory.limit {
        Some(limit) if limit > 0 && swap >= limit => Ok(Some((swap - limit).to_string())),
        Some(limit) if limit > 0 => Err(refused("it counts memory and swap, so it is at least memory.limit")),
        _ => Err(refused("a swap limit needs a memory limit")),
    }
}

/// From 2..262144 to 1..10000, linearly, as runc and kubelet do.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// `cpu.max` is "quota period"; a quota alone keeps the period.
fn cpu_max(cpu: &wire::Cpu) -> Option<String> {
    let quota = cpu.quota.filter(|quota| *quota != 0).map(limit_text);
    match (quota, cpu.period.filter(|period| *period != 0)) {
        (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
        (Some(quota), None) => Some(quota),
        (None, Some(period)) => Some(format!("max {period}")),
        (None, None) => None,
    }
}

fn device_rule(rule: &wire::DeviceRule, position: usize) -> Result<DeviceRule, SpecError> {
    let field = |name: &str| format!("{FIELD}.devices[{position}].{name}");
    let number = |value: Option<i64>, name: &str| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| SpecError::Value {
            field: field(name),
            value: value.to_string(),
            rule: "a device number is -1 for any, or 0 to 4294967295",
        }),
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            'm' => ACCESS_MKNOD,
            _ => {
                return Err(SpecError::Value {
                    field: field("access"),
                    value: rule.access.clone(),
                    rule: "it is made of r, w and m",
                });
            }
        };
    }
    let kind = match rule.kind {
        wire::DeviceRuleKind::All => None,
        wire::DeviceRuleKind::Block => Some(DEVICE_BLOCK),
        wire::DeviceRuleKind::Char => Some(DEVICE_CHAR),
    };
    let (major, minor) = match kind {
        // The specification: a rule for all devices is for all numbers.
        None => (None, None),
        Some(_) => (number(rule.major, "major")?, number(rule.minor, "minor")?),
    };
    Ok(DeviceRule { allow: rule.allow, kind, major, minor, access })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(json: &str) -> Vec<(String, String)> {
        let update = ResourceUpdate::parse(json.as_bytes()).unwrap();
        update.writes.into_iter().map(|write| (write.file, write.value)).collect()
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.to_owned(), value.to_owned())
    }

    fn refusal(json: &str) -> String {
        ResourceUpdate::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn swap_is_what_is_left_of_it_beyond_memory() {
        let json = r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#;
        assert_eq!(
            writes(json),
            [pair("memory.swap.max", "50"), pair("memory.max", "100"), pair("memory.low", "50")]
        );
    }

    #[test]
    fn swap_below_memory_is_refused() {
        assert!(refusal(r#"{"memory":{"limit":100,"swap":50}}"#).starts_with("linux.resources.memory.swap"));
    }

    #[test]
    fn a_negative_limit_is_no_limit() {
        assert_eq!(writes(r#"{"memory":{"limit":-1},"pids":{"limit":-1}}"#)[1], pair("pids.max", "max"));
    }

    #[test]
    fn shares_and_quota_become_weight_and_max() {
        assert_eq!(
            writes(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000}}"#),
            [pair("cpu.weight", "39"), pair("cpu.max", "50000 100000")]
        );
    }

    #[test]
    fn the_ends_of_the_share_range_are_the_ends_of_the_weight_range() {
        assert_eq!((weight_of_shares(1), weight_of_shares(u64::MAX)), (1, 10_000));
    }

    #[test]
    fn host_cpu_numbers_leave_a_note_and_no_write() {
        let update = ResourceUpdate::parse(br#"{"cpu":{"cpus":"0-3"}}"#).unwrap();
        assert!(update.writes.is_empty());
        assert_eq!(update.notes.len(), 1);
    }

    #[test]
    fn a_unified_key_cannot_leave_the_cgroup() {
        assert!(refusal(r#"{"unified":{"../cgroup.procs":"1"}}"#).starts_with("linux.resources.unified"));
    }

    #[test]
    fn a_unified_key_cannot_touch_the_core_files() {
        assert!(refusal(r#"{"unified":{"cgroup.procs":"1"}}"#).starts_with("linux.resources.unified"));
    }

    #[test]
    fn a_strange_page_size_is_refused() {
        let json = r#"{"hugepageLimits":[{"pageSize":"2MB/..","limit":1}]}"#;
        assert!(refusal(json).starts_with("linux.resources.hugepageLimits[0].pageSize"));
    }

    #[test]
    fn an_unknown_device_access_is_refused() {
        let json = r#"{"devices":[{"allow":true,"access":"rwx"}]}"#;
        assert!(refusal(json).starts_with("linux.resources.devices[0].access"));
    }

    #[test]
    fn a_limit_of_another_type_is_refused_with_its_path() {
        assert!(refusal(r#"{"memory":{"limit":"1G"}}"#).starts_with("memory.limit: invalid type"));
    }
}
