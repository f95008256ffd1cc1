//! Simple signing: made by GnuPG, judged by skopeo and by us under the very same policy.

use std::fs;
use std::path::Path;

use coffer_image::artefact::{Attached, Digest, Evidence, Subject};
use coffer_image::judge::{Decision, judge};
use coffer_image::policy::{KeyFiles, Policy};
use serde_json::{Value, json};

use crate::artefacts::index;
use crate::authority::base64;
use crate::oracle::{HOST, Oracle, file};
use crate::registry::Store;
use crate::settle;
use crate::world::{Case, World, on_host};

/// Keys by their names: how GnuPG makes them, and when (as it writes times).
const KEYS: [(&str, &str, &str); 11] = [
    ("alice", "ed25519 sign never", ""),
    ("bob", "ed25519 sign 1y", ""),
    ("rsa", "rsa3072 sign never", ""),
    ("p384", "nistp384 sign never", ""),
    ("over", "ed25519 sign 30d", "20260101T000000!"),
    ("to-come", "ed25519 sign never", "20990101T000000!"),
    ("revoked", "ed25519 sign never", ""),
    ("certifier", "ed25519 cert never", ""),
    ("shortened", "ed25519 sign never", "20260101T000000!"),
    ("noted", "ed25519 sign never", "20260101T000000!"),
    ("renamed", "ed25519 sign never", ""),
];

/// What is signed, how, and what is to be said of it.
struct Message {
    name: &'static str,
    /// Whose keyring the policy holds, and who signs.
    keys: (&'static str, &'static str),
    /// The name that is signed, after the registry's; empty: the image's own.
    signed: &'static str,
    identity: Value,
    /// More for GnuPG.
    options: &'static str,
    spoil: fn(&mut Value),
    expected: Result<&'static str, &'static str>,
}

fn message(
    name: &'static str,
    keys: (&'static str, &'static str),
    expected: Result<&'static str, &'static str>,
) -> Message {
    let identity = json!({"type": "matchRepoDigestOrExact"});
    Message { name, keys, signed: "", identity, options: "", spoil: |_| {}, expected }
}

fn messages() -> Vec<Message> {
    let alice = ("alice", "alice");
    let kind = |json: &mut Value| json["critical"]["type"] = json!("cosign container image signature");
    vec![
        message("gpg-good", alice, Ok("OpenPGP ")),
        message("gpg-rsa", ("rsa", "rsa"), Ok("OpenPGP ")),
        message("gpg-p384", ("p384", "p384"), Ok("OpenPGP ")),
        Message { options: "-z 0", ..message("gpg-not-compressed", alice, Ok("OpenPGP ")) },
        Message {
            options: "--compress-algo zlib --digest-algo SHA384",
            ..message("gpg-zlib", alice, Ok("OpenPGP "))
        },
        Message { options: "--armor", ..message("gpg-printable", alice, Err("the first packet")) },
        message("gpg-wrong-key", ("alice", "bob"), Err("signature: expected OpenPGP")),
        Message {
            spoil: |json| {
                json["critical"]["image"]["docker-manifest-digest"] = json!(Digest::of(b"x").to_string());
            },
            ..message("gpg-wrong-digest", alice, Err("digest: expected"))
        },
        Message { signed: "another:v1", ..message("gpg-wrong-identity", alice, Err("identity: expected")) },
        message("gpg-expired", ("over", "over"), Err("it expired at")),
        Message {
            options: "--faked-system-time 20990101T000000!",
            ..message("gpg-from-the-future", alice, Ok("OpenPGP "))
        },
        Message {
            options: "--default-sig-expire 1d --faked-system-time 20260701T000000!",
            ..message("gpg-signature-expired", ("old", "old"), Err("it expired at"))
        },
        message("gpg-not-yet-valid", ("to-come", "to-come"), Err("which is to come")),
        message("gpg-revoked", ("revoked", "revoked"), Err("it is revoked")),
        message("gpg-revocation-in-its-own-block", ("revoked-in-blocks", "revoked"), Err("it is revoked")),
        message("gpg-revocation-behind-subkey", ("revoked-behind-subkey", "revoked"), Err("it is revoked")),
        message("gpg-revocation-in-a-copy", ("revoked-in-a-copy", "revoked"), Err("it is revoked")),
        message("gpg-before-the-revocation", ("revoked-before", "revoked"), Ok("OpenPGP ")),
        message("gpg-shortened-with-old-hash", ("shortened-after", "shortened"), Err("cannot be judged")),
        Message {
            identity: json!({"type": "remapIdentity", "prefix": HOST, "signedPrefix": "origin.example.com"}),
            signed: "//origin.example.com/gpg-mirrored:v1",
            ..message("gpg-mirrored", alice, Ok("OpenPGP "))
        },
        Message { signed: "gpg-tag-moved:v0", ..message("gpg-tag-moved", alice, Err("identity: expected")) },
        message("gpg-manifest-list", alice, Ok("OpenPGP ")),
        Message { spoil: kind, ..message("gpg-other-type", alice, Err("says that it is")) },
        Message {
            spoil: |json| json["critical"]["more"] = json!(1),
            ..message("gpg-unknown-member", alice, Err("unknown field"))
        },
    ]
}

/// Cases with their verdicts, and who else says the same, for the table.
pub(crate) fn names() -> Vec<(&'static str, bool, &'static str)> {
    let beside = "skopeo says the same";
    let more =
        ["gpg-unsigned", "gpg-policy-missing", "gpg-policy-malformed"].map(|name| (name, false, beside));
    let of_messages = messages().into_iter().map(|one| (one.name, one.expected.is_ok(), beside));
    of_messages.chain(more).chain([("gpg-k-of-n-short", false, "nobody else can express it")]).collect()
}

fn named(name: &str, line: String) -> (String, Vec<String>) {
    (name.to_owned(), vec!["bash".to_owned(), "-c".to_owned(), line])
}

const GPG: &str = "gpg --homedir gnupg --batch --quiet --passphrase \"\"";

/// Keys, and what is to be signed, in files; then the signatures.
fn made(oracle: &Oracle, cases: &[(Message, Case)]) {
    let mut commands = vec![named("home", "mkdir -m 700 gnupg".to_owned())];
    let old = ("old", "ed25519 sign never", "20260101T000000!");
    for (name, how, when) in KEYS.iter().chain([&old]) {
        let when = if when.is_empty() { String::new() } else { format!("--faked-system-time {when}") };
        commands.push(named(
            &format!("make {name}"),
            format!("{GPG} {when} --quick-gen-key {name}@example.com {how}"),
        ));
    }
    for (message, case) in cases {
        let (signed, name) = (message.signed, message.name);
        let reference = match signed.strip_prefix("//") {
            Some(whole) => whole.to_owned(),
            None if signed.is_empty() => format!("{HOST}/{name}:v1"),
            None => format!("{HOST}/{signed}"),
        };
        let mut payload = json!({
            "critical": {
                "type": "atomic container signature",
                "image": {"docker-manifest-digest": case.digest().to_string()},
                "identity": {"docker-reference": reference},
            },
            "optional": {"creator": "coffer-tests", "timestamp": 1},
        });
        (message.spoil)(&mut payload);
        file(oracle.directory.path(), &format!("{name}.json"), payload.to_string());
        let mut options = message.options.to_owned();
        if message.keys.1 == "over" {
            options.push_str(" --faked-system-time 20260110T000000!");
        }
        if message.keys.1 == "to-come" {
            options.push_str(" --faked-system-time 20990102T000000!");
        }
        commands.push(named(
            &format!("sign {name}"),
            format!("{GPG} {options} -u {}@example.com -o {name}.sig --sign {name}.json", message.keys.1),
        ));
    }
    commands.extend(after_signing().map(|(name, line)| named(name, line)));
    for (name, ..) in KEYS.iter().chain([&old]) {
        commands.push(named(
            &format!("export {name}"),
            format!("{GPG} --export {name}@example.com > {name}.gpg"),
        ));
    }
    for (name, line) in [
        ("copies", "cat revoked-before.gpg revoked.gpg > revoked-in-a-copy.gpg".to_owned()),
        ("shortened", "cat shortened-before.gpg shortened.gpg > shortened-after.gpg".to_owned()),
        // The user id alone that was taken back.
        (
            "renamed",
            format!(
                "{GPG} --export-filter keep-uid=\"uid = other@example.com\" --export renamed@example.com > renamed.gpg"
            ),
        ),
    ] {
        commands.push(named(name, line));
    }
    commands.push(named("end", "gpgconf --homedir gnupg --kill all".to_owned()));
    let said = oracle.run(&commands);
    let failed: Vec<_> = said.iter().filter(|(_, said)| !said.well).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// What keys say of themselves when everything is signed, and keyrings of before and between.
fn after_signing() -> [(&'static str, String); 9] {
    let fingerprint = |name: &str| {
        format!(
            "$(gpg --homedir gnupg --with-colons --list-keys {name}@example.com | grep ^fpr | head -n 1 | cut -d: -f10)"
        )
    };
    let revoked = fingerprint("revoked");
    let old_hash = "--cert-digest-algo SHA1";
    let later = "--faked-system-time 20260102T000000!";
    [
        ("keep printable", format!("{GPG} --armor --export revoked@example.com > revoked-before.asc")),
        ("add a subkey", format!("{GPG} --quick-add-key {revoked} cv25519 encr never")),
        // GnuPG leaves a revocation beside each key, with a colon before it against accidents.
        (
            "keyrings",
            format!(
                "{GPG} --export revoked@example.com > revoked-before.gpg; \
                 sed s/^:-----/-----/ gnupg/openpgp-revocs.d/{revoked}.rev > revocation.asc; \
                 cat revoked-before.asc revocation.asc > revoked-in-blocks.gpg; \
                 {GPG} --dearmor < revocation.asc | cat revoked-before.gpg - > revoked-behind-subkey.gpg"
            ),
        ),
        ("revoke", format!("{GPG} --import revocation.asc")),
        ("keep the long one", format!("{GPG} --export shortened@example.com > shortened-before.gpg")),
        ("shorten", format!("{GPG} {later} {old_hash} --quick-set-expire {} 30d", fingerprint("shortened"))),
        (
            "note",
            format!(
                "{GPG} {later} --cert-notation \"!a@example.com=b\" --quick-add-uid noted@example.com more@example.com"
            ),
        ),
        ("name", format!("{GPG} --quick-add-uid renamed@example.com other@example.com")),
        ("take back", format!("{GPG} {old_hash} --quick-revoke-uid renamed@example.com other@example.com")),
    ]
}

fn requirement(oracle: &Oracle, name: &str, identity: &Value) -> Value {
    let keyring = fs::read(oracle.directory.path().join(format!("{name}.gpg"))).expect("a keyring");
    json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": base64(&keyring), "signedIdentity": identity})
}

/// skopeo, which copies the image only if the policy lets it.
fn copying(oracle: &Oracle, case: &Case) -> (String, Vec<String>) {
    let place = oracle.directory.path();
    if !case.policy.is_null() {
        file(place, &format!("{}.policy", case.name), case.policy.to_string());
    }
    let (libraries, name) = (&oracle.libraries, case.name);
    let line = format!(
        "LD_LIBRARY_PATH={libraries} skopeo --policy {name}.policy --registries.d registries.d copy \
         --src-tls-verify=false docker://{HOST}/{name}:v1 dir:copy-{name}"
    );
    named(case.name, line)
}

#[test]
fn skopeo_says_the_same_of_what_gnupg_signed() {
    let Some(oracle) = Oracle::new() else { return };
    let store = Store::new(&oracle.registry());
    let mut cases: Vec<(Message, Case)> = messages()
        .into_iter()
        .map(|one| (one.name, one.expected, one))
        .map(|(name, expected, one)| (one, Case::new(name, expected)))
        .collect();
    made(&oracle, &cases);
    let identity = json!({"type": "matchRepoDigestOrExact"});
    let signature =
        |name: &str| fs::read(oracle.directory.path().join(format!("{name}.sig"))).expect("a signature");
    for (message, case) in &mut cases {
        case.policy = on_host(json!([requirement(&oracle, message.keys.0, &message.identity)]));
        case.attached = vec![Attached::OpenPgp(signature(message.name))];
    }
    let mut all: Vec<Case> = cases.into_iter().map(|(_, case)| case).collect();
    let by = |name| requirement(&oracle, name, &identity);
    all.push(Case::new("gpg-unsigned", Err("no signature of this kind")).requires(json!([by("alice")])));
    let malformed = json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": "AAAA"});
    all.push(Case::new("gpg-policy-malformed", Err("no keyring")).requires(json!([malformed])));
    all.push(Case::new("gpg-policy-missing", Err("no policy")).policy(Value::Null));
    let place = oracle.directory.path();
    fs::create_dir_all(place.join("registries.d")).expect("a directory");
    let settings = format!(
        "default-docker:\n  lookaside: file://{0}/lookaside\n  sigstore: file://{0}/lookaside\n",
        place.display()
    );
    file(&place.join("registries.d"), "default.yaml", settings);
    for case in &mut all {
        if case.name == "gpg-manifest-list" {
            case.index = Some(index(&case.manifest));
        }
        let manifests: Vec<&[u8]> = case.index.iter().chain([&case.manifest]).map(Vec::as_slice).collect();
        store.put(case.name, &manifests, &case.digest(), &Evidence::default());
        store.tag(case.name, "v1", case.signed());
        for attached in &case.attached {
            let Attached::OpenPgp(bytes) = attached else { continue };
            let beside =
                place.join("lookaside").join(format!("{}@sha256={}", case.name, case.digest().hex()));
            fs::create_dir_all(&beside).expect("a directory");
            file(&beside, "signature-1", bytes);
        }
    }
    // Keys were made a moment ago.
    let now = World::new().now;
    let said = oracle.run(&all.iter().map(|case| copying(&oracle, case)).collect::<Vec<_>>());
    let mut faults: Vec<String> = all.iter().filter_map(|case| case.fault(now)).collect();
    faults.extend(all.iter().filter_map(|case| {
        let theirs = &said[case.name];
        (theirs.well != case.expected.is_ok())
            .then(|| format!("{}: skopeo says {:?}", case.name, theirs.last))
    }));
    let short =
        Case::new("gpg-k-of-n-short", Err("1 of 2 different signers")).requires_two(by("alice"), by("bob"));
    let mut short = short;
    short.image = format!("{HOST}/gpg-good:v1");
    short.manifest.clone_from(&all[0].manifest);
    short.attached.clone_from(&all[0].attached);
    faults.extend(short.fault(now));
    println!("skopeo was asked about {} images", all.len());
    settle(faults);
}

#[test]
fn gnupg_lists_every_form_of_a_revoked_key_as_revoked() {
    let Some(oracle) = Oracle::new() else { return };
    made(&oracle, &[]);
    let list = |name: &str| {
        let line = format!(
            "mkdir -m 700 of-{name}; gpg --homedir of-{name} --batch --quiet --import {name}.gpg; \
             gpg --homedir of-{name} --with-colons --list-keys | grep ^pub | cut -d: -f2"
        );
        named(name, line)
    };
    let forms = ["revoked-in-blocks", "revoked-behind-subkey", "revoked-in-a-copy"];
    let said =
        oracle.run(&forms.iter().chain([&"revoked-before"]).map(|name| list(name)).collect::<Vec<_>>());
    for name in forms {
        assert_eq!(said[name].last, "r", "{name}");
    }
    assert_ne!(said["revoked-before"].last, "r");
}

#[test]
fn a_keys_own_word_that_cannot_be_judged_still_narrows_it() {
    let Some(oracle) = Oracle::new() else { return };
    let identity = json!({"type": "matchRepository"});
    let of = |name, key, reason| (message(name, (key, key), Err(reason)), Case::new(name, Err(reason)));
    let cases = vec![
        of("gpg-noted", "noted", "cannot be judged"),
        of("gpg-renamed", "renamed", "none of its user ids"),
    ];
    made(&oracle, &cases);
    let place = oracle.directory.path();
    let faults = cases.into_iter().filter_map(|(message, mut case)| {
        case.policy = on_host(json!([requirement(&oracle, message.keys.0, &identity)]));
        let signature = fs::read(place.join(format!("{}.sig", message.name))).expect("a signature");
        case.attached = vec![Attached::OpenPgp(signature)];
        case.fault(World::new().now)
    });
    settle(faults.collect());
}

struct In<'a>(&'a Path);

impl KeyFiles for In<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        fs::read(self.0.join(path)).map_err(|error| error.to_string())
    }
}

#[test]
fn a_key_that_one_of_two_keyrings_revokes_is_revoked() {
    let Some(oracle) = Oracle::new() else { return };
    let one = message("gpg-two-keyrings", ("revoked", "revoked"), Err("it is revoked"));
    let mut case = Case::new(one.name, one.expected);
    let place = oracle.directory.path();
    made(&oracle, &[(one, Case::new(case.name, case.expected))]);
    case.attached =
        vec![Attached::OpenPgp(fs::read(place.join("gpg-two-keyrings.sig")).expect("a signature"))];
    let decision = |paths: &[&str]| {
        let identity = json!({"type": "matchRepository"});
        let requirement =
            json!({"type": "signedBy", "keyType": "GPGKeys", "keyPaths": paths, "signedIdentity": identity});
        let text = json!({"default": [requirement]}).to_string();
        let policy = Policy::parse(text.as_bytes(), &In(place)).expect("a policy");
        let name = case.image.parse().expect("a reference");
        let subject = Subject::of_manifest(name, case.manifest.clone()).expect("an image");
        judge(&policy, subject, &case.evidence(), World::new().now).decision()
    };
    assert_eq!(decision(&["revoked-before.gpg", "alice.gpg"]), Decision::Admitted);
    assert_eq!(decision(&["revoked-before.gpg", "revoked.gpg"]), Decision::Refused);
    assert_eq!(decision(&["revoked-before.gpg", "revoked-in-blocks.gpg"]), Decision::Refused);
}

#[test]
fn a_message_with_any_changed_byte_is_refused_and_a_key_that_does_not_sign_admits_nobody() {
    let Some(oracle) = Oracle::new() else { return };
    let good = Message { options: "-z 0", ..message("gpg-changed", ("alice", "alice"), Ok("OpenPGP ")) };
    let mut case = Case::new(good.name, good.expected);
    let other = Case::new(good.name, good.expected);
    made(&oracle, &[(good, other)]);
    let identity = json!({"type": "matchRepository"});
    case.policy = on_host(json!([requirement(&oracle, "alice", &identity)]));
    let bytes = fs::read(oracle.directory.path().join("gpg-changed.sig")).expect("a signature");
    let now = World::new().now;
    let mut admitted = |bytes: Vec<u8>| {
        case.attached = vec![Attached::OpenPgp(bytes)];
        case.fault(now).is_none()
    };
    assert!(admitted(bytes.clone()));
    let cut: Vec<usize> = (0..bytes.len()).filter(|length| admitted(bytes[..*length].to_vec())).collect();
    assert_eq!(cut, Vec::<usize>::new());
    let let_through: Vec<usize> = (0..bytes.len())
        .step_by(3)
        .filter(|at| {
            let mut changed = bytes.clone();
            changed[*at] ^= 1;
            admitted(changed)
        })
        .collect();
    println!("{let_through:?} of {} bytes are signed by nobody", bytes.len());
    assert!(let_through.len() < 20, "{let_through:?}");
    case.policy = on_host(json!([requirement(&oracle, "certifier", &identity)]));
    case.attached = vec![Attached::OpenPgp(bytes)];
    let fault = case.fault(now).expect("refused");
    assert!(fault.contains("signature: expected"), "{fault}");
}
