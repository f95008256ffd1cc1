#![allow(unsafe_code)] // libFuzzer calls an exported function, which the macro below makes.
//! What is fuzzed: one program, and `COFFER_FUZZ_TARGET` names which of [`TARGETS`] its inputs go to. Run it with `cargo fuzz`,
//! which builds it so that libFuzzer sees where each input leads.
#![no_main]

mod boot;
mod devices;
mod evidence;
mod images;
mod layers;
mod measured;
mod tap;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// Takes an input; whatever it panics on, or never returns from, is a fault.
type Target = fn(&[u8]);

/// Every target, by the name that `tests/src/bin/coffer-fuzz.rs` knows it by.
const TARGETS: &[(&str, Target)] = &[
    ("vmm_kernel", boot::kernel),
    ("vmm_control", boot::control),
    ("vmm_vsock_packet", devices::vsock_packet),
    ("vmm_block", devices::block),
    ("vmm_scsi", devices::scsi),
    ("vmm_vsock", devices::vsock),
    ("vmm_random", devices::random),
    ("vmm_balloon", devices::balloon),
    ("vmm_net", devices::net),
    ("snp_report", evidence::snp_report),
    ("snp_evidence", evidence::snp_evidence),
    ("tdx_quote", evidence::tdx_quote),
    ("tdx_evidence", evidence::tdx_evidence),
    ("tdx_collateral", evidence::tdx_collateral),
    ("tdx_event_log", evidence::tdx_event_log),
    ("azure_evidence", evidence::azure_evidence),
    ("certificate", evidence::certificate),
    ("revocation_list", evidence::revocation_list),
    ("kbs_bodies", evidence::kbs_bodies),
    ("initdata", evidence::initdata),
    ("token", evidence::token),
    ("image_manifest", images::manifest),
    ("image_reference", images::reference),
    ("image_policy", images::policy),
    ("image_bundle", images::bundle),
    ("image_payload", images::payload),
    ("layer", layers::layer),
    ("layer_erofs", layers::erofs),
    ("layer_sealed", layers::sealed),
    ("layer_encrypted", layers::encrypted),
    ("image_envelope", images::envelope),
    ("image_openpgp", images::message),
    ("image_keyring", images::keyring),
    ("tdx_firmware", measured::firmware),
    ("tdx_kernel", measured::kernel),
];

fn target() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("COFFER_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        let Some((_, target)) = found else {
            eprintln!("COFFER_FUZZ_TARGET is {wanted:?}, which is none of {}", names.join(", "));
            std::process::exit(2);
        };
        *target
    })
}

fuzz_target!(|input: &[u8]| target()(input));
