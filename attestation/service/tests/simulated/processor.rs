//! The simulated processor with a seed that tests know, and the reports that it makes before anybody has changed them.

use std::sync::LazyLock;

use coffer_attestation::sim::{self, Debug, FIRMWARE, Launch, SEED_BYTES};
use coffer_attestation::snp::coco;
use coffer_attestation::x509::Certificate;
use serde_json::Value;

const SEED: [u8; SEED_BYTES] = [7; SEED_BYTES];

/// It signs its certificates once.
static PROCESSOR: LazyLock<sim::Processor> = LazyLock::new(|| sim::Processor::new(&SEED, FIRMWARE));

/// The processor.
pub(crate) struct Processor;

impl Processor {
    /// Its root.
    pub(crate) fn root() -> Certificate {
        PROCESSOR.root().expect("a root")
    }

    /// Signs a report and puts it in the form that guests send.
    pub(crate) fn evidence(report: Vec<u8>) -> Value {
        let vouched = PROCESSOR.vouch(report.try_into().expect("a report's length"));
        let certificates: Vec<(&str, &[u8])> =
            vouched.certificates.iter().map(|(kind, der)| (*kind, der.as_slice())).collect();
        coco::write(&vouched.report, &certificates).expect("a report")
    }
}

/// A report that is affirmed, not yet signed.
pub(crate) fn report(report_data: &[u8; 64], host_data: &[u8]) -> Vec<u8> {
    let host_data = host_data.try_into().expect("32 bytes");
    let launch = Launch { measurement: [0xb1; 48], host_data, debug: Debug::Off, instance: [0xd1; 32] };
    PROCESSOR.unsigned(&launch, report_data).to_vec()
}
