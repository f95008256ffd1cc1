//! `coffer image sign` with an identity token, beside a SIMULATED Sigstore; with our verdict and cosign's on what was signed.

// One authority, one oracle and one registry for all: some of it is for other tests.
#[allow(dead_code)]
#[path = "../../agent/image/tests/matrix/artefacts.rs"]
mod artefacts;
#[allow(dead_code)]
#[path = "../../agent/image/tests/matrix/authority.rs"]
mod authority;
#[allow(dead_code)]
#[path = "../../agent/image/tests/matrix/oracle.rs"]
mod oracle;
#[allow(dead_code)]
#[path = "../../agent/image/tests/matrix/registry.rs"]
mod registry;
#[path = "served/request.rs"]
mod request;
#[path = "served/simulated_sigstore.rs"]
mod simulated_sigstore;

use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::SystemTime;

use base64ct::{Base64UrlUnpadded, Encoding};
use coffer_image::UnixTime;
use coffer_image::artefact::{Digest, Evidence};
use coffer_node::images::{Added, Layout};
use coffer_tests::packages::{Unpacked, unpacked};
use serde_json::{Value, json};

use artefacts::{CONFIG, INDEX_TYPE, MANIFEST_TYPE, index, manifest};
use authority::{ISSUER, base64};
use oracle::{HOST, Oracle, on_registry};
use registry::Store;
use simulated_sigstore::{Fault, Sigstore};

const MAIL: &str = "dev@example.com";
/// As an issuer would sign it, for whoever asks it.
const SEAL: &str = "c2lnbmF0dXJlLW9mLXRoZS1pc3N1ZXI";

/// A directory with an image, a token, and all that a signer and a verifier need.
struct Place {
    root: tempfile::TempDir,
    sigstore: Sigstore,
}

impl Place {
    fn new(fault: Fault) -> Self {
        let (root, sigstore) = (tempfile::tempdir().expect("a directory"), Sigstore::new(fault));
        let place = Self { root, sigstore };
        let image = Added {
            manifest: manifest("app"),
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: None,
            blobs: vec![CONFIG.to_vec()],
            name: Some("v1".to_owned()),
        };
        Layout::create(&place.path().join("image"))
            .and_then(|layout| layout.put(&image))
            .expect("a directory");
        let trusted = place.sigstore.authority.trusted_root(&[]);
        place.write("ca.pem", &place.sigstore.tls);
        place.write("root.json", &trusted.to_string());
        place.write("token", &token(|_| {}));
        for (name, subject) in [("dev", MAIL), ("eve", "eve@example.com")] {
            place.write(&format!("{name}.json"), &policy(&trusted, subject).to_string());
        }
        place
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file");
    }

    fn coffer(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.arg("image").args(line.split(' ')).current_dir(self.path()).env_remove("SIGSTORE_ID_TOKEN");
        command.output().expect("a run")
    }

    /// The services, with Rekor of `version`.
    fn services(&self, version: u8) -> String {
        let at = &self.sigstore.address;
        format!("--ca ca.pem --fulcio {at} --rekor {at} --rekor-version {version} --tsa {at}/clock")
    }

    fn sign(&self, version: u8, more: &str) -> Output {
        self.coffer(&format!(
            "sign image --reference v1 --identity-token token {}{more}",
            self.services(version)
        ))
    }

    /// How many objects the directory has, the image among them.
    fn objects(&self) -> usize {
        Layout::open(&self.path().join("image")).expect("a directory").all().expect("readable").len()
    }

    /// The error of a signature that must not come to be, and nothing attached.
    fn refused(&self, version: u8, more: &str) -> String {
        let output = self.sign(version, more);
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), self.objects()), (Some(1), 1), "{error}");
        assert!(!error.contains(SEAL), "the token is shown: {error}");
        error
    }

    fn verdicts(&self) -> [Option<i32>; 2] {
        ["dev", "eve"].map(|policy| {
            let line =
                format!("verify image --reference v1 --name example.com/app:v1 --policy {policy}.json");
            self.coffer(&line).status.code()
        })
    }
}

fn token(change: impl FnOnce(&mut Value)) -> String {
    let now = UnixTime::from(SystemTime::now()).0;
    let mut claims = json!({
        "iss": ISSUER, "sub": "17", "aud": "sigstore", "exp": now + 300, "email": MAIL, "email_verified": true,
    });
    change(&mut claims);
    format!(
        "eyJhbGciOiJFUzI1NiJ9.{}.{SEAL}\n",
        Base64UrlUnpadded::encode_string(claims.to_string().as_bytes())
    )
}

fn policy(root: &Value, subject: &str) -> Value {
    json!({"default": [{
        "type": "keyless",
        "identities": [{"issuer": ISSUER, "subject": subject}],
        "trustedRootData": base64(root.to_string().as_bytes()),
        "signedIdentity": {"type": "matchDigest"},
    }]})
}

fn well(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn what_is_signed_is_verified_as_its_holders_and_as_nobody_elses_in_the_first_log() {
    let place = Place::new(Fault::None);
    let said = well(&place.sign(1, " --trusted-root root.json"));
    assert!(said.contains(&format!("as {MAIL} of {ISSUER}")), "{said}");
    assert_eq!(place.verdicts(), [Some(0), Some(3)]);
    let asked = ["POST /api/v2/signingCert", "POST /clock", "POST /api/v1/log/entries"];
    assert_eq!(place.sigstore.heard(), asked);
}

#[test]
fn what_is_signed_is_verified_as_its_holders_and_as_nobody_elses_in_the_second_log() {
    let place = Place::new(Fault::None);
    well(&place.sign(2, " --trusted-root root.json"));
    assert_eq!(place.verdicts(), [Some(0), Some(3)]);
}

#[test]
fn the_first_log_needs_no_clock_and_no_trusted_root() {
    let place = Place::new(Fault::None);
    let at = &place.sigstore.address;
    let line =
        format!("sign image --reference v1 --identity-token token --ca ca.pem --fulcio {at} --rekor {at}");
    well(&place.coffer(&line));
    assert_eq!(place.verdicts(), [Some(0), Some(3)]);
}

#[test]
fn a_signing_configuration_says_whom_to_ask_and_the_environment_has_the_token() {
    let place = Place::new(Fault::None);
    let service = |path: &str, version: u8| {
        json!([{"url": format!("{}{path}", place.sigstore.address), "majorApiVersion": version, "operator": "simulated",
            "validFor": {"start": "2025-01-01T00:00:00Z"}}])
    };
    let config = json!({
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": service("", 1),
        "rekorTlogUrls": service("/", 2),
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaUrls": service("/clock", 1),
        "tsaConfig": {"selector": "ANY"},
    });
    place.write("signing.json", &config.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    let line =
        "image sign image --reference v1 --ca ca.pem --signing-config signing.json --trusted-root root.json";
    command.args(line.split(' ')).current_dir(place.path()).env("SIGSTORE_ID_TOKEN", token(|_| {}));
    well(&command.output().expect("a run"));
    assert_eq!(place.verdicts(), [Some(0), Some(3)]);
}

#[test]
fn a_token_comes_from_standard_input_too() {
    let place = Place::new(Fault::None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    let line = format!("image sign image --reference v1 --identity-token - --json {}", place.services(1));
    let token = fs::File::open(place.path().join("token")).expect("a token");
    let output =
        command.args(line.split(' ')).current_dir(place.path()).stdin(token).output().expect("a run");
    let said: Value = serde_json::from_str(&well(&output)).expect("JSON");
    assert_eq!((&said["identity"], &said["issuer"]), (&json!(MAIL), &json!(ISSUER)));
    assert_eq!(place.verdicts(), [Some(0), Some(3)]);
}

#[test]
fn an_index_is_signed_for_all_its_images() {
    let place = Place::new(Fault::None);
    let list = Added {
        manifest: index(&manifest("app")),
        media_type: INDEX_TYPE.to_owned(),
        artifact_type: None,
        blobs: Vec::new(),
        name: Some("all".to_owned()),
    };
    Layout::open(&place.path().join("image")).and_then(|layout| layout.put(&list)).expect("written");
    let line = format!(
        "sign image --reference all --identity-token token --trusted-root root.json {}",
        place.services(2)
    );
    well(&place.coffer(&line));
    let verify = "verify image --reference all --name example.com/app:v1 --policy dev.json";
    assert_eq!(place.coffer(verify).status.code(), Some(0));
    assert_eq!(place.verdicts()[0], Some(3), "of the image by itself nothing was signed");
}

#[test]
fn nobody_is_asked_who_was_not_named() {
    let place = Place::new(Fault::None);
    let output = place.coffer("sign image --reference v1 --identity-token token --trusted-root root.json");
    let error = String::from_utf8(output.stderr).expect("text");
    assert!(error.contains("it would publish the token's name") && error.contains("--fulcio URL"), "{error}");
    let neither = place.coffer("sign image --reference v1");
    assert!(String::from_utf8_lossy(&neither.stderr).contains("say who signs"));
    let plain = place
        .coffer("sign image --reference v1 --identity-token token --fulcio http://a.b --rekor https://a.b");
    assert!(String::from_utf8_lossy(&plain.stderr).contains("without TLS none is asked"));
    let silent = place.coffer(
        "sign image --reference v1 --identity-token token --fulcio https://a.b --rekor https://a.b --rekor-version 2",
    );
    assert!(String::from_utf8_lossy(&silent.stderr).contains("--tsa URL"));
}

#[test]
fn a_token_that_is_no_good_is_shown_to_nobody() {
    let place = Place::new(Fault::None);
    place.write("token", &token(|claims| claims["exp"] = json!(1_700_000_000)));
    assert!(place.refused(1, "").contains("expired at 2023-11-14T22:13:20Z"));
    place.write("token", &token(|claims| claims["aud"] = json!("somebody")));
    assert!(place.refused(1, "").contains("is not for \"sigstore\""));
    place.write("token", &format!("secret.{SEAL}"));
    assert!(place.refused(1, "").contains("this is no identity token"));
    place.write("token", &token(|_| {}));
    place.write("root.json", "{}");
    assert!(place.refused(1, " --trusted-root root.json").contains("root.json"));
    assert_eq!(place.sigstore.heard(), Vec::<String>::new());
}

#[test]
fn a_token_of_the_environment_that_is_no_text_is_not_shown() {
    let place = Place::new(Fault::None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    let line = format!("image sign image --reference v1 {}", place.services(1));
    let mut token = token(|_| {}).into_bytes();
    token.push(0xff);
    command
        .args(line.split(' '))
        .current_dir(place.path())
        .env("SIGSTORE_ID_TOKEN", OsString::from_vec(token));
    let output = command.output().expect("a run");
    let error = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && error.contains("SIGSTORE_ID_TOKEN"), "{error}");
    assert!(!error.contains(SEAL), "the token is shown: {error}");
    assert_eq!(place.sigstore.heard(), Vec::<String>::new());
}

#[test]
fn a_certificate_that_does_not_come_ends_it() {
    let refused = |fault: Fault| Place::new(fault).refused(1, "");
    let error = refused(Fault::TokenRefused);
    for part in
        ["Fulcio at https://127.0.0.1", "answers 403", "a certificate", "(the token)", "get a new token"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert!(refused(Fault::SentOn).contains("answers 307"));
    assert!(refused(Fault::TooLong).contains("has more than 262144 bytes"));
}

#[test]
fn a_certificate_of_something_else_is_not_signed_with() {
    let refused = |fault: Fault, why: &str| {
        let place = Place::new(fault);
        let error = place.refused(1, "");
        assert!(error.contains(why), "{error}");
        assert_eq!(place.sigstore.heard(), ["POST /api/v2/signingCert"]);
    };
    refused(Fault::AnotherKey, "it is for another key");
    refused(Fault::AnotherHolder, "it is for \"eve@example.com\"");
    refused(Fault::Unlogged, "no log of certificates has promised");
    refused(Fault::PromiseBeside, "signedCertificateEmbeddedSct");
}

#[test]
fn an_entry_that_the_log_does_not_give_or_of_something_else_is_not_attached() {
    for version in [1, 2] {
        let refused = |fault: Fault, why: &str| {
            let error = Place::new(fault).refused(version, "");
            assert!(error.contains(why), "{version}: {error}");
        };
        refused(Fault::Conflict, "answers 409 when asked for an entry of the signature: an equivalent entry");
        refused(Fault::LogBroken, "answers 503");
        refused(Fault::AnotherEntry, "the entry has another signature");
    }
}

#[test]
fn a_time_stamp_that_does_not_come_or_of_something_else_is_not_attached() {
    let refused = |fault: Fault, why: &str| {
        let place = Place::new(fault);
        let error = place.refused(2, "");
        assert!(error.contains(why), "{error}");
        // No log made it public.
        assert_eq!(place.sigstore.heard(), ["POST /api/v2/signingCert", "POST /clock"]);
    };
    refused(Fault::ClockRefuses, "answers 400 when asked for a time stamp: the clock stands");
    refused(Fault::ClockRejects, "a status other than granted");
    refused(Fault::AnotherStamp, "the time stamp is of other bytes");
}

#[test]
fn what_the_trusted_root_does_not_know_is_not_attached() {
    let refused = |fault: Fault, why: &str| {
        let error = Place::new(fault).refused(1, " --trusted-root root.json");
        assert!(error.contains("does not hold under the trusted root") && error.contains(why), "{error}");
    };
    refused(Fault::AnotherLog, "no trusted log is called");
    refused(Fault::AnotherAuthority, "certificate");
}

#[test]
fn a_certificate_may_have_a_name_that_was_said() {
    let place = Place::new(Fault::AnotherHolder);
    well(&place.sign(1, " --identity eve@example.com --trusted-root root.json"));
    assert_eq!(place.verdicts(), [Some(3), Some(0)]);
}

/// Debian's registry, as long as a test needs it.
struct Running(Child, String);

impl Running {
    fn new(oracle: &Oracle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            oracle.registry().display()
        );
        let file = oracle.directory.path().join("open.yml");
        fs::write(&file, settings).expect("a file");
        let program = unpacked(Unpacked::DockerRegistry).expect("a package").join("usr/bin/docker-registry");
        let mut command = Command::new(program);
        command.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("a registry");
        while TcpStream::connect(&address).is_err() {
            assert!(child.try_wait().expect("a child").is_none(), "the registry ended");
            std::thread::yield_now();
        }
        Self(child, address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn cosign_verifies_what_we_sign_in_a_registry_in_either_log() {
    let Some(oracle) = Oracle::new() else { return };
    let place = Place::new(Fault::None);
    let store = Store::new(&oracle.registry());
    let repositories = [("one", 1), ("two", 2)];
    for (repository, _) in repositories {
        let image = manifest(repository);
        store.put(repository, &[&image], &Digest::of(&image), &Evidence::default());
        store.tag(repository, "v1", &image);
    }
    let running = Running::new(&oracle);
    for (repository, version) in repositories {
        let image = format!("docker://{0}/{repository}:v1 --insecure-plain-http {0}", running.1);
        let services = place.services(version);
        well(
            &place
                .coffer(&format!("sign {image} --identity-token token --trusted-root root.json {services}")),
        );
        let verdict = |policy: &str| place.coffer(&format!("verify {image} --policy {policy}")).status.code();
        assert_eq!((verdict("dev.json"), verdict("eve.json")), (Some(0), Some(3)));
    }
    drop(running);
    let root = place.path().join("root.json").display().to_string();
    let asked = |repository: &str, who: &str| {
        let mut arguments = on_registry(&["cosign", "verify"], &format!("{HOST}/{repository}:v1"));
        let options =
            ["--certificate-identity", who, "--certificate-oidc-issuer", ISSUER, "--use-signed-timestamps"];
        arguments.extend(options.map(str::to_owned));
        arguments.extend(["--trusted-root".to_owned(), root.clone()]);
        (format!("{repository} {who}"), arguments)
    };
    let eve = "eve@example.com";
    let said = oracle.run(&[asked("one", MAIL), asked("one", eve), asked("two", MAIL), asked("two", eve)]);
    let verified: Vec<&str> =
        said.iter().filter(|(_, said)| said.well).map(|(name, _)| name.as_str()).collect();
    assert_eq!(verified, ["one dev@example.com", "two dev@example.com"], "{said:#?}");
}
