//! Notation's signatures: made by notation, judged by it and by us.

use std::fs;

use coffer_image::UnixTime;
use coffer_image::artefact::{Attached, Digest, Evidence, Subject};
use coffer_image::judge::judge;
use coffer_image::policy::{NoFiles, Policy};
use serde_json::{Value, json};

use crate::artefacts::manifest;
use crate::authority::base64;
use crate::oracle::{HOST, Oracle, file};
use crate::registry::Store;
use crate::world::{Settings, World, on_host};

/// One question: level, whose certificate is trusted, who may sign, and whether the image is the signed one.
struct Question {
    name: &'static str,
    level: &'static str,
    trusted: &'static str,
    who: &'static str,
    image: &'static str,
    expected: Result<(), &'static str>,
}

const ANYBODY: &str = "*";
const NOTARY: &str = "x509.subject: C=US, ST=WA, O=Notary, CN=one";
const OTHER: &str = "x509.subject: C=US, ST=WA, O=Other";

const fn ask(
    name: &'static str,
    (level, trusted, who): (&'static str, &'static str, &'static str),
    image: &'static str,
    expected: Result<(), &'static str>,
) -> Question {
    Question { name, level, trusted, who, image, expected }
}

const QUESTIONS: [Question; 9] = [
    ask("good", ("strict", "one", ANYBODY), "signed", Ok(())),
    ask("named", ("strict", "one", NOTARY), "signed", Ok(())),
    ask("wrong-store", ("strict", "two", ANYBODY), "signed", Err("certificate: expected")),
    ask("wrong-store-permissive", ("permissive", "two", ANYBODY), "signed", Err("certificate: expected")),
    ask("wrong-store-audit", ("audit", "two", ANYBODY), "signed", Ok(())),
    ask("wrong-identity", ("strict", "one", OTHER), "signed", Err("signer: expected")),
    ask("wrong-identity-audit", ("audit", "one", OTHER), "signed", Ok(())),
    ask("other-image", ("strict", "one", ANYBODY), "another", Err("digest: expected")),
    ask("unsigned", ("strict", "one", ANYBODY), "unsigned", Err("no signature of this kind")),
];

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Keys of two signers, and an image that the first signed.
fn signed(oracle: &Oracle, store: &Store, format: &str) -> Evidence {
    for name in ["signed", "another", "unsigned"] {
        store.put(name, &[&manifest(name)], &Digest::of(&manifest(name)), &Evidence::default());
    }
    let image = format!("{HOST}/signed@{}", Digest::of(&manifest("signed")));
    let commands = [
        ("one", "notation cert generate-test one".to_owned()),
        ("two", "notation cert generate-test two".to_owned()),
        (
            "sign",
            format!(
                "notation sign --insecure-registry --key one --expiry 12h --signature-format {format} {image}"
            ),
        ),
    ];
    let said = oracle.run(&commands.map(|(name, line)| (name.to_owned(), words(&line))));
    assert!(said.values().all(|said| said.well), "{said:?}");
    let evidence = store.attached("signed", &Digest::of(&manifest("signed")));
    let kinds: Vec<&str> = evidence.attached().iter().map(Attached::kind).collect();
    assert_eq!(kinds, [if format == "jws" { "notation JWS" } else { "notation COSE" }]);
    store.put_notation("another", &Digest::of(&manifest("another")), &evidence);
    evidence
}

fn certificate(oracle: &Oracle, name: &str) -> Vec<u8> {
    let store = oracle.directory.path().join(".config/notation/truststore/x509/ca");
    fs::read(store.join(name).join(format!("{name}.crt"))).expect("a certificate")
}

fn reason(question: &Question, certificate: &[u8], evidence: &Evidence, at: UnixTime) -> Result<(), String> {
    let requirement = requirement(question.level, certificate, question.who);
    judged(question.image, requirement, evidence, at)
}

pub(crate) fn requirement(level: &str, certificate: &[u8], who: &str) -> Value {
    json!({
        "type": "notation",
        "level": level,
        "trustStores": [{"type": "ca", "certificateDatas": [base64(certificate)]}],
        "trustedIdentities": [who],
    })
}

/// What is said of the image in `repository` under one requirement.
pub(crate) fn judged(
    repository: &str,
    requirement: Value,
    evidence: &Evidence,
    at: UnixTime,
) -> Result<(), String> {
    let policy =
        Policy::parse(on_host(json!([requirement])).to_string().as_bytes(), &NoFiles).expect("a policy");
    let reference = format!("{HOST}/{repository}:v1").parse().expect("a reference");
    let subject = Subject::of_manifest(reference, manifest(repository)).expect("an image");
    judge(&policy, subject, evidence, at).into_admitted().map(drop).map_err(|refusal| refusal.to_string())
}

/// A directory with notation's settings for the question, and how it is asked.
fn command(oracle: &Oracle, question: &Question) -> (String, Vec<String>) {
    let image = format!("{HOST}/{}@{}", question.image, Digest::of(&manifest(question.image)));
    let trusted = certificate(oracle, question.trusted);
    asked(oracle, question.name, (question.level, &trusted, question.who), &image)
}

/// notation, asked about `image` under the name `name`: level, whose certificate is trusted, and who may sign.
pub(crate) fn asked(
    oracle: &Oracle,
    name: &str,
    (level, trusted, who): (&str, &[u8], &str),
    image: &str,
) -> (String, Vec<String>) {
    let policy = json!({"version": "1.0", "trustPolicies": [{
        "name": "policy",
        "registryScopes": ["*"],
        "signatureVerification": {"level": level},
        "trustStores": ["ca:trusted"],
        "trustedIdentities": [who],
    }]});
    let trusted = String::from_utf8(trusted.to_vec()).expect("PEM");
    told(oracle, name, &Settings { policy: Some(policy), stores: vec![("ca", trusted)] }, image)
}

/// notation, asked about `image` under the name `name`.
pub(crate) fn told(oracle: &Oracle, name: &str, settings: &Settings, image: &str) -> (String, Vec<String>) {
    let home = oracle.directory.path().join(format!("settings-{name}"));
    let directory = home.join("notation");
    for (kind, certificate) in &settings.stores {
        let store = directory.join("truststore/x509").join(kind).join("trusted");
        fs::create_dir_all(&store).expect("a directory");
        file(&store, "trusted.crt", certificate);
    }
    if let Some(policy) = &settings.policy {
        file(&directory, "trustpolicy.json", policy.to_string());
    }
    let line = format!("env XDG_CONFIG_HOME={} notation verify --insecure-registry {image}", home.display());
    (name.to_owned(), words(&line))
}

#[test]
fn notation_says_the_same_of_what_it_signed_in_jws() {
    compare("jws");
}

#[test]
fn notation_says_the_same_of_what_it_signed_in_cose() {
    compare("cose");
}

/// Each question to notation and to us.
fn compare(format: &str) {
    let Some(oracle) = Oracle::new() else { return };
    let store = Store::new(&oracle.registry());
    let evidence = signed(&oracle, &store, format);
    let none = Evidence::default();
    let commands: Vec<(String, Vec<String>)> =
        QUESTIONS.iter().map(|question| command(&oracle, question)).collect();
    let said = oracle.run(&commands);
    let now = World::new().now;
    let faults = QUESTIONS.iter().filter_map(|question| {
        let evidence = if question.image == "unsigned" { &none } else { &evidence };
        let ours = reason(question, &certificate(&oracle, question.trusted), evidence, now);
        let right = match (&ours, question.expected) {
            (Ok(()), Ok(())) => true,
            (Err(found), Err(wanted)) => found.contains(wanted),
            _ => false,
        };
        let theirs = &said[question.name];
        (!right || theirs.well != ours.is_ok())
            .then(|| format!("{}: {ours:?}, notation: {theirs:?}", question.name))
    });
    crate::settle(faults.collect());
}

#[test]
fn an_envelope_that_expired_or_was_changed_is_refused() {
    let Some(oracle) = Oracle::new() else { return };
    let store = Store::new(&oracle.registry());
    let evidence = signed(&oracle, &store, "jws");
    let trusted = certificate(&oracle, "one");
    let now = World::new().now;
    let said = |level, evidence: &Evidence, hours: u64| {
        let question = ask("asked", (level, "one", ANYBODY), "signed", Ok(()));
        reason(&question, &trusted, evidence, UnixTime(now.0 + hours * 3600)).err().unwrap_or_default()
    };
    // notation's own certificates are good for a day.
    let good =
        [said("strict", &evidence, 1), said("permissive", &evidence, 13), said("permissive", &evidence, 25)];
    assert_eq!(good, [""; 3]);
    let late = [said("strict", &evidence, 13), said("strict", &evidence, 25)];
    assert!(late[0].contains("expiry: expected") && late[1].contains("signing-time: expected"), "{late:?}");
    let refused = |spoil: fn(&mut Value)| said("audit", &spoilt(&evidence, spoil), 0);
    let payload = refused(|jws| {
        let changed = jws["payload"].as_str().expect("text").replacen('e', "f", 1);
        jws["payload"] = json!(changed);
    });
    assert!(!payload.is_empty(), "a changed payload was admitted");
    let signature = refused(|jws| {
        jws["signature"] = json!(format!("AAAA{}", &jws["signature"].as_str().expect("text")[4..]))
    });
    assert!(signature.contains("signature: expected"), "{signature}");
    let header = refused(|jws| jws["header"]["io.example.more"] = json!(1));
    assert!(header.contains("unknown field"), "{header}");
}

#[test]
fn an_envelope_in_cose_with_any_changed_byte_of_what_is_signed_is_refused() {
    let Some(oracle) = Oracle::new() else { return };
    let store = Store::new(&oracle.registry());
    let evidence = signed(&oracle, &store, "cose");
    let [Attached::NotationCose(bytes)] = evidence.attached() else { panic!("no envelope") };
    let trusted = certificate(&oracle, "one");
    let question = ask("asked", ("strict", "one", ANYBODY), "signed", Ok(()));
    let admitted = |bytes: Vec<u8>| {
        let mut other = Evidence::default();
        other.add(Attached::NotationCose(bytes)).expect("within bounds");
        reason(&question, &trusted, &other, World::new().now).is_ok()
    };
    assert!(admitted(bytes.clone()));
    // The protected header is first, the signature last.
    let changed =
        |at: usize| bytes.iter().enumerate().map(|(place, byte)| byte ^ u8::from(place == at)).collect();
    let let_through: Vec<usize> =
        (0..150).chain(bytes.len() - 250..bytes.len()).filter(|at| admitted(changed(*at))).collect();
    assert_eq!(let_through, Vec::<usize>::new());
}

fn spoilt(evidence: &Evidence, spoil: fn(&mut Value)) -> Evidence {
    let mut other = Evidence::default();
    for attached in evidence.attached() {
        let Attached::NotationJws(bytes) = attached else { continue };
        let mut jws: Value = serde_json::from_slice(bytes).expect("JSON");
        spoil(&mut jws);
        other.add(Attached::NotationJws(jws.to_string().into_bytes())).expect("within bounds");
    }
    other
}
