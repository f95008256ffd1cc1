//! Two services beside each other, with one PostgreSQL.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PASSWORD};
use crate::hsm;
use crate::running::{Answer, Place, Service};
use crate::{KEY, admitted, answer_to, get, guest, is, keep, kind, opened, order, place, post, token, until};

const SECRET: &str = "correct horse battery staple";
const DENY: &str = "package coffer.release\nallow := false";

/// The same configuration and keys, but for the files of each.
fn replica(cluster: &Cluster) -> Place {
    place("").with_tables(&cluster.table())
}

fn revoke(service: &Service, place: &Place, name: &str) -> Answer {
    let body = json!({ "kind": "measurement", "name": name }).to_string();
    order(service, place, "oscar", "POST /coffer/v1/revocations", &body)
}

fn nonce(service: &Service, place: &Place) -> String {
    let asked = json!({"version": "0.4.0", "tee": "snp", "extra-params": ""});
    let challenge = post(service, place, "/kbs/v0/auth", &asked);
    challenge.body["nonce"].as_str().expect("a nonce").to_owned()
}

fn attest(service: &Service, place: &Place, answer: &Value) -> Answer {
    post(service, place, "/kbs/v0/attest", answer)
}

fn says_database(answer: &Answer) -> bool {
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    kind(answer) == is(503, "Unavailable") && detail.contains("database")
}

#[test]
fn what_is_told_to_one_replica_is_so_at_the_other() {
    let Some(cluster) = Cluster::start("what_is_told_to_one_replica_is_so_at_the_other") else { return };
    let places = [replica(&cluster), replica(&cluster)];
    let [one, other] = places.each_ref().map(Place::start);
    let [here, there] = &places;
    keep(&one, here, SECRET);
    // A token of one opens at the other, and either tells the same keys.
    let (guest, header) = admitted(&one, here);
    assert_eq!(opened(&guest, get(&other, there, KEY, Some(&header))), SECRET.as_bytes());
    let keys =
        [get(&one, here, "/.well-known/jwks.json", None), get(&other, there, "/.well-known/jwks.json", None)];
    assert_eq!(keys[0].body, keys[1].body);
    // So do versions, one after another whoever keeps them.
    let put = |service: &Service, place: &Place| {
        (0..8)
            .map(|_| order(service, place, "alice", &format!("POST {KEY}"), SECRET).body["version"].as_u64())
            .collect()
    };
    let (mut versions, more): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let more = scope.spawn(|| put(&other, there));
        (put(&one, here), more.join().expect("versions"))
    });
    versions.extend(more);
    versions.sort_unstable();
    assert_eq!(versions, (2..=17).map(Some).collect::<Vec<_>>());
    // A policy decides at the other from the next request on.
    let put = order(&one, here, "alice", "PUT /coffer/v1/policies/release/acme", DENY);
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(kind(&get(&other, there, KEY, Some(&header))), is(403, "PolicyDeny"));
    assert_eq!(order(&other, there, "alice", "DELETE /coffer/v1/policies/release/acme", "").status, 200);
    assert_eq!(opened(&guest, get(&one, here, KEY, Some(&header))), SECRET.as_bytes());
    for hidden in [SECRET, "package coffer"] {
        assert!(!cluster.holds(hidden), "{hidden:?} is in the cluster's files");
    }
    assert!(cluster.holds("acme/key/1"), "names are, so the search finds what is there");
}

#[test]
fn a_challenge_that_one_replica_took_is_refused_by_the_other() {
    let Some(cluster) = Cluster::start("a_challenge_that_one_replica_took_is_refused_by_the_other") else {
        return;
    };
    let places = [replica(&cluster), replica(&cluster)];
    let [one, other] = places.each_ref().map(Place::start);
    let [here, there] = &places;
    let answer = answer_to(&nonce(&one, here), &guest().public());
    token(&attest(&other, there, &answer));
    assert_eq!(kind(&attest(&one, here, &answer)), is(409, "ChallengeReplayed"));
    assert_eq!(kind(&attest(&other, there, &answer)), is(409, "ChallengeReplayed"));
    // Whoever sends it to both at once is admitted once.
    let answer = answer_to(&nonce(&other, there), &guest().public());
    let statuses = std::thread::scope(|scope| {
        let first = scope.spawn(|| attest(&one, here, &answer).status);
        [attest(&other, there, &answer).status, first.join().expect("an answer")]
    });
    assert!(statuses == [200, 409] || statuses == [409, 200], "{statuses:?}");
}

#[test]
fn a_guest_that_waits_at_one_replica_hears_within_a_second_what_was_revoked_at_the_other() {
    let name = "a_guest_that_waits_at_one_replica_hears_within_a_second_what_was_revoked_at_the_other";
    let Some(cluster) = Cluster::start(name) else { return };
    let places = [replica(&cluster), replica(&cluster)];
    let [one, other] = places.each_ref().map(Place::start);
    let [here, there] = &places;
    keep(&one, here, SECRET);
    let (_, header) = admitted(&one, here);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let answer = get(&other, there, "/coffer/v1/standing?wait=30", Some(&header));
            (kind(&answer), Instant::now())
        });
        assert_eq!(revoke(&one, here, &"b1".repeat(48)).status, 200);
        let revoked = Instant::now();
        assert_eq!(kind(&get(&other, there, KEY, Some(&header))), is(403, "Revoked"));
        let (answer, heard) = waits.join().expect("an answer");
        assert_eq!(answer, is(403, "Revoked"));
        assert!(heard.saturating_duration_since(revoked) < Duration::from_secs(1));
    });
}

#[test]
fn a_database_that_is_killed_costs_nothing_but_the_time_that_it_is_away() {
    let name = "a_database_that_is_killed_costs_nothing_but_the_time_that_it_is_away";
    let Some(cluster) = Cluster::start(name) else { return };
    let places = [replica(&cluster), replica(&cluster)];
    let [one, other] = places.each_ref().map(Place::start);
    let [here, there] = &places;
    keep(&one, here, SECRET);
    let (guest_here, header) = admitted(&one, here);
    let answer = answer_to(&nonce(&one, here), &guest().public());
    token(&attest(&one, here, &answer));
    assert_eq!(revoke(&one, here, &"c2".repeat(48)).status, 200);
    cluster.kill();
    let fresh = answer_to(&nonce(&one, here), &guest().public());
    for (service, place) in [(&one, here), (&other, there)] {
        assert!(says_database(&get(service, place, KEY, Some(&header))));
        assert!(says_database(&attest(service, place, &fresh)));
        let put = order(service, place, "alice", &format!("POST {KEY}"), "never kept");
        assert!(says_database(&put), "{} {}", put.status, put.body);
    }
    let said = replica(&cluster).refused();
    assert!(said.contains("cannot be reached"), "{said}");
    cluster.run();
    for (service, place) in [(&one, here), (&other, there)] {
        until(|| get(service, place, KEY, Some(&header)).status == 200);
        assert_eq!(opened(&guest_here, get(service, place, KEY, Some(&header))), SECRET.as_bytes());
        assert_eq!(kind(&attest(service, place, &answer)), is(409, "ChallengeReplayed"));
        let listed = order(service, place, "audrey", "GET /coffer/v1/revocations", "").body;
        assert_eq!(listed["revoked"][0]["name"], json!("c2".repeat(48)));
    }
    // Guests are told again, too: whoever listens does so anew.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| kind(&get(&other, there, "/coffer/v1/standing?wait=30", Some(&header))));
        assert_eq!(revoke(&one, here, &"b1".repeat(48)).status, 200);
        assert_eq!(waits.join().expect("an answer"), is(403, "Revoked"));
    });
}

#[test]
fn a_database_that_hangs_is_not_waited_for_without_an_end() {
    let Some(cluster) = Cluster::start("a_database_that_hangs_is_not_waited_for_without_an_end") else {
        return;
    };
    let place = replica(&cluster);
    let service = place.start();
    keep(&service, &place, SECRET);
    let (_, header) = admitted(&service, &place);
    cluster.signal(Signal::STOP);
    assert!(says_database(&get(&service, &place, KEY, Some(&header))));
    assert_eq!(get(&service, &place, "/.well-known/jwks.json", None).status, 200);
    cluster.signal(Signal::CONT);
    until(|| get(&service, &place, KEY, Some(&header)).status == 200);
}

#[test]
fn keys_are_replaced_in_one_replica_after_another() {
    let Some(cluster) = Cluster::start("keys_are_replaced_in_one_replica_after_another") else { return };
    let places = [replica(&cluster), replica(&cluster)];
    let [one, other] = places.each_ref().map(Place::start);
    let pairs = [(&one, &places[0]), (&other, &places[1])];
    keep(&one, &places[0], SECRET);
    let (guest, header) = admitted(&one, &places[0]);
    let name = |place: &Place, key: &str| place.file(key).display().to_string();
    places.iter().for_each(|place| std::fs::write(place.file("kek2"), [2; 32]).expect("written"));
    for keys in [&["kek1", "kek2"] as &[&str], &["kek2", "kek1"], &["kek2"]] {
        for (service, place) in pairs {
            let log = service.log();
            let read = || log.lock().expect("a log").matches("key-encryption keys were read again").count();
            let before = read();
            place.use_keys(&keys.iter().map(|key| name(place, key)).collect::<Vec<_>>());
            service.signal(Signal::HUP);
            until(|| read() > before);
            for (service, place) in pairs {
                assert_eq!(opened(&guest, get(service, place, KEY, Some(&header))), SECRET.as_bytes());
            }
        }
    }
}

#[test]
fn replicas_have_their_key_in_one_token() {
    let name = "replicas_have_their_key_in_one_token";
    let Some((first, keys)) = hsm::token(name) else { return };
    let Some(cluster) = Cluster::start(name) else { return };
    let places = [first, keys.place()].map(|place| place.with_tables(&cluster.table()));
    places.iter().for_each(|place| place.use_keys(&[keys.key("one")]));
    let [one, other] = places.each_ref().map(Place::start);
    keep(&one, &places[0], SECRET);
    let (guest, header) = admitted(&one, &places[0]);
    assert_eq!(opened(&guest, get(&other, &places[1], KEY, Some(&header))), SECRET.as_bytes());
    // And the other way.
    let path = "/kbs/v0/resource/acme/key/2";
    assert_eq!(order(&other, &places[1], "alice", &format!("POST {path}"), "more").status, 200);
    assert_eq!(opened(&guest, get(&one, &places[0], path, Some(&header))), b"more");
    assert!(!cluster.holds(SECRET));
}

#[test]
fn what_somebody_wrote_into_the_database_is_believed_by_nobody() {
    let name = "what_somebody_wrote_into_the_database_is_believed_by_nobody";
    let Some(cluster) = Cluster::start(name) else { return };
    let place = replica(&cluster);
    let service = place.start();
    keep(&service, &place, SECRET);
    let (_, header) = admitted(&service, &place);
    // A secret under another name.
    let other = "/kbs/v0/resource/acme/key/2";
    assert_eq!(order(&service, &place, "alice", &format!("POST {other}"), "x").status, 200);
    let moved = "UPDATE coffer_secrets SET value = (SELECT value FROM coffer_secrets WHERE path = 'acme/key/1') \
        WHERE path = 'acme/key/2'";
    assert_eq!(cluster.change(moved), 1);
    assert_eq!(kind(&get(&service, &place, other, Some(&header))), is(503, "Unavailable"));
    // A policy that no replica wrote.
    assert_eq!(order(&service, &place, "alice", "PUT /coffer/v1/policies/release/acme", DENY).status, 200);
    assert_eq!(cluster.change("UPDATE coffer_documents SET text = 'package coffer.release'"), 1);
    assert_eq!(cluster.change("UPDATE coffer_generation SET generation = generation + 1"), 1);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&header))), is(503, "Unavailable"));
}

#[test]
fn a_replica_with_other_keys_does_not_start() {
    let Some(cluster) = Cluster::start("a_replica_with_other_keys_does_not_start") else { return };
    let places = [replica(&cluster), replica(&cluster)];
    let _one = places[0].start();
    std::fs::write(places[1].file("token"), [9; 32]).expect("written");
    let said = places[1].refused();
    assert!(said.contains("the other replicas have another token-key than this one"), "{said}");
    std::fs::write(places[1].file("token"), [2; 32]).expect("written");
    std::fs::write(places[1].file("challenge"), [9; 32]).expect("written");
    let said = places[1].refused();
    assert!(said.contains("the other replicas have another challenge-keys than this one"), "{said}");
    assert_eq!(cluster.change("UPDATE coffer_schema SET version = 7"), 1);
    let said = places[1].refused();
    assert!(said.contains("has tables of version 7, this program knows 1"), "{said}");
}

#[test]
fn over_a_network_nothing_is_spoken_but_tls_with_a_server_that_is_known() {
    let name = "over_a_network_nothing_is_spoken_but_tls_with_a_server_that_is_known";
    let Some(cluster) = Cluster::start(name) else { return };
    let over_tls = |more: &str| {
        let port = cluster.port;
        let table = format!(
            "[postgres]\nhost = \"localhost\"\nport = {port}\ndatabase = \"postgres\"\nuser = \"coffer\"\n{more}"
        );
        let place = place("").with_tables(&table);
        std::fs::write(place.file("password"), format!("{PASSWORD}\n")).expect("written");
        place
    };
    let said = over_tls("").refused();
    assert!(said.contains("give authorities, whose certificate it must show"), "{said}");
    let said = over_tls("insecure-plain = true").refused();
    assert!(said.contains("no pg_hba.conf entry") || said.contains("no encryption"), "{said}");
    let other = over_tls("");
    let with = |place: &Place, authorities: &std::path::Path| {
        let password = place.file("password");
        format!("authorities = {authorities:?}\npassword-file = {password:?}\n")
    };
    let lines = with(&other, &other.file("tls.pem"));
    let said = other.with_tables(&lines).refused();
    assert!(said.contains("certificate"), "{said}");
    let known = over_tls("");
    let lines = with(&known, &cluster.file("server.pem"));
    let known = known.with_tables(&lines);
    let service = known.start();
    keep(&service, &known, SECRET);
    let (guest, header) = admitted(&service, &known);
    assert_eq!(opened(&guest, get(&service, &known, KEY, Some(&header))), SECRET.as_bytes());
}
