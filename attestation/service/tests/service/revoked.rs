//! Guests that are revoked while they run, and how soon they hear of it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::running::{Place, Service};
use crate::{KEY, admitted, get, is, keep, kind, opened, order, place};

const SANDBOX: &str = "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";

fn revoke(service: &Service, place: &Place, what: &str, name: &str) {
    let body = json!({ "kind": what, "name": name }).to_string();
    let answer = order(service, place, "oscar", "POST /coffer/v1/revocations", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_revoked_sandbox_gets_nothing_from_the_next_request_on_and_the_list_says_so() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (guest, token) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    revoke(&service, &place, "sandbox", SANDBOX);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(403, "Revoked"));
    let listed = order(&service, &place, "audrey", "GET /coffer/v1/revocations", "").body;
    assert_eq!(
        (&listed["revoked"][0]["kind"], &listed["revoked"][0]["name"]),
        (&json!("sandbox"), &json!(SANDBOX))
    );
}

#[test]
fn a_guest_that_waits_hears_of_its_revocation_within_a_second() {
    let place = place("");
    let service = place.start();
    let (_, token) = admitted(&service, &place);
    let good = get(&service, &place, "/coffer/v1/standing", Some(&token));
    assert_eq!((good.status, &good.body["standing"]), (200, &json!("good")));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let answer = get(&service, &place, "/coffer/v1/standing?wait=30", Some(&token));
            (kind(&answer), Instant::now())
        });
        revoke(&service, &place, "measurement", &"b1".repeat(48));
        let revoked = Instant::now();
        let (answer, heard) = waits.join().expect("an answer");
        assert_eq!(answer, is(403, "Revoked"));
        assert!(heard.saturating_duration_since(revoked) < Duration::from_secs(1));
    });
}

#[test]
fn a_guest_without_a_good_token_is_told_to_attest_and_one_that_is_not_known_any_more_that_it_is_not() {
    let place = place("");
    let service = place.start();
    assert_eq!(kind(&get(&service, &place, "/coffer/v1/standing", None)), is(401, "Unauthenticated"));
    let (_, token) = admitted(&service, &place);
    std::fs::write(place.file("references.toml"), "").expect("written");
    let log = service.log();
    service.signal("HUP");
    let waited = get(&service, &place, "/coffer/v1/standing?wait=30", Some(&token));
    assert_eq!(kind(&waited), is(403, "PolicyDeny"), "{}", log.lock().expect("a log"));
    assert_eq!(get(&service, &place, "/coffer/v1/standing?weight=3", Some(&token)).status, 400);
}
