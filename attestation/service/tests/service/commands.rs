//! The operators' command as they run it, against the running service: each of its orders, and what it says of refusals.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64ct::{Base64, Encoding};
use serde_json::Value;

use crate::running::{Place, Service, pem};
use crate::{KEY, admitted, get, is, kind, opened, place};

/// The command, built from this workspace where nobody says where it is.
fn coffer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(ready) = std::env::var_os("COFFER_BIN_DIR") {
            return PathBuf::from(ready).join("coffer");
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "coffer-cli", "--bin", "coffer", "--target-dir"]).arg(target);
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo");
        assert!(built.success());
        target.join("debug/coffer")
    })
}

/// How an order ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// What was printed, of an order that went well.
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.well()).expect("JSON")
    }
}

/// An operator at a terminal.
struct Terminal<'a> {
    place: &'a Place,
    service: &'a Service,
    operator: &'static str,
}

impl Terminal<'_> {
    /// `{name}` is the path of a file in the place.
    fn run(&self, order: &[&str], input: &str) -> Ended {
        let (certificate, key) = self.place.operator(self.operator);
        let file = |kind: &str| self.place.file(&format!("{}.{kind}", self.operator));
        std::fs::write(file("pem"), pem("CERTIFICATE", &certificate)).expect("written");
        std::fs::write(file("key"), pem("PRIVATE KEY", key.secret_der())).expect("written");
        let words = order.iter().map(|word| match word.strip_prefix('{') {
            Some(name) => self.place.file(name.trim_end_matches('}')).into_os_string(),
            None => word.into(),
        });
        let mut child = Command::new(coffer())
            .args(words)
            .env("COFFER_VERIFIER", format!("localhost:{}", self.service.address().port()))
            .env("COFFER_VERIFIER_AUTHORITY", self.place.file("tls.pem"))
            .env("COFFER_OPERATOR_CERTIFICATE", file("pem"))
            .env("COFFER_OPERATOR_KEY", file("key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command");
        // One that takes no input may have ended.
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("an end");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

#[test]
fn secrets_are_put_listed_and_deleted_and_a_refusal_is_told_as_it_is() {
    let place = place("");
    let service = place.start();
    let [oscar, audrey] =
        ["oscar", "audrey"].map(|operator| Terminal { place: &place, service: &service, operator });
    let put =
        oscar.run(&["secret", "put", "acme/key/1", "-", "--expires", "2099-01-01T00:00:00Z"], "a secret");
    assert_eq!(put.json()["version"], 1);
    let (guest, token) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    let listed = oscar.run(&["secret", "list", "acme"], "").well();
    assert!(listed.contains("acme/key/1") && listed.contains("2099-01-01"), "{listed}");
    let refused = audrey.run(&["secret", "delete", "acme/key/1"], "");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("status 403") && refused.stderr.contains("role"), "{}", refused.stderr);
    oscar.run(&["secret", "delete", "acme/key/1"], "").well();
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(404, "NotFound"));
}

#[test]
fn references_are_signed_put_listed_and_deleted_and_their_signer_is_revoked() {
    let place = place("");
    let service = place.start();
    let oscar = Terminal { place: &place, service: &service, operator: "oscar" };
    let text = "[[reference]]\nname = \"new\"\ntee = \"snp\"\ntenants = [\"acme\"]\n";
    std::fs::write(place.file("signer.key"), crate::running::SIGNER).expect("written");
    let refused = oscar.run(&["reference", "put", "-"], text);
    assert!(refused.code == Some(1) && refused.stderr.contains("nobody signed"), "{}", refused.stderr);
    let signed = oscar.run(&["reference", "sign", "--key", "{signer.key}", "-"], text).well();
    assert_eq!(oscar.run(&["reference", "put", "--expected", "0", "-"], &signed).json()["version"], 1);
    let late = oscar.run(&["reference", "put", "--expected", "0", "-"], &signed);
    assert!(late.code == Some(1) && late.stderr.contains("status 409"), "{}", late.stderr);
    let listed = oscar.run(&["reference", "list"], "").json();
    let id = oscar.run(&["reference", "signer", "--key", "{signer.key}"], "").well();
    assert_eq!(listed["signed_by"]["new"]["id"], id.trim());
    oscar.run(&["reference", "delete", "new"], "").well();
    assert_eq!(
        oscar.run(&["reference", "list"], "").json()["in_force"],
        serde_json::json!(["web", "another"])
    );
    oscar.run(&["revoke", "signer", id.trim()], "").well();
    let revoked = oscar.run(&["revoke"], "").json();
    assert_eq!(revoked["revoked"][0]["name"], id.trim());
    let none = oscar.run(&["reference", "sign", "--key", "{signer.key}", "-"], "name = \"new\"");
    assert!(none.code == Some(1) && none.stderr.contains("[[reference]]"), "{}", none.stderr);
}

#[test]
fn policies_are_tested_against_what_was_asked_before_they_are_put_in_force() {
    let place = place("");
    let service = place.start();
    let alice = Terminal { place: &place, service: &service, operator: "alice" };
    alice.run(&["secret", "put", "acme/key/1", "-"], "a secret").well();
    let (_, token) = admitted(&service, &place);
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200);
    let [same, other] =
        ["allow := true", "allow := false"].map(|rule| format!("package coffer.release\n{rule}"));
    let tested = alice.run(&["policy", "test", "release", "acme", "-"], &same);
    assert_eq!(tested.json()["changed"], 0);
    let tested = alice.run(&["policy", "test", "release", "acme", "-"], &other);
    assert_eq!(tested.code, Some(3), "{}", tested.stderr);
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200, "a test has no effect");
    let broken = alice.run(&["policy", "test", "release", "acme", "-"], "package");
    assert!(broken.code == Some(1) && broken.stderr.contains("status 400"), "{}", broken.stderr);
    assert_eq!(alice.run(&["policy", "put", "release", "acme", "-"], &other).json()["version"], 1);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(403, "PolicyDeny"));
    let versions = alice.run(&["policy", "get", "release", "acme"], "").json();
    assert_eq!(versions["versions"][0]["text"], other.as_str());
    alice.run(&["policy", "delete", "release", "acme"], "").well();
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200);
}

#[test]
fn what_was_decided_is_found_proven_and_verified() {
    let place = place("");
    let service = place.start();
    let audrey = Terminal { place: &place, service: &service, operator: "audrey" };
    let oscar = Terminal { operator: "oscar", ..audrey };
    let serial = "ab12";
    oscar.run(&["revoke", "certificate", serial], "").well();
    let found = audrey.run(&["audit", "query", "--event", "put", "--operator", "oscar"], "").well();
    assert!(found.starts_with("0 ") && found.contains(serial), "{found}");
    // The key that the place's verifier has.
    let key = p256::ecdsa::SigningKey::from_slice(&[3; 32]).expect("a scalar");
    let key = Base64::encode_string(&key.verifying_key().to_sec1_bytes());
    let proven = audrey.run(&["audit", "prove", "0", "--log-key", &key], "").well();
    assert!(proven.contains("is entry 0 of the"), "{proven}");
    let checkpoint = audrey.run(&["audit", "checkpoint"], "").well();
    std::fs::write(place.file("checkpoint"), checkpoint).expect("written");
    let verify = ["audit", "verify", "{audit}", "--checkpoint", "{checkpoint}", "--key", &key];
    assert!(audrey.run(&verify, "").well().starts_with("whole"));
    let mut log = std::fs::read(place.file("audit")).expect("a log");
    log[100] ^= 1;
    std::fs::write(place.file("changed"), log).expect("written");
    let verify = ["audit", "verify", "{changed}", "--checkpoint", "{checkpoint}", "--key", &key];
    assert_eq!(audrey.run(&verify, "").code, Some(3));
    let refused = oscar.run(&["audit", "query"], "");
    assert!(refused.code == Some(1) && refused.stderr.contains("status 403"), "{}", refused.stderr);
}
