//! The verifier's own authority, and operators that show its certificates or their provider's tokens.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::Router;
use axum::routing::get as on_get;
use base64ct::{Base64UrlUnpadded, Encoding};
use coffer_attestation::time::UnixTime;
use coffer_verifier::authority::Authority;
use coffer_verifier::serve::{Certificates, Limits, Listening, serve};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::running::{Answer, Ask, Place, client};
use crate::{is, kind, place, until};

const AUDIT: Ask<'_> = Ask { line: "GET /coffer/v1/audit", header: None, body: b"" };
const DAY: u64 = 86_400;

/// Changes the configuration as a whole.
pub(crate) fn reconfigure(place: &Place, change: impl FnOnce(String) -> String) {
    let file = place.file("verifier.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, change(text)).expect("written");
}

/// A place whose verifier signs for itself.
fn own_place() -> Place {
    let place = place("");
    let table = format!(
        "[own-authority]\ndirectory = {:?}\nnames = [\"localhost\"]\n",
        place.file("authority").display().to_string()
    );
    reconfigure(&place, |text| {
        let kept = text.lines().filter(|line| !line.starts_with("tls-"));
        kept.map(|line| format!("{line}\n")).collect::<String>() + &table
    });
    place
}

/// Does something beside serving.
pub(crate) fn tend(place: &Place, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-verifier"));
    command.arg("--config").arg(place.file("verifier.toml")).args(arguments);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn believed(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).expect("a certificate")
}

/// Has a certificate signed. Answers a client that shows it, and its serial number.
fn issued(
    place: &Place,
    authority: &CertificateDer<'static>,
    name: &str,
    to: &Path,
) -> (Arc<ClientConfig>, String) {
    std::fs::create_dir_all(to).expect("a folder");
    let output = tend(place, &["issue", name, "--output", &to.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let serial = said.split([' ', ',']).nth(1).expect("a serial number").to_owned();
    let file = |kind: &str| std::fs::read(to.join(format!("{name}.{kind}"))).expect("a file");
    let key = PrivateKeyDer::from_pem_slice(&file("key")).expect("a key");
    (client([authority.clone()].iter(), Some((believed(&file("pem")), key))), serial)
}

#[test]
fn the_verifiers_own_authority_signs_for_it_and_for_operators_who_can_be_revoked() {
    let place = own_place();
    let authority = believed(&tend(&place, &["authority"]).stdout);
    let service = place.start();
    let (alice, serial) = issued(&place, &authority, "alice", &place.file("first"));
    let (oscar, _) = issued(&place, &authority, "oscar", &place.file("first"));
    let bundle = Ask { line: "GET /.well-known/coffer-authority.pem", header: None, body: b"" };
    let answer = service.ask_with(&alice, &bundle);
    assert_eq!(believed(answer.body.as_str().expect("PEM").as_bytes()), authority);
    assert_eq!(service.ask_with(&alice, &AUDIT).status, 200);
    let revoke = |kind: &str, name: &str| {
        let body = json!({ "kind": kind, "name": name }).to_string();
        let ask = Ask { line: "POST /coffer/v1/revocations", header: None, body: body.as_bytes() };
        assert_eq!(service.ask_with(&oscar, &ask).status, 200);
    };
    revoke("certificate", &serial);
    let refused: Answer = service.ask_with(&alice, &AUDIT);
    assert_eq!(kind(&refused), is(403, "Revoked"));
    let (again, _) = issued(&place, &authority, "alice", &place.file("second"));
    assert_eq!(service.ask_with(&again, &AUDIT).status, 200);
    revoke("operator", "alice");
    assert_eq!(kind(&service.ask_with(&again, &AUDIT)), is(403, "Revoked"));
}

#[test]
fn a_verifier_that_died_while_it_made_its_key_makes_one_at_the_next_start() {
    let place = own_place();
    let mut command = Command::new("sh");
    // The first byte that it writes to a file ends it, as a loss of power would.
    command.args([
        "-c",
        "ulimit -c 0; ulimit -f 0; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_coffer-verifier"),
    ]);
    let died = command.arg("--config").arg(place.file("verifier.toml")).arg("authority").output();
    assert!(!died.expect("a shell").status.success());
    assert!(place.file("authority").is_dir(), "it came as far as its key");
    let authority = tend(&place, &["authority"]).stdout;
    assert_eq!(authority, tend(&place, &["authority"]).stdout);
}

#[test]
fn a_certificate_of_another_authority_is_turned_away() {
    let place = own_place();
    let authority = believed(&tend(&place, &["authority"]).stdout);
    let service = place.start();
    let other = own_place();
    tend(&other, &["authority"]);
    let (foreign, _) = issued(&other, &authority, "alice", &other.file("foreign"));
    // TLS 1.3 tells a client after its own part is done: the answer does not come.
    let Ok(mut asked) = service.tls(&foreign) else { return };
    let _ = asked.write_all(b"GET /coffer/v1/audit HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut answer = Vec::new();
    assert!(asked.read_to_end(&mut answer).is_err() && answer.is_empty());
}

/// One client asks on one connection, again and again, while the clock that the certificates know passes two thirds of a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_after_two_thirds_of_its_time_and_no_connection_notices() {
    let folder = tempfile::tempdir().expect("a folder");
    let now: UnixTime = SystemTime::now().into();
    let authority = Arc::new(Authority::open(folder.path(), now).expect("an authority"));
    let root = believed(authority.pem().as_bytes());
    let names = vec!["localhost".to_owned()];
    let certificates = Arc::new(Certificates::own(authority, names, DAY, now).expect("a certificate"));
    let tls = Arc::new(certificates.config(None).expect("TLS"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/", on_get(|| async { "well" }));
    let (limits, clock) = (Limits::default(), Arc::new(|| SystemTime::now().into()));
    let listening = Listening { listener, tls, router, limits, oidc: None, clock };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listening, async { drop(ended.await) }));
    let seen = tokio::task::spawn_blocking(move || {
        let mut old = connect(address, &root, now);
        let mut shown = vec![certificate(&old)];
        for hour in 1..=40 {
            let at = UnixTime(now.0 + hour * 3600);
            let renewed = certificates.renew(at).expect("renewed");
            assert_eq!(renewed, hour == 16 || hour == 32, "hour {hour}");
            assert!(ask(&mut old).starts_with("HTTP/1.1 200"));
            if renewed {
                // The old connection stays; the next one sees another certificate.
                shown.push(certificate(&connect(address, &root, at)));
            }
        }
        shown
    });
    let mut seen = seen.await.expect("no thread died");
    seen.dedup();
    assert_eq!(seen.len(), 3);
    let _ = end.send(());
    serving.await.expect("ended");
}

type Tls = StreamOwned<ClientConnection, std::net::TcpStream>;

/// What time it is, for a client.
#[derive(Debug)]
struct Clock(UnixTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.0.0)))
    }
}

fn connect(address: std::net::SocketAddr, root: &CertificateDer<'static>, at: UnixTime) -> Tls {
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    let name = "localhost".try_into().expect("a name");
    let mut config = ClientConfig::clone(&client([root.clone()].iter(), None));
    config.time_provider = Arc::new(Clock(at));
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    connection.complete_io(&mut stream).expect("TLS");
    StreamOwned::new(connection, stream)
}

fn certificate(tls: &Tls) -> Vec<u8> {
    tls.conn.peer_certificates().and_then(|all| all.first()).expect("a certificate").to_vec()
}

fn ask(tls: &mut Tls) -> String {
    tls.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut answer = [0; 512];
    let mut length = 0;
    while !answer[..length].ends_with(b"well") {
        let read = tls.read(&mut answer[length..]).expect("an answer");
        assert!(read > 0, "the connection was closed");
        length += read;
    }
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// A key of the operators' identity provider.
struct ProvidersKey {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl ProvidersKey {
    fn new(id: &'static str) -> Self {
        Self { id, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key") }
    }

    /// Makes it the only key that the provider has.
    fn publish(&self, place: &Place) {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(Base64UrlUnpadded::encode_string);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "x": x, "y": y });
        std::fs::write(place.file("keys.new"), json!({ "keys": [jwk] }).to_string()).expect("written");
        std::fs::rename(place.file("keys.new"), place.file("keys.json")).expect("renamed");
    }

    /// A header with a token.
    fn token(&self, group: &str, expires: u64) -> String {
        let text = |json: &Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
        let claims = json!({
            "iss": "https://idp.example", "aud": "coffer", "sub": "ada", "exp": expires, "roles": [group],
        });
        let part = format!("{}.{}", text(&json!({ "alg": "ES256", "kid": self.id })), text(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), part.as_bytes()).expect("a signature");
        format!("authorization: Bearer {part}.{}", Base64UrlUnpadded::encode_string(signature.as_ref()))
    }
}

/// The table of the configuration that names the provider.
fn provider(place: &Place) -> String {
    format!(
        "[oidc]\nissuer = \"https://idp.example\"\naudience = \"coffer\"\nkeys = {:?}\n\
         [[oidc.group]]\nname = \"auditors\"\nrole = \"auditor\"\ntenants = [\"*\"]\n",
        place.file("keys.json").display().to_string()
    )
}

#[test]
fn a_new_key_of_the_operators_provider_is_read_when_a_token_names_it() {
    let (place, old, new) = (place(""), ProvidersKey::new("old"), ProvidersKey::new("new"));
    old.publish(&place);
    reconfigure(&place, |text| text + &provider(&place));
    let service = place.start();
    let expires = UnixTime::from(SystemTime::now()).0 + 3600;
    let ask = |key: &ProvidersKey| {
        let token = key.token("auditors", expires);
        service.ask(&place, &Ask { header: Some(&token), ..AUDIT })
    };
    assert_eq!(ask(&old).status, 200);
    new.publish(&place);
    let refused = ask(&new);
    assert_eq!(kind(&refused), is(401, "Unauthenticated"));
    assert!(refused.body["detail"].to_string().contains("no key"), "{}", refused.body);
    // Its keys are read every ten minutes otherwise.
    until(|| ask(&new).status == 200);
    assert_eq!(ask(&old).status, 401);
}

#[test]
fn no_token_is_taken_when_the_provider_has_not_said_for_too_long_which_keys_it_has() {
    let (place, key) = (place(""), ProvidersKey::new("1"));
    let table = provider(&place).replacen("[oidc]\n", "[oidc]\nkeys-hours = 1\n", 1);
    reconfigure(&place, |text| text + &table);
    // There never were any.
    let service = place.start();
    let token = key.token("auditors", UnixTime::from(SystemTime::now()).0 + 3600);
    let answer = service.ask(&place, &Ask { header: Some(&token), ..AUDIT });
    assert_eq!(kind(&answer), is(503, "Unavailable"));
    assert!(answer.body["detail"].to_string().contains("identity provider"), "{}", answer.body);
}

#[test]
fn a_token_of_the_operators_provider_is_worth_what_its_groups_are() {
    let (place, key) = (place(""), ProvidersKey::new("1"));
    key.publish(&place);
    reconfigure(&place, |text| text + &provider(&place));
    let service = place.start();
    let now = UnixTime::from(SystemTime::now()).0;
    let token = |group: &str, expires: u64| key.token(group, expires);
    let ask = |header: &str, line: &str| {
        kind(&service.ask(&place, &Ask { line, header: Some(header), body: b"{}" }))
    };
    let auditor = token("auditors", now + 3600);
    assert_eq!(ask(&auditor, "GET /coffer/v1/audit"), is(200, "none"));
    assert_eq!(ask(&auditor, "POST /coffer/v1/revocations"), is(400, "Malformed"));
    assert_eq!(ask(&auditor, "DELETE /kbs/v0/resource/acme/key/1"), is(403, "PolicyDeny"));
    assert_eq!(ask(&token("others", now + 3600), "GET /coffer/v1/audit"), is(401, "Unauthenticated"));
    assert_eq!(ask(&token("auditors", now - 3600), "GET /coffer/v1/audit"), is(401, "Unauthenticated"));
    let body = json!({ "kind": "operator", "name": "oidc:ada" }).to_string();
    let revoke = Ask { line: "POST /coffer/v1/revocations", header: None, body: body.as_bytes() };
    assert_eq!(service.ask_as(&place, "oscar", &revoke).status, 200);
    assert_eq!(ask(&auditor, "GET /coffer/v1/audit"), is(403, "Revoked"));
}

#[test]
fn a_collector_of_traces_that_is_away_costs_no_request() {
    let place = place("");
    let table = format!(
        "[traces]\ncollector = \"https://localhost:1\"\nauthorities = {:?}\n",
        place.file("tls.pem").display().to_string()
    );
    reconfigure(&place, |text| text + &table);
    let service = place.start();
    for _ in 0..3 {
        assert_eq!(service.ask_as(&place, "audrey", &AUDIT).status, 200);
    }
    service.signal(Signal::TERM);
    assert_eq!(service.wait(), Some(0));
}
