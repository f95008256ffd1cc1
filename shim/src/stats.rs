//! A container's counters in the form that containerd and kubelet read: `io.containerd.cgroups.v2.Metrics`.

use std::collections::HashMap;

use coffer_protocol::agent::Stats;
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

/// Type under which containerd decodes the counters.
const METRICS_TYPE: &str = "io.containerd.cgroups.v2.Metrics";

/// Encodes the agent's counters.
pub(crate) fn metrics(stats: Stats) -> Result<Any, protobuf::Error> {
    let metrics = Metrics {
        pids: pids(&stats),
        cpu: cpu(&stats),
        memory: memory(&stats),
        memory_events: memory_events(&stats),
        io: io(&stats),
        ..Default::default()
    };
    Ok(Any { type_url: METRICS_TYPE.to_owned(), value: metrics.write_to_bytes()?, ..Default::default() })
}

fn pids(stats: &Stats) -> MessageField<PidsStat> {
    MessageField::some(PidsStat {
        current: stats.pids.current,
        limit: stats.pids.limit,
        ..Default::default()
    })
}

fn cpu(stats: &Stats) -> MessageField<CPUStat> {
    MessageField::some(CPUStat {
        usage_usec: stats.cpu.usage_usec,
        user_usec: stats.cpu.user_usec,
        system_usec: stats.cpu.system_usec,
        nr_periods: stats.cpu.nr_periods,
        nr_throttled: stats.cpu.nr_throttled,
        throttled_usec: stats.cpu.throttled_usec,
        ..Default::default()
    })
}

fn memory(stats: &Stats) -> MessageField<MemoryStat> {
    let memory = &stats.memory;
    let key = |name: &str| counter(&memory.stat, name);
    MessageField::some(MemoryStat {
        anon: key("anon"),
        file: key("file"),
        kernel_stack: key("kernel_stack"),
        slab: key("slab"),
        sock: key("sock"),
        shmem: key("shmem"),
        file_mapped: key("file_mapped"),
        file_dirty: key("file_dirty"),
        file_writeback: key("file_writeback"),
        anon_thp: key("anon_thp"),
        inactive_anon: key("inactive_anon"),
        active_anon: key("active_anon"),
        inactive_file: key("inactive_file"),
        active_file: key("active_file"),
        unevictable: key("unevictable"),
        slab_reclaimable: key("slab_reclaimable"),
        slab_unreclaimable: key("slab_unreclaimable"),
        pgfault: key("pgfault"),
        pgmajfault: key("pgmajfault"),
        workingset_refault: key("workingset_refault_anon").saturating_add(key("workingset_refault_file")),
        workingset_activate: key("workingset_activate_anon").saturating_add(key("workingset_activate_file")),
        workingset_nodereclaim: key("workingset_nodereclaim"),
        pgrefill: key("pgrefill"),
        pgscan: key("pgscan"),
        pgsteal: key("pgsteal"),
        pgactivate: key("pgactivate"),
        pgdeactivate: key("pgdeactivate"),
        pglazyfree: key("pglazyfree"),
        pglazyfreed: key("pglazyfreed"),
        thp_fault_alloc: key("thp_fault_alloc"),
        thp_collapse_alloc: key("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.usage_limit,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit,
        max_usage: memory.max_usage,
        ..Default::default()
    })
}

fn counter(stat: &HashMap<String, u64>, name: &str) -> u64 {
    stat.get(name).copied().unwrap_or_default()
}

fn memory_events(stats: &Stats) -> MessageField<MemoryEvents> {
    let events = &stats.memory_events;
    MessageField::some(MemoryEvents {
        low: events.low,
        high: events.high,
        max: events.max,
        oom: events.oom,
        oom_kill: events.oom_kill,
        ..Default::default()
    })
}

fn io(stats: &Stats) -> MessageField<IOStat> {
    let usage = stats.io.iter().map(|entry| IOEntry {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
        ..Default::default()
    });
    MessageField::some(IOStat { usage: usage.collect(), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_protocol::agent;

    #[test]
    fn an_out_of_memory_kill_is_told_where_containerd_looks_for_it() {
        let events = agent::MemoryEvents { oom_kill: 2, ..Default::default() };
        let any = metrics(Stats { memory_events: Some(events).into(), ..Default::default() }).unwrap();
        let decoded = Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((any.type_url.as_str(), decoded.memory_events.oom_kill), (METRICS_TYPE, 2));
    }

    #[test]
    fn the_working_set_can_be_computed() {
        let memory = agent::MemoryStat {
            usage: 10,
            stat: HashMap::from([("inactive_file".to_owned(), 4)]),
            ..Default::default()
        };
        let any = metrics(Stats { memory: Some(memory).into(), ..Default::default() }).unwrap();
        let decoded = Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(decoded.memory.usage - decoded.memory.inactive_file, 6);
    }

    #[test]
    fn counters_that_nobody_can_tell_are_zero() {
        let decoded = Metrics::parse_from_bytes(&metrics(Stats::new()).unwrap().value).unwrap();
        assert_eq!(decoded.cpu.usage_usec, 0);
    }
}
