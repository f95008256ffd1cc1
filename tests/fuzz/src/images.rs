//! What a guest reads of an image before it runs: manifests, signature objects and policies, all of which a host may have made.

use std::sync::LazyLock;

use base64ct::{Base64, Encoding};
use coffer_image::UnixTime;
use coffer_image::artefact::{Attached, Document, Evidence, Reference, SignatureNotes, Subject};
use coffer_image::judge::{Decision, judge};
use coffer_image::policy::{NoFiles, Policy};

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
/// The key is the curve's base point: whoever knows that can sign, and no input of a fuzzer does.
const POLICY: &str = r#"{"default":[{"type":"sigstoreSigned","keyData":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==","signedIdentity":{"type":"matchDigest"}}]}"#;
/// A key on Ed25519, made by GnuPG for this on 2026-01-01, and a message about the manifest above that it signed.
const KEYRING: &str = "mDMEaVW5ABYJKwYBBAHaRw8BAQdA8C1rExiuOhHzPqoeP4X0kxFnJAHgWwjAYiuxnL6x1Rq0EGZ1enpAZXhhbXBsZS5jb22IkAQTFggAOBYhBBLdK3Bbs9K7r0ICNySFTcHQtk2OBQJpVbkAAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJECSFTcHQtk2Of0QA/3ENHQeQXdU7i1xgIDHSHgT4qHiwkzvYcTR8K+ctDE2gAPwMjToBvXNhq+v42FitUznVVc3utNSmM3gsVRjgPoogAg==";
const SIGNED: &str = "owGbwMvMwCGm0up78MI23z7GNR+S2Ar0sorz8zJDdzJUKyUXZZZkJifmKFlVK5VUFqQqWSklluTnZiYrJOfnlSRm5qUWKRRnpucllpQWpSrpKGXmJqanghSn5Cdnpxbp5ibmZaalFpfopmSmAymg9uKMRCNTM6tES8Nkk5SUJCOzRCMj8+RESyNLI9Pk1EQDQ2ODFJNEM4tEE4M0ExNDUzNjI0tDYwsLsyRzg2TLNDOgPnOjNEulWqBlKal5JZkllUj2FaWmpRal5iWDHFqkl1qRmFuQk6qXnJ+rn1hQYFVmqFQL1JdfUJKZnwf2VG1tRykLgxgHg6yYIovQXe2C6M2Xdq93YjKHhQgrEyggGLg4BWAiK18xMuxT+8McnK/A8/bFG6uHmWFnK53n8k6eE1QicfLKzoOOH/IZGTakHZr8ZaXhF2XdQ3/S3NQXRjHOdxS6U7Cv8LfxuggeXjYA";

pub(crate) fn manifest(input: &[u8]) {
    let _ = Document::parse(input).map_err(|error| error.to_string());
}

pub(crate) fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(found) = text.parse::<Reference>() else { return };
    let again = found.to_string().parse::<Reference>();
    assert_eq!(again.as_ref(), Ok(&found), "a reference that is not its own normal form");
    assert!(found.scopes().len() < 300, "a reference with too many scopes");
}

pub(crate) fn policy(input: &[u8]) {
    let Ok(policy) = Policy::parse(input, &NoFiles) else { return };
    let name = "r.example.com/app:v1".parse::<Reference>().expect("a reference");
    assert!(!policy.rule_for(&name).explain().is_empty(), "a rule that asks for nothing");
}

/// Nobody has the key: no bundle is good.
pub(crate) fn bundle(input: &[u8]) {
    refused(Attached::Bundle(input.to_vec()));
}

/// The same for cosign's older scheme: payload and annotations, with a zero between them.
pub(crate) fn payload(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0);
    let mut text = || parts.next().map(|part| String::from_utf8_lossy(part).into_owned());
    let payload = text().unwrap_or_default().into_bytes();
    let notes = SignatureNotes {
        signature: text().unwrap_or_default(),
        certificate: text(),
        log: text(),
        timestamp: text(),
    };
    refused(Attached::SimpleSigning { payload, notes: Box::new(notes) });
}

/// Notation's envelopes: the first byte says in which form. The trust store holds an authority that signs no images.
pub(crate) fn envelope(input: &[u8]) {
    let Some((form, bytes)) = input.split_first() else { return };
    let bytes = bytes.to_vec();
    let attached = if form % 2 == 0 { Attached::NotationJws(bytes) } else { Attached::NotationCose(bytes) };
    let root = include_bytes!("../../../attestation/testdata/tdx/misc/intel-sgx-root-ca.der");
    let requirement = serde_json::json!({
        "type": "notation",
        "level": "strict",
        "trustStores": [{"type": "ca", "certificateDatas": [Base64::encode_string(root)]}],
        "trustedIdentities": ["*"],
    });
    refused_by(&serde_json::json!({"default": [requirement]}).to_string(), attached);
}

/// Simple signing. The key signed itself, so that nothing but a signature is missing; its private half was thrown away when it had
/// signed [`SIGNED`], without which a refusal would say nothing.
pub(crate) fn message(input: &[u8]) {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let policy = by_keyring(&Base64::decode_vec(KEYRING).expect("a keyring"));
        let signed = Attached::OpenPgp(Base64::decode_vec(SIGNED).expect("a message"));
        assert_eq!(decision(&policy, signed), Some(Decision::Admitted), "a signature that is good");
        policy
    });
    refused_by(&POLICY, Attached::OpenPgp(input.to_vec()));
}

/// Keyrings, which a policy's author may have fetched from strangers.
pub(crate) fn keyring(input: &[u8]) {
    let Ok(policy) = Policy::parse(by_keyring(input).as_bytes(), &NoFiles) else { return };
    let name = "r.example.com/app:v1".parse::<Reference>().expect("a reference");
    assert!(
        policy.rule_for(&name).explain().iter().all(|line| line.contains("OpenPGP ")),
        "a key without a name"
    );
}

fn by_keyring(keyring: &[u8]) -> String {
    let identity = serde_json::json!({"type": "matchRepository"});
    let requirement = serde_json::json!({
        "type": "signedBy",
        "keyType": "GPGKeys",
        "keyData": Base64::encode_string(keyring),
        "signedIdentity": identity,
    });
    serde_json::json!({"default": [requirement]}).to_string()
}

fn refused(attached: Attached) {
    refused_by(POLICY, attached);
}

fn refused_by(policy: &str, attached: Attached) {
    let decision = decision(policy, attached);
    assert_ne!(decision, Some(Decision::Admitted), "a signature that nobody made");
}

/// `None`: it is more than is looked at.
fn decision(policy: &str, attached: Attached) -> Option<Decision> {
    let policy = Policy::parse(policy.as_bytes(), &NoFiles).expect("a policy");
    let name = "r.example.com/app:v1".parse().expect("a reference");
    let subject = Subject::of_manifest(name, MANIFEST.as_bytes().to_vec()).expect("an image");
    let mut evidence = Evidence::default();
    evidence.add(attached).ok()?;
    Some(judge(&policy, subject, &evidence, UnixTime(1_780_000_000)).decision())
}
