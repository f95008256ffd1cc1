//! What a report says, as JSON for policies and people. Bytes are lower-case hexadecimal.

use serde_json::{Value, json};

use super::endorsement::Endorsement;
use super::report::{SigningKey, UnverifiedReport};
use super::roots::Root;
use super::tcb::{FirmwareVersion, Tcb};
use crate::verdict::{Claims, printable};

/// Everything that was read. `root` is none where the chain does not end in a trusted root.
pub(crate) fn claims(
    report: Option<&UnverifiedReport>,
    endorsement: Option<&Endorsement>,
    root: Option<Root>,
) -> Claims {
    let mut claims = Claims::new();
    claims.insert("tee".to_owned(), json!("snp"));
    claims.insert("simulated".to_owned(), json!(root == Some(Root::Simulated)));
    if let Some(endorsement) = endorsement {
        claims.insert("signing_key".to_owned(), key(endorsement));
    }
    if let Some(report) = report {
        claims.insert("report".to_owned(), of_report(report));
        claims.insert("policy".to_owned(), of_policy(report));
        claims.insert("platform".to_owned(), of_platform(report));
        claims.insert("tcb".to_owned(), of_tcb(report));
    }
    claims
}

fn key(endorsement: &Endorsement) -> Value {
    json!({
        "kind": kind(endorsement.kind),
        "product": endorsement.product,
        "generation": endorsement.generation.to_string(),
        "tcb": tcb(&endorsement.tcb),
        "hardware_id": endorsement.hardware_id.as_ref().map(hex::encode),
        "cloud_provider": endorsement.cloud_provider.as_deref().map(printable),
    })
}

fn kind(key: SigningKey) -> &'static str {
    match key {
        SigningKey::Vcek => "vcek",
        SigningKey::Vlek => "vlek",
    }
}

fn of_report(report: &UnverifiedReport) -> Value {
    json!({
        "version": report.version,
        "guest_svn": report.guest_svn,
        "vmpl": report.vmpl,
        "signing_key": kind(report.signing_key),
        "family_id": hex::encode(report.family_id),
        "image_id": hex::encode(report.image_id),
        "report_data": hex::encode(report.report_data),
        "measurement": hex::encode(report.measurement),
        "host_data": hex::encode(report.host_data),
        "id_key_digest": hex::encode(report.id_key_digest),
        "author_key_enabled": report.author_key_enabled,
        "author_key_digest": hex::encode(report.author_key_digest),
        "report_id": hex::encode(report.report_id),
        "report_id_ma": hex::encode(report.report_id_ma),
        "chip_id": hex::encode(report.chip_id),
        "chip_id_masked": report.chip_id.iter().all(|byte| *byte == 0),
        "chip_key_masked": report.chip_key_masked,
    })
}

fn of_policy(report: &UnverifiedReport) -> Value {
    let policy = report.policy;
    json!({
        "raw": format!("{:#x}", policy.0),
        "abi_major": policy.abi_major(),
        "abi_minor": policy.abi_minor(),
        "debug_allowed": policy.debug_allowed(),
        "migration_agent_allowed": policy.migration_agent_allowed(),
        "smt_allowed": policy.smt_allowed(),
        "single_socket_required": policy.single_socket_required(),
        "cxl_allowed": policy.cxl_allowed(),
        "aes_256_xts_required": policy.aes_256_xts_required(),
        "rapl_must_be_off": policy.rapl_must_be_off(),
        "ciphertext_hiding_required": policy.ciphertext_hiding_required(),
        "page_swap_disabled": policy.page_swap_disabled(),
    })
}

fn of_platform(report: &UnverifiedReport) -> Value {
    let platform = report.platform_info;
    json!({
        "raw": format!("{:#x}", platform.0),
        "cpuid": report.cpuid.map(|[family, model, stepping]| json!({ "family": family, "model": model, "stepping": stepping })),
        "generation": report.generation.map(|generation| generation.to_string()),
        "smt": platform.smt(),
        "tsme": platform.tsme(),
        "ecc": platform.ecc(),
        "rapl_off": platform.rapl_off(),
        "ciphertext_hiding": platform.ciphertext_hiding(),
        "alias_check_complete": platform.alias_check_complete(),
        "trusted_io": platform.trusted_io(),
        "current_version": version(report.current_version),
        "committed_version": version(report.committed_version),
        "launch_mitigations": report.launch_mitigations,
        "current_mitigations": report.current_mitigations,
    })
}

fn of_tcb(report: &UnverifiedReport) -> Value {
    json!({
        "reported": tcb(&report.reported_tcb),
        "committed": tcb(&report.committed_tcb),
        "current": tcb(&report.current_tcb),
        "launch": tcb(&report.launch_tcb),
    })
}

fn tcb(tcb: &Tcb) -> Value {
    json!({
        "fmc": tcb.fmc,
        "boot_loader": tcb.boot_loader,
        "tee": tcb.tee,
        "snp": tcb.snp,
        "microcode": tcb.microcode,
    })
}

fn version(version: FirmwareVersion) -> String {
    version.to_string()
}
