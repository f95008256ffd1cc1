//! What a quote says, by name. As good as the verdict beside it, and no better.

use serde_json::{Value, json};

use super::body::TdReport;
use super::pck::Platform;
use super::platform_checks::Statements;
use super::platform_status::PlatformStatus;
use super::quote::UnverifiedQuote;
use crate::verdict::Claims;

/// Claims of the quote itself.
pub(super) fn of_quote(claims: &mut Claims, quote: &UnverifiedQuote) {
    put(claims, "tee", "tdx");
    put(claims, "report", of_report(&quote.report));
    let enclave = &quote.enclave;
    let enclave = json!({
        "quote_version": quote.version,
        "user_data": hex::encode(quote.user_data),
        "mr_enclave": hex::encode(enclave.mr_enclave),
        "mr_signer": hex::encode(enclave.mr_signer),
        "isv_prod_id": enclave.isv_prod_id,
        "isv_svn": enclave.isv_svn,
        "cpu_svn": hex::encode(enclave.cpu_svn),
    });
    put(claims, "quoting_enclave", enclave);
}

fn of_report(report: &TdReport) -> Value {
    let service = report.service_td.as_ref();
    json!({
        "report_data": hex::encode(report.report_data),
        "mr_td": hex::encode(report.mr_td),
        "rtmr": report.rtmr.map(hex::encode),
        "mr_config_id": hex::encode(report.mr_config_id),
        "mr_owner": hex::encode(report.mr_owner),
        "mr_owner_config": hex::encode(report.mr_owner_config),
        "mr_service_td": service.map(|service| hex::encode(service.mr_service_td)),
        "mr_seam": hex::encode(report.mr_seam),
        "mr_signer_seam": hex::encode(report.mr_signer_seam),
        "seam_attributes": hex::encode(report.seam_attributes),
        "td_attributes": format!("{:#x}", report.td_attributes.0),
        "td_attribute_names": report.td_attributes.names(),
        "debug": report.td_attributes.debug(),
        "xfam": format!("{:#x}", report.xfam.0),
        "tee_tcb_svn": hex::encode(report.tee_tcb_svn),
        "tee_tcb_svn_2": service.map(|service| hex::encode(service.tee_tcb_svn_2)),
        "tdx_module_version": report.module_version(),
    })
}

/// Claims of a PCK certificate whose chain holds.
pub(super) fn of_platform(claims: &mut Claims, platform: &Platform) {
    let configuration = platform.configuration;
    let claim = json!({
        "ppid": hex::encode(platform.ppid),
        "fmspc": hex::encode(platform.fmspc),
        "pce_id": hex::encode(platform.pce_id),
        "pce_svn": platform.tcb.pce_svn,
        "sgx_components": hex::encode(platform.tcb.components),
        "cpu_svn": hex::encode(platform.tcb.cpu_svn),
        "instance": platform.instance.map(hex::encode),
        "dynamic": configuration.dynamic_platform,
        "cached_keys": configuration.cached_keys,
        "smt": configuration.smt,
    });
    put(claims, "platform", claim);
}

/// Claims of what Intel says.
pub(super) fn of_status(
    claims: &mut Claims,
    statements: &Statements<'_>,
    status: &PlatformStatus<'_>,
    isv_svn: u16,
) {
    let Statements { info, identity } = statements;
    let claim = json!({
        "status": status.whole.word(),
        "platform": status.tdx_level.map(|level| level.tcb_status.word()),
        "platform_date": status.tdx_level.map(|level| level.tcb_date),
        "tdx_module": status.module.word(),
        "tdx_module_date": status.module_level.map(|level| level.tcb_date),
        "quoting_enclave": identity.status(isv_svn).word(),
        "advisories": status.advisories(identity.advisories(isv_svn)),
        "evaluation": info.tcb_evaluation_data_number,
        "quoting_enclave_evaluation": identity.tcb_evaluation_data_number,
        "good_until": info.next_update.min(identity.next_update),
    });
    put(claims, "tcb", claim);
}

pub(super) fn put(claims: &mut Claims, name: &str, value: impl Into<Value>) {
    claims.insert(name.to_owned(), value.into());
}
