//! Guests that are revoked while they run, and how soon they hear of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::running::{Conversation, Place, SIGNER, Service, signed};
use crate::{KEY, admitted, get, is, keep, kind, opened, order, place, until};

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
fn guests_that_wait_have_a_share_and_one_more_is_told_to_come_back_but_never_kept_from_its_revocation() {
    let place = place("client-waiting-guests = 1");
    let service = place.start();
    let (_, token) = admitted(&service, &place);
    let ask = |path: &str| get(&service, &place, path, Some(&token));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let mut heard = None;
            // The other one may have the turn when this one asks.
            until(|| {
                heard = Some(ask("/coffer/v1/standing?wait=60")).filter(|answer| answer.status != 429);
                heard.is_some()
            });
            kind(&heard.expect("an answer"))
        });
        let mut refused = None;
        until(|| {
            let answer = ask("/coffer/v1/standing?wait=1");
            refused = Some(answer).filter(|answer| answer.status == 429);
            refused.is_some()
        });
        assert!(refused.expect("refused").headers.contains("retry-after: 1"));
        assert_eq!(ask("/coffer/v1/standing").status, 200, "who does not wait takes no turn");
        revoke(&service, &place, "sandbox", SANDBOX);
        assert_eq!(kind(&ask("/coffer/v1/standing?wait=1")), is(403, "Revoked"));
        assert_eq!(waits.join().expect("an answer"), is(403, "Revoked"));
    });
}

#[test]
fn a_guest_that_waits_on_the_last_connection_is_answered_so_that_somebody_else_has_it() {
    let place = place("connections = 1");
    let service = place.start();
    let (_, token) = admitted(&service, &place);
    let request = format!("GET /coffer/v1/standing?wait=60 HTTP/1.1\r\nhost: localhost\r\n{token}\r\n\r\n");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            // Whoever has not asked yet is let go without an answer.
            let mut heard = None;
            until(|| {
                let tls = service.tls(&place.client(None)).ok();
                heard = tls.and_then(|tls| Conversation::new(tls).ask(request.as_bytes()).ok());
                heard.is_some()
            });
            ended.store(true, Ordering::Release);
            heard.expect("an answer")
        });
        until(|| {
            let _ = service.tls(&place.client(None));
            ended.load(Ordering::Acquire)
        });
        let heard = waits.join().expect("an answer");
        assert_eq!(heard.status, 200);
        assert!(heard.head.iter().any(|line| line == "connection: close"), "{:?}", heard.head);
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
    service.signal(Signal::HUP);
    let waited = get(&service, &place, "/coffer/v1/standing?wait=30", Some(&token));
    assert_eq!(kind(&waited), is(403, "PolicyDeny"), "{}", log.lock().expect("a log"));
    assert_eq!(get(&service, &place, "/coffer/v1/standing?weight=3", Some(&token)).status, 400);
}

#[test]
fn a_token_holds_for_the_reference_that_it_was_made_by_and_not_for_another_of_that_name() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (_, token) = admitted(&service, &place);
    // The same guest, by the same name and measurement; another firmware is asked for.
    let newer = crate::known().replace("microcode = 71", "microcode = 70");
    assert_ne!(newer, crate::known());
    std::fs::write(place.file("references.toml"), signed(SIGNER, &newer)).expect("written");
    service.signal(Signal::HUP);
    let waited = get(&service, &place, "/coffer/v1/standing?wait=30", Some(&token));
    assert_eq!(kind(&waited), is(401, "Unauthenticated"));
    assert!(waited.body["detail"].to_string().contains("web"), "{}", waited.body);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(401, "Unauthenticated"));
    let (guest, again) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&again))), b"a secret");
}
