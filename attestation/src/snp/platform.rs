//! What a report says about the platform and the guest's policy, held against itself and against the ABI.
//!
//! Bits that a policy forbids and a platform has anyway cannot come from AMD's firmware, so they make a report invalid.
//! What the firmware allows but weakens the guest makes it contraindicated or a warning.

use super::report::UnverifiedReport;
use super::tcb::FirmwareVersion;
use crate::verdict::{Checks, Outcome};

/// Records every check that needs the report alone.
pub(crate) fn check(report: &UnverifiedReport, checks: &mut Checks) {
    check_reserved(report, checks);
    check_policy(report, checks);
    check_firmware(report, checks);
    check_keys(report, checks);
    check_memory(report, checks);
}

fn check_reserved(report: &UnverifiedReport, checks: &mut Checks) {
    let found = match report.reserved_in_use {
        None => "zero".to_owned(),
        Some(offset) => format!("something at {offset:#x}"),
    };
    checks.require("reserved-fields", report.reserved_in_use.is_none(), "zero", found);
    let policy = report.policy;
    let sound = policy.must_be_one() && policy.0 & super::flags::Policy::RESERVED == 0;
    checks.require("policy-bits", sound, "bit 17 one, bits above 25 zero", format!("{:#x}", policy.0));
}

fn check_policy(report: &UnverifiedReport, checks: &mut Checks) {
    let (policy, platform) = (report.policy, report.platform_info);
    let outcome = |bad: bool, worst: Outcome| if bad { worst } else { Outcome::Passed };
    let allowed = |allowed: bool| if allowed { "allowed" } else { "forbidden" };
    let debug = policy.debug_allowed();
    checks.record("debug", outcome(debug, Outcome::Contraindicated), "forbidden", allowed(debug));
    let moves = policy.migration_agent_allowed();
    checks.record("migration-agent", outcome(moves, Outcome::Warned), "forbidden", allowed(moves));
    let has_agent = report.report_id_ma.iter().any(|byte| *byte != 0xff);
    let agent = if has_agent { hex::encode(report.report_id_ma) } else { "none".to_owned() };
    let expected = if moves { "any, the policy allows one" } else { "none, the policy forbids one" };
    checks.require("migration-agent-id", moves || !has_agent, expected, agent);

    let on = |on: bool| if on { "on" } else { "off" };
    let either = |demanded: bool, what: &'static str| if demanded { what } else { "on or off" };
    let smt = either(!policy.smt_allowed(), "off");
    checks.require("smt", policy.smt_allowed() || !platform.smt(), smt, on(platform.smt()));
    let rapl = either(policy.rapl_must_be_off(), "off");
    checks.require("rapl", !policy.rapl_must_be_off() || platform.rapl_off(), rapl, on(!platform.rapl_off()));
    let hiding = (policy.ciphertext_hiding_required(), platform.ciphertext_hiding());
    checks.require("ciphertext-hiding", !hiding.0 || hiding.1, either(hiding.0, "on"), on(hiding.1));
}

fn check_firmware(report: &UnverifiedReport, checks: &mut Checks) {
    let UnverifiedReport { current_tcb: current, committed_tcb: committed, .. } = report;
    let (reported, launch) = (&report.reported_tcb, &report.launch_tcb);
    let lowest = (report.policy.abi_major(), report.policy.abi_minor());
    let FirmwareVersion { major, minor, .. } = report.current_version;
    let least = format!("at least {}.{}", lowest.0, lowest.1);
    checks.require("abi-version", (major, minor) >= lowest, least, report.current_version);

    let known = current.is_at_least(committed) && report.current_version >= report.committed_version;
    let found = format!("committed {} {committed}", report.committed_version);
    checks.require("committed-tcb", known, format!("at most {} {current}", report.current_version), found);
    checks.require("reported-tcb", current.is_at_least(reported), format!("at most {current}"), reported);

    let settled = current == committed && report.current_version == report.committed_version;
    let settled = settled && committed.is_at_least(reported);
    let outcome = if settled { Outcome::Passed } else { Outcome::Warned };
    let found = format!("{} {current}", report.current_version);
    let expected = format!("what is committed: {} {committed}", report.committed_version);
    checks.record("provisional-firmware", outcome, expected, found);

    let between = launch.is_at_least(reported) && current.is_at_least(launch);
    let outcome = if between { Outcome::Passed } else { Outcome::Warned };
    checks.record("launch-tcb", outcome, format!("from {reported} to {current}"), launch);
}

fn check_keys(report: &UnverifiedReport, checks: &mut Checks) {
    let masked = report.chip_key_masked && report.signing_key == super::report::SigningKey::Vcek;
    let found = if report.chip_key_masked { "masked" } else { "not masked" };
    checks.require("chip-key", !masked, "not masked where a VCEK signed", found);

    let given = |digest: &[u8]| digest.iter().any(|byte| *byte != 0);
    let (id, author) = (given(&report.id_key_digest), given(&report.author_key_digest));
    let sound = if report.author_key_enabled { id && author } else { !author };
    let expected = match report.author_key_enabled {
        true => "digests of an id key and of an author key",
        false => "no author key",
    };
    let text = |given: bool| if given { "given" } else { "none" };
    let found = format!("id key {}, author key {}", text(id), text(author));
    checks.require("author-key", sound, expected, found);
}

fn check_memory(report: &UnverifiedReport, checks: &mut Checks) {
    let expected = "checked for aliases by the firmware";
    let complete = report.version >= 3 && report.platform_info.alias_check_complete();
    let (outcome, found) = match (complete, report.version) {
        (true, _) => (Outcome::Passed, expected),
        (false, ..3) => (Outcome::Warned, "version 2 reports do not say"),
        (false, _) => (Outcome::Warned, "not checked for aliases"),
    };
    checks.record("memory-aliases", outcome, expected, found);
}
