//! Policies that are none: each must be refused as a whole.

use coffer_image::policy::{KeyFiles, NoFiles, Policy};
use serde_json::{Value, json};

use crate::authority::{key, spki};
use crate::world::{World, by_holder, by_key, exactly, key_data, on_host};

fn refused(policy: &Value) -> String {
    match Policy::parse(policy.to_string().as_bytes(), &NoFiles) {
        Ok(_) => "taken".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn with(requirement: Value) -> String {
    refused(&json!({"default": [requirement]}))
}

#[test]
fn a_policy_that_is_missing_is_none() {
    assert!(Policy::parse(b"", &NoFiles).is_err());
    assert!(refused(&json!({})).contains("missing field `default`"));
}

#[test]
fn a_member_that_is_not_known_is_an_error() {
    assert!(refused(&json!({"default": [{"type": "reject"}], "defaults": []})).contains("unknown field"));
    assert!(with(json!({"type": "reject", "but": 1})).contains("unknown field"));
    assert!(with(json!({"type": "allow"})).contains("unknown variant"));
    let mut requirement = by_key(&key(1));
    requirement["keyDate"] = json!("");
    assert!(with(requirement).contains("unknown field"));
}

#[test]
fn a_member_that_is_there_twice_is_an_error() {
    let text = br#"{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}"#;
    assert!(Policy::parse(text, &NoFiles).is_err_and(|error| error.to_string().contains("twice")));
}

#[test]
fn an_empty_list_of_requirements_is_an_error() {
    assert!(refused(&json!({"default": []})).starts_with("/default: the list of requirements is empty"));
    assert!(refused(&on_host(json!([]))).starts_with("/transports/docker/127.0.0.1:5000: the list"));
}

#[test]
fn what_cannot_be_checked_is_said_to_be_not_supported() {
    let by = |kind: &str| with(json!({"type": "signedBy", "keyType": kind, "keyData": "AAAA"}));
    assert!(by("X509Certificates").contains("a keyType other than GPGKeys is not supported"));
    assert!(by("GPGKeys").contains("this is no keyring"));
    assert!(with(json!({"type": "signedBy", "keyType": "GPGKeys"})).contains("give exactly one of keyPath"));
    let fulcio = json!({"type": "sigstoreSigned", "fulcio": {"oidcIssuer": "x"}});
    assert!(with(fulcio).contains("is not supported by this version"));
}

#[test]
fn a_key_must_be_there_once() {
    assert!(with(json!({"type": "sigstoreSigned"})).contains("give exactly one of keyPath"));
    let both =
        json!({"type": "sigstoreSigned", "keyData": key_data(&key(1)), "keyDatas": [key_data(&key(2))]});
    assert!(with(both).contains("give exactly one of keyPath"));
    assert!(with(json!({"type": "sigstoreSigned", "keyDatas": []})).contains("empty list"));
    assert!(with(json!({"type": "sigstoreSigned", "keyData": "AAAA"})).contains("no public key"));
}

#[test]
fn a_policy_in_a_guest_names_no_file() {
    let policy = json!({"type": "sigstoreSigned", "keyPath": "/key.pub"});
    assert!(with(policy).contains("/key.pub: this policy may name no files"));
}

#[test]
fn a_policy_on_a_node_may_name_files() {
    struct Files;
    impl KeyFiles for Files {
        fn read(&self, path: &str) -> Result<Vec<u8>, String> {
            (path == "/key.pub").then(|| spki(&key(1))).ok_or_else(|| "there is none".to_owned())
        }
    }
    let policy = |path: &str| json!({"default": [{"type": "sigstoreSigned", "keyPath": path}]}).to_string();
    assert!(Policy::parse(policy("/key.pub").as_bytes(), &Files).is_ok());
    assert!(Policy::parse(policy("/other").as_bytes(), &Files).is_err());
}

#[test]
fn a_day_from_which_signatures_count_needs_somebody_who_knows_days() {
    let mut requirement = by_key(&key(1));
    requirement["notBefore"] = json!("2026-01-01T00:00:00Z");
    assert!(with(requirement).contains("give rekorPublicKeyData too"));
}

#[test]
fn an_identity_that_could_never_fit_is_an_error() {
    let mut requirement = by_key(&key(1));
    requirement["signedIdentity"] = json!({"type": "exactReference", "dockerReference": "r.example.com/a"});
    assert!(with(requirement.clone()).contains("needs a tag or a digest"));
    requirement["signedIdentity"] =
        json!({"type": "remapIdentity", "prefix": "r.example.com/A", "signedPrefix": "x"});
    assert!(with(requirement).contains("is no path of a repository"));
}

#[test]
fn a_scope_that_could_never_fit_is_an_error() {
    let scope = |scope: &str| scoped("docker", scope);
    assert!(scope("busybox/x").contains("must be written in full"));
    assert!(scope("*.example.com/a").contains("no domain"));
    assert_eq!(scope("r.example.com:5000/a/b:v1"), "taken");
}

#[test]
fn a_scope_by_tag_and_digest_is_an_error_and_by_one_of_them_is_not() {
    let digest = format!("sha256:{}", "a".repeat(64));
    assert!(scoped("docker", &format!("r.example.com/a:1@{digest}")).contains("has tag and digest"));
    assert_eq!(scoped("docker", &format!("r.example.com/a@{digest}")), "taken");
}

#[test]
fn a_scope_may_be_dockers_host_or_a_namespace_of_it_and_is_no_short_name() {
    let taken = ["docker.io", "docker.io/library", "docker.io/user", "docker.io/library/busybox:1"];
    assert_eq!(taken.map(|scope| scoped("docker", scope)), ["taken"; 4]);
    let refused = ["busybox", "docker.io/busybox:1", "index.docker.io", "index.docker.io/library/busybox"];
    let said = refused.map(|scope| scoped("docker", scope));
    assert!(said.iter().all(|said| said.contains("must be written in full")), "{said:?}");
}

#[test]
fn a_rule_for_dockers_host_decides_about_short_names() {
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {
        "docker.io": [{"type": "reject"}], "docker.io/library": [{"type": "insecureAcceptAnything"}],
    }}});
    let policy = Policy::parse(policy.to_string().as_bytes(), &NoFiles).expect("a policy");
    let rule = |name: &str| policy.rule_for(&name.parse().expect("a reference")).pointer.clone();
    assert_eq!(rule("busybox"), "/transports/docker/docker.io~1library");
    assert_eq!(rule("user/app"), "/transports/docker/docker.io");
}

#[test]
fn a_transport_that_is_not_known_is_an_error_and_one_of_other_programs_is_not() {
    assert!(scoped("dokcer", "").starts_with("/transports/dokcer: no transport has this name"));
    assert_eq!(scoped("docker-daemon", ""), "taken");
}

/// What is said of a policy with one rule.
fn scoped(transport: &str, scope: &str) -> String {
    let list = json!([{"type": "reject"}]);
    refused(&json!({"default": list, "transports": {transport: {scope: list}}}))
}

#[test]
fn signers_without_a_name_are_an_error() {
    let root = World::new().authority.trusted_root(&[]);
    let by = |who: Value| with(by_holder(&root, who, json!({"type": "matchDigest"})));
    assert!(by(json!({"issuer": "https://i", "subjectPattern": "*"})).contains("says nothing"));
    assert!(by(json!({"issuer": "https://i"})).contains("give exactly one of subject"));
    let mut nobody = by_holder(&root, exactly("x"), json!({"type": "matchDigest"}));
    nobody["identities"] = json!([]);
    assert!(with(nobody).contains("name who may sign"));
}

#[test]
fn counting_signers_needs_names_that_are_there() {
    let of = |k: usize, of: Value| {
        refused(
            &json!({"default": [{"type": "kOfN", "k": k, "of": of}], "requirements": {"a": by_key(&key(1))}}),
        )
    };
    assert!(of(1, json!(["b"])).contains("no requirement has this name"));
    assert!(of(2, json!(["a"])).contains("k is 2, it may be 1 to 1"));
    assert!(of(0, json!(["a"])).contains("k is 0"));
    assert!(of(1, json!(["a", "a"])).contains("named twice"));
    assert_eq!(of(1, json!(["a"])), "taken");
    let anything =
        json!({"default": [{"type": "reject"}], "requirements": {"a": {"type": "insecureAcceptAnything"}}});
    assert!(refused(&anything).contains("only requirements of a signature can be named"));
}

#[test]
fn a_level_that_anybody_passes_cannot_count_as_one_of_several_signers() {
    let root = World::new().authority.trusted_root(&[]);
    let chain = root["certificateAuthorities"][0]["certChain"]["certificates"].as_array().expect("a chain");
    let raw = &chain.last().expect("a root")["rawBytes"];
    let at = |level: &str| {
        let notation = json!({
            "type": "notation",
            "level": level,
            "trustStores": [{"type": "ca", "certificateDatas": [raw]}],
            "trustedIdentities": ["*"],
        });
        refused(&json!({"default": [{"type": "kOfN", "k": 1, "of": ["a"]}], "requirements": {"a": notation}}))
    };
    assert!(at("audit").contains("cannot count"));
    assert_eq!(at("permissive"), "taken");
}
