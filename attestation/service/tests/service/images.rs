//! Which images ran in a guest, and who signed them: in its token, in the log, and as a condition for secrets.

use coffer_attestation::handshake::{ImageRecord, Images};
use serde_json::{Value, json};

use crate::running::{Answer, Place, SIGNER, Service, signed};
use crate::{KEY, Processor, attest_showing, get, guest, is, keep, kind, known, opened, order, token};

const OURS: &str = "P-256 0a0a";
const THEIRS: &str = "P-384 0b0b";

/// The first guest's secrets of type `key` are for guests whose images are signed by `signer`.
fn place_for(signer: &str) -> Place {
    let rule = format!("tenants = [\"acme\"]\nimages_signed_by = {{ \"acme/key/*\" = [\"{signer}\"] }}");
    Place::new(&known().replacen("tenants = [\"acme\"]", &rule, 1), Processor::root().der(), "")
}

fn images(of: &[(&str, &[&str])]) -> Images {
    of.iter().fold(Images::default(), |all, (image, signers)| {
        let record = ImageRecord {
            image: format!("r.example.com/{image}"),
            digest: format!("sha256:{}", "0a".repeat(32)),
            rule: "/transports/docker/r.example.com/0".to_owned(),
            signers: signers.iter().map(|name| (*name).to_owned()).collect(),
        };
        all.with(record).expect("a record")
    })
}

/// What a guest that shows `additional` is answered when it asks for the secret.
fn asked(service: &Service, place: &Place, additional: &str) -> Answer {
    let attested = attest_showing(service, place, &guest().public(), [additional; 2]);
    get(service, place, KEY, Some(&format!("authorization: Bearer {}", token(&attested))))
}

fn refused(service: &Service, place: &Place, additional: &str) -> String {
    let answer = asked(service, place, additional);
    assert_eq!(kind(&answer), is(403, "PolicyDeny"), "{}", answer.body);
    answer.body["detail"].as_str().expect("a reason").to_owned()
}

#[test]
fn a_secret_is_given_to_a_guest_whose_every_image_has_the_signer_and_to_no_other() {
    let place = place_for(OURS);
    let service = place.start();
    keep(&service, &place, "a secret");
    let good = images(&[("app", &[OURS]), ("side", &[THEIRS, OURS])]).to_json();
    let guest = guest();
    let attested = attest_showing(&service, &place, &guest.public(), [&good, &good]);
    let bearer = format!("authorization: Bearer {}", token(&attested));
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&bearer))), b"a secret");

    let wrong = refused(&service, &place, &images(&[("app", &[THEIRS])]).to_json());
    let words = "every image of the guest must be signed by P-256 0a0a for the reference \"web\", and r.example.com/app (sha256:0a";
    assert!(wrong.starts_with(words) && wrong.ends_with("is signed by P-384 0b0b"), "{wrong}");
    let one_of_two = images(&[("app", &[OURS]), ("strange", &[THEIRS])]).to_json();
    assert!(refused(&service, &place, &one_of_two).contains("r.example.com/strange"));
    let unsigned = images(&[("app", &[OURS]), ("free", &[])]).to_json();
    assert!(refused(&service, &place, &unsigned).ends_with("is signed by nobody"));
    assert!(refused(&service, &place, &Images::default().to_json()).ends_with("has admitted none yet"));
    assert!(refused(&service, &place, "").ends_with("judges no images"));
}

#[test]
fn a_rule_of_a_later_reference_for_the_same_guest_holds_too_also_for_a_token_that_was_there_before() {
    let place = Place::new(&known(), Processor::root().der(), "");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (ours, theirs) = (images(&[("app", &[OURS])]).to_json(), images(&[("app", &[THEIRS])]).to_json());
    let attested = attest_showing(&service, &place, &guest().public(), [&theirs, &theirs]);
    let bearer = format!("authorization: Bearer {}", token(&attested));
    let again = || get(&service, &place, KEY, Some(&bearer));
    assert_eq!(again().status, 200);

    let put = |name: &str, tenant: &str| {
        let rule = format!("tenants = [\"{tenant}\"]\nimages_signed_by = {{ \"*\" = [\"{OURS}\"] }}");
        let known =
            known().replacen("tenants = [\"acme\"]", &rule, 1).replace("\"web\"", &format!("{name:?}"));
        let (first, _) = known.split_once("\n\n").expect("two references");
        let answer = order(&service, &place, "oscar", "PUT /coffer/v1/references", &signed(SIGNER, first));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    put("elsewhere", "umbrella");
    assert_eq!(again().status, 200, "the rule is for another tenant's secrets");
    put("stricter", "acme");
    let answer = again();
    assert_eq!(kind(&answer), is(403, "PolicyDeny"), "{}", answer.body);
    let words = "signed by P-256 0a0a for the reference \"stricter\", and r.example.com/app";
    assert!(answer.body["detail"].as_str().expect("a reason").contains(words), "{}", answer.body);
    assert!(refused(&service, &place, &theirs).contains(words));
    assert_eq!(asked(&service, &place, &ours).status, 200);
    let line = "DELETE /coffer/v1/references/stricter";
    assert_eq!(order(&service, &place, "oscar", line, "").status, 200);
    assert_eq!(again().status, 200);
}

#[test]
fn records_that_were_tampered_with_or_are_none_get_no_token_and_the_reason() {
    let place = place_for(OURS);
    let service = place.start();
    let (good, theirs) = (images(&[("app", &[OURS])]).to_json(), images(&[("app", &[THEIRS])]).to_json());
    let attest = |bound: &str, sent: &str| attest_showing(&service, &place, &guest().public(), [bound, sent]);
    for (bound, sent) in [(&theirs, &good), (&String::new(), &good), (&theirs, &String::new())] {
        let answer = attest(bound, sent);
        assert_eq!(kind(&answer), is(403, "EvidenceInvalid"));
        assert_eq!(answer.body["detail"], "the evidence does not verify: report-data, hardware-verdict");
    }
    let unknown = good.replace("\"rule\"", "\"more\":1,\"rule\"");
    let long = " ".repeat(20_000);
    let cases = [
        (unknown.as_str(), "unknown field `more`"),
        ("{\"nvidia\":{}}", "unknown field `nvidia`"),
        (&long, "at most 16384 are read"),
    ];
    for (sent, words) in cases {
        let answer = attest(sent, sent);
        assert_eq!(kind(&answer), is(400, "Malformed"));
        let detail = answer.body["detail"].as_str().expect("a reason");
        assert!(detail.contains("additional evidence") && detail.contains(words), "{detail}");
    }
    let most = " ".repeat(300_000);
    assert_eq!(kind(&attest(&most, &most)), is(413, "TooLarge"));
}

#[test]
fn records_as_long_as_may_be_fit_into_a_token_and_into_the_log() {
    let place = place_for(OURS);
    let service = place.start();
    keep(&service, &place, "a secret");
    let name = |number: u16| format!("{number:03}-{}", "n".repeat(98));
    let names: Vec<String> = (0..56).map(name).collect();
    let all: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), [OURS].as_slice())).collect();
    let longest = images(&all).to_json();
    assert!(longest.len() > 15 << 10, "{}", longest.len());
    assert_eq!(asked(&service, &place, &longest).status, 200);
    let entries = audit(&service, &place, "event=attest");
    assert_eq!(entries[0]["images"].as_array().map(Vec::len), Some(56));
}

/// What the log says was decided.
fn audit(service: &Service, place: &Place, query: &str) -> Vec<Value> {
    let answer = order(service, place, "alice", &format!("GET /coffer/v1/audit?{query}"), "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let entries = answer.body["entries"].as_array().expect("entries").iter();
    let what = |entry: &Value| {
        let entry: Value = serde_json::from_str(entry["entry"].as_str().expect("text")).expect("JSON");
        entry["what"].clone()
    };
    entries.map(what).collect()
}

#[test]
fn token_policies_and_log_have_the_images_and_their_signers() {
    let place = place_for(OURS);
    let service = place.start();
    keep(&service, &place, "a secret");
    let shown = images(&[("app", &[OURS])]);
    let attested = attest_showing(&service, &place, &guest().public(), [&shown.to_json(), &shown.to_json()]);
    let claims = token(&attested).split('.').nth(1).expect("claims").to_owned();
    let claims = <base64ct::Base64UrlUnpadded as base64ct::Encoding>::decode_vec(&claims).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["coffer"]["images"], json!(shown));
    assert_eq!(evidence["runtime_data_claims"]["additional-evidence"], json!(shown.to_json()));

    let policy = "package coffer.release\nallow if { every image in input.guest.images { \"SIGNER\" in image.signers } }";
    let put = |signer: &str| {
        let text = policy.replace("SIGNER", signer);
        let line = "PUT /coffer/v1/policies/release/acme";
        assert_eq!(order(&service, &place, "alice", line, &text).status, 200);
    };
    put(THEIRS);
    let refused = asked(&service, &place, &shown.to_json());
    assert_eq!(refused.body["detail"], "the release policy says no");
    put(OURS);
    assert_eq!(asked(&service, &place, &shown.to_json()).status, 200);

    let entries = audit(&service, &place, "event=attest");
    assert!(entries.len() == 3 && entries.iter().all(|entry| entry["images"] == json!(shown)));
    refused_for_a_stranger_is_in_the_log(&service, &place);
}

fn refused_for_a_stranger_is_in_the_log(service: &Service, place: &Place) {
    assert_eq!(asked(service, place, &images(&[("app", &[THEIRS])]).to_json()).status, 403);
    let entries = audit(service, place, "event=release&outcome=refused");
    let last = entries.last().expect("an entry");
    assert!(last["detail"].as_str().expect("a reason").contains("is signed by P-384 0b0b"));
}
