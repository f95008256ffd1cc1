//! One changed piece of evidence, what must be said of it, and how the two are held against each other.

use std::collections::BTreeSet;

use coffer_attestation::snp::{Evidence, Expectations, TrustedRoots, UnverifiedReport, appraise};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Verdict};
use coffer_attestation::x509::Certificate;

/// When the evidence is looked at, unless a case says otherwise.
pub(crate) const NOW: &str = "2026-11-21T12:00:00Z";

/// What must become of a case.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// Exactly these checks are why the verdict is not affirming.
    Reasons(Verdict, BTreeSet<String>),
    /// A certificate that is not even read, with these words.
    Unread(&'static str),
}

/// One change.
pub(crate) struct Case {
    /// What was changed, and in what.
    pub(crate) name: String,
    /// What came of it: an appraisal, or why a certificate could not be read.
    pub(crate) seen: Result<Appraisal, String>,
    /// What must come of it.
    pub(crate) expected: Expected,
}

/// Real evidence that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    pub(crate) report: &'static [u8],
    pub(crate) vek: &'static [u8],
    pub(crate) authorities: &'static [u8],
    /// What is to be said of it unchanged.
    pub(crate) baseline: &'static [&'static str],
}

const MILAN_CA: &[u8] = include_bytes!("../../testdata/snp/ca/milan_ask_ark_asvk.pem");
const GENOA_CA: &[u8] = include_bytes!("../../testdata/snp/ca/genoa_ask_ark_asvk.pem");
const TURIN_CA: &[u8] = include_bytes!("../../testdata/snp/ca/turin_ask_ark_asvk.pem");

/// Every real report, each with its own chip's certificate.
pub(crate) const VECTORS: [Vector; 4] = [
    Vector {
        name: "milan-v2",
        report: include_bytes!("../../testdata/snp/milan-v2-trustee/report.bin"),
        vek: include_bytes!("../../testdata/snp/milan-v2-trustee/vcek.der"),
        authorities: MILAN_CA,
        baseline: &["provisional-firmware", "memory-aliases"],
    },
    Vector {
        name: "milan-v3",
        report: include_bytes!("../../testdata/snp/milan-v3-oak/report.bin"),
        vek: include_bytes!("../../testdata/snp/milan-v3-oak/vcek.der"),
        authorities: MILAN_CA,
        baseline: &[],
    },
    Vector {
        name: "genoa-v3",
        report: include_bytes!("../../testdata/snp/genoa-v3-trustee/report.bin"),
        vek: include_bytes!("../../testdata/snp/genoa-v3-trustee/vcek.der"),
        authorities: GENOA_CA,
        baseline: &[],
    },
    Vector {
        name: "turin-v5",
        report: include_bytes!("../../testdata/snp/turin-v5-oak/report.bin"),
        vek: include_bytes!("../../testdata/snp/turin-v5-oak/vcek.der"),
        authorities: TURIN_CA,
        baseline: &[],
    },
];

impl Vector {
    /// The evidence, unchanged.
    pub(crate) fn evidence(&self) -> Evidence {
        let vek = Certificate::from_der(self.vek).expect("a VCEK");
        Evidence { report: self.report.to_vec(), vek, authorities: Vec::new(), revocation: Vec::new() }
    }

    /// ASK, ARK and ASVK.
    pub(crate) fn authorities(&self) -> [Certificate; 3] {
        let all = Certificate::from_file(self.authorities).expect("authorities");
        all.try_into().expect("three of them")
    }

    /// What the unchanged report says, expected of the changed one.
    pub(crate) fn expectations(&self) -> Expectations {
        expectations(self.report)
    }

    /// The reasons of the unchanged evidence and these.
    pub(crate) fn reasons(&self, more: &[&'static str]) -> Expected {
        let unread = more.contains(&"report-format");
        let baseline = if unread { &[] } else { self.baseline };
        invalid(&[baseline, more].concat())
    }
}

/// Everything that `report` says and that can be expected.
pub(crate) fn expectations(report: &[u8]) -> Expectations {
    let report = UnverifiedReport::parse(report).expect("a report");
    Expectations {
        report_data: Some(report.report_data),
        measurement: Some(report.measurement),
        host_data: Some(report.host_data),
        id_key_digest: Some(report.id_key_digest),
        author_key_digest: Some(report.author_key_digest),
        minimum_tcb: Some(report.reported_tcb),
        vmpl: Some(report.vmpl),
        minimum_guest_svn: Some(report.guest_svn),
        family_id: Some(report.family_id),
        image_id: Some(report.image_id),
        cloud_provider: None,
        revocation_list: false,
    }
}

/// Invalid for exactly these reasons.
pub(crate) fn invalid(reasons: &[&'static str]) -> Expected {
    Expected::Reasons(Verdict::Invalid, reasons.iter().map(|reason| (*reason).to_owned()).collect())
}

/// A time.
pub(crate) fn time(text: &str) -> UnixTime {
    text.parse().expect("a time")
}

/// Judges against AMD's roots.
pub(crate) fn judge(evidence: &Evidence, expected: &Expectations, at: &str) -> Result<Appraisal, String> {
    Ok(appraise(evidence, expected, &TrustedRoots::amd(), time(at)))
}

/// What a failed expectation looks like: the case's name, what was expected and what was seen; `None` if all is well.
pub(crate) fn complaint(case: &Case) -> Option<String> {
    let seen = match &case.seen {
        Ok(appraisal) => Expected::Reasons(
            appraisal.verdict(),
            appraisal.reasons().map(|check| check.name.to_owned()).collect(),
        ),
        Err(reason) => match &case.expected {
            Expected::Unread(words) if reason.contains(words) => return None,
            _ => return Some(format!("{}: expected {:?}, not read: {reason}", case.name, case.expected)),
        },
    };
    match (&seen, &case.expected) {
        (Expected::Reasons(verdict, reasons), Expected::Reasons(wanted, expected))
            if verdict == wanted && reasons == expected =>
        {
            None
        }
        _ => Some(format!("{}: expected {:?}, seen {seen:?}", case.name, case.expected)),
    }
}
