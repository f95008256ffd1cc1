//! The cache of collateral, filled by hand beside a verifier that serves.

use coffer_attestation::sim::{FIRMWARE, Processor};
use rustix::process::Signal;

use crate::authority::{reconfigure, tend};
use crate::running::Place;
use crate::{KEY, admitted, attest_with, get, guest, is, keep, kind, opened, place, until};

/// Of the processor that these guests have.
const SEED: [u8; 32] = [7; 32];
const DATES: [&str; 2] = ["200101000000Z", "491231235959Z"];

/// Has a list of the processor's root kept. Answers what was said.
fn import(place: &Place, serials: &[u8]) -> String {
    let list = Processor::new(&SEED, FIRMWARE).revocation_list(serials, DATES);
    let file = place.file("list");
    std::fs::write(&file, list).expect("written");
    said(place, &["collateral", "import", &file.display().to_string()])
}

fn said(place: &Place, arguments: &[&str]) -> String {
    String::from_utf8_lossy(&tend(place, arguments).stdout).into_owned()
}

#[test]
fn where_a_list_is_required_guests_get_nothing_until_one_is_imported_and_none_that_it_revokes() {
    let place = place("");
    let table = format!(
        "[collateral]\ndirectory = {:?}\nsnp-revocation-list = \"required\"\n",
        place.file("collateral").display().to_string()
    );
    reconfigure(&place, |text| text + &table);
    let service = place.start();
    keep(&service, &place, "a secret");
    let (_, token) = admitted(&service, &place);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(403, "PolicyDeny"));
    assert!(import(&place, &[]).starts_with("simulated/Turin/crl: "));
    let listed = said(&place, &["collateral", "list"]);
    assert!(listed.ends_with("good until 2049-12-31T23:59:59Z\n"), "{listed}");
    let (guest_key, token) = admitted(&service, &place);
    assert_eq!(opened(&guest_key, get(&service, &place, KEY, Some(&token))), b"a secret");
    import(&place, &[1]);
    service.signal(Signal::HUP);
    until(|| kind(&attest_with(&service, &place, &guest().public())) == is(403, "EvidenceInvalid"));
}
