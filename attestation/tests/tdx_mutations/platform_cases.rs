//! Platforms, TDX modules and quoting enclaves that Intel says something else of.

use coffer_attestation::verdict::{Outcome, Verdict};
use serde_json::{Value, json};

use crate::case::{self, Case};
use crate::forge::Forge;
use crate::forge::quote::Quote;
use crate::quote_cases::case;

impl Forge {
    fn level(&mut self) -> &mut Value {
        &mut self.collateral.tcb_info["tcbLevels"][0]
    }

    fn module_level(&mut self) -> &mut Value {
        &mut self.collateral.tcb_info["tdxModuleIdentities"][0]["tcbLevels"][0]
    }

    fn enclave_level(&mut self) -> &mut Value {
        &mut self.collateral.qe_identity["tcbLevels"][0]
    }

    fn require(&mut self, components: &str, index: usize, svn: u8) {
        self.level()["tcb"][components][index]["svn"] = svn.into();
    }

    /// A domain of TDX 1.5 that was started with an old module.
    fn launched_before_an_update(&mut self) {
        self.quote = Quote::new().with_tdx_1_5_body();
        self.quote.field("tee_tcb_svn")[0] = 2;
        self.level()["tcbStatus"] = "OutOfDate".into();
    }
}

pub(crate) static FORGED: &[Case<Forge>] = &[
    case!(
        "a PCK of an older PCE",
        |forge| forge.pki.platform.pce_svn = Some(10),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a PCK of a PCE below all levels",
        |forge| forge.pki.platform.pce_svn = Some(4),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "an older first component",
        |forge| forge.pki.platform.components[0] = 1,
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "an older eighth component",
        |forge| forge.pki.platform.components[7] = 4,
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level with a newer last component",
        |forge| forge.require("sgxtcbcomponents", 15, 1),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level with newer microcode for TDX",
        |forge| forge.require("tdxtcbcomponents", 2, 4),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "older microcode for TDX",
        |forge| forge.quote.field("tee_tcb_svn")[2] = 1,
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level with a newer last part of TDX",
        |forge| forge.require("tdxtcbcomponents", 15, 1),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level that is out of date",
        |forge| forge.level()["tcbStatus"] = "OutOfDate".into(),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level that is out of date and misconfigured",
        |forge| forge.level()["tcbStatus"] = "OutOfDateConfigurationNeeded".into(),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level that is revoked",
        |forge| forge.level()["tcbStatus"] = "Revoked".into(),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level with a word that nobody knows",
        |forge| forge.level()["tcbStatus"] = "Splendid".into(),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a level with a word that Intel uses only for results",
        |forge| forge.level()["tcbStatus"] = "TDRelaunchAdvised".into(),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "an older module",
        |forge| forge.quote.field("tee_tcb_svn")[0] = 3,
        ["tdx-module-tcb", "tcb-status"]
    ),
    case!(
        "a module below all levels",
        |forge| forge.quote.field("tee_tcb_svn")[0] = 1,
        ["tdx-module-tcb", "tcb-status"]
    ),
    case!(
        "a module level that is revoked",
        |forge| forge.module_level()["tcbStatus"] = "Revoked".into(),
        ["tdx-module-tcb", "tcb-status"]
    ),
    case!(
        "a module level that only a platform can have",
        |forge| forge.module_level()["tcbStatus"] = "ConfigurationNeeded".into(),
        ["tdx-module-tcb", "tcb-status"]
    ),
    case!(
        "a module of version 0 that is too old",
        |forge| forge.quote.field("tee_tcb_svn")[..2].copy_from_slice(&[4, 0]),
        ["platform-tcb", "tcb-status"]
    ),
    case!(
        "a module of a version that nobody knows",
        |forge| forge.quote.field("tee_tcb_svn")[1] = 9,
        ["tdx-module", "tdx-module-tcb", "tcb-status"]
    ),
    case!("an older quoting enclave", |forge| forge.quote.enclave[258] = 5, ["qe-tcb", "tcb-status"]),
    case!("a revoked quoting enclave", |forge| forge.quote.enclave[258] = 4, ["qe-tcb", "tcb-status"]),
    case!(
        "a quoting enclave below all levels",
        |forge| forge.quote.enclave[258] = 3,
        ["qe-tcb", "tcb-status"]
    ),
    case!(
        "a quoting enclave's level with an unknown word",
        |forge| forge.enclave_level()["tcbStatus"] = "Splendid".into(),
        ["qe-tcb", "tcb-status"]
    ),
    case!(
        "an old module, and no newer one since",
        |forge| {
            forge.launched_before_an_update();
            forge.quote.field("tee_tcb_svn_2")[0] = 3;
        },
        ["tdx-module-tcb", "platform-tcb", "tcb-status"]
    ),
    case!(
        "an old module, a newer one since, and old microcode",
        |forge| {
            forge.launched_before_an_update();
            forge.quote.field("tee_tcb_svn_2")[2] = 1;
        },
        ["tdx-module-tcb", "platform-tcb", "tcb-status"]
    ),
    case!(
        "an old module, a newer one since, and an old quoting enclave",
        |forge| {
            forge.launched_before_an_update();
            forge.quote.enclave[258] = 5;
        },
        ["qe-tcb", "tdx-module-tcb", "platform-tcb", "tcb-status"]
    ),
];

/// A change after which Intel still advises something, the status that follows, and the checks that warn.
struct Advice {
    change: fn(&mut Forge),
    status: &'static str,
    warns: &'static [&'static str],
}

const ADVICE: &[Advice] = &[
    Advice {
        change: |forge| forge.level()["tcbStatus"] = "SWHardeningNeeded".into(),
        status: "SWHardeningNeeded",
        warns: &["platform-tcb", "tcb-status"],
    },
    Advice {
        change: |forge| forge.level()["tcbStatus"] = "ConfigurationNeeded".into(),
        status: "ConfigurationNeeded",
        warns: &["platform-tcb", "tcb-status"],
    },
    Advice {
        change: |forge| forge.level()["tcbStatus"] = "ConfigurationAndSWHardeningNeeded".into(),
        status: "ConfigurationAndSWHardeningNeeded",
        warns: &["platform-tcb", "tcb-status"],
    },
    // Intel calls the platform of such a domain out of date until the domain is started again.
    Advice {
        change: |forge| {
            forge.launched_before_an_update();
            let mut current = forge.level().clone();
            current["tcb"]["tdxtcbcomponents"][2]["svn"] = json!(4);
            current["tcbStatus"] = "UpToDate".into();
            forge.collateral.tcb_info["tcbLevels"].as_array_mut().expect("levels").push(current);
            forge.level()["tcbStatus"] = "SWHardeningNeeded".into();
            forge.quote.field("tee_tcb_svn_2")[2] = 4;
        },
        status: "TDRelaunchAdvised",
        warns: &["tdx-module-tcb", "platform-tcb", "tcb-status"],
    },
];

/// Advice makes the verdict a warning, and no less.
pub(crate) fn every_advice_warns() {
    for advice in ADVICE {
        let appraisal = case::appraise(advice.change);
        let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
        assert_eq!(
            (appraisal.verdict(), reasons.as_slice()),
            (Verdict::Warning, advice.warns),
            "{}",
            advice.status
        );
        assert_eq!(appraisal.claims()["tcb"]["status"], advice.status);
        assert!(appraisal.reasons().all(|check| check.result == Outcome::Warned));
    }
}
