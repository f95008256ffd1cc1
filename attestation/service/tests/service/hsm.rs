//! The key-encryption key in a token: SoftHSM as Debian has it, in the service's own process.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coffer_tests::packages::{Unpacked, unpacked};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::Signal;

use crate::running::{Ask, Place, Service};
use crate::{KEY, admitted, get, is, keep, kind, opened, order, place, until};

const PIN: &str = "2468";
const OTHER: &str = "/kbs/v0/resource/umbrella/key/1";

/// A folder with a token.
pub(crate) struct Token {
    folder: tempfile::TempDir,
    module: PathBuf,
}

/// A token with a key named `one`, and a place whose service can use it; or says why the test is skipped.
pub(crate) fn token(test: &str) -> Option<(Place, Token)> {
    let [library, program] = match [Unpacked::SoftHsm, Unpacked::SoftHsmUtil].map(unpacked) {
        [Ok(library), Ok(program)] => [library, program],
        [Err(error), _] | [_, Err(error)] => {
            // Past the runner, which keeps what a test that passes prints.
            let _ = writeln!(std::io::stderr(), "skipped: {test}: no SoftHSM: {error:#}");
            return None;
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let module = library.join("usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so");
    let token = Token { folder, module };
    std::fs::create_dir(token.file("tokens")).expect("a folder");
    let config = format!("directories.tokendir = {}\n", token.file("tokens").display());
    std::fs::write(token.file("softhsm2.conf"), config).expect("written");
    std::fs::write(token.file("pin"), format!("{PIN}\n")).expect("written");
    let made = Command::new(program.join("usr/bin/softhsm2-util"))
        .env("SOFTHSM2_CONF", token.file("softhsm2.conf"))
        .args(["--init-token", "--free", "--label", "coffer", "--pin", PIN, "--so-pin", "13579", "--module"])
        .arg(&token.module)
        .stdout(Stdio::null())
        .status();
    assert!(made.expect("softhsm2-util runs").success());
    let place = token.place();
    token.make(&place, "one");
    place.use_keys(&[token.key("one")]);
    Some((place, token))
}

impl Token {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A place whose service finds the token.
    pub(crate) fn place(&self) -> Place {
        place("").with_variable("SOFTHSM2_CONF", self.file("softhsm2.conf"))
    }

    /// The address of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        self.address("coffer", name, &self.module)
    }

    fn address(&self, token: &str, key: &str, module: &Path) -> String {
        let pin = self.file("pin");
        let (module, pin) = (module.display(), pin.display());
        format!("pkcs11:token={token};object={key}?module-path={module}&pin-source=file:{pin}")
    }

    /// Has the verifier make a key in the token.
    fn make(&self, place: &Place, name: &str) {
        let made = place.command().arg("make-key").arg(self.key(name)).output().expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Takes the locks of all of its files, which the module waits for without an end.
    fn hang(&self) -> Vec<File> {
        let tokens = std::fs::read_dir(self.file("tokens")).expect("tokens");
        let files =
            tokens.flat_map(|token| std::fs::read_dir(token.expect("a token").path()).expect("files"));
        let files = files.map(|file| {
            let file = File::options().read(true).write(true).open(file.expect("a file").path());
            let file = file.expect("a file");
            fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("a lock");
            file
        });
        files.collect()
    }
}

fn read_again(place: &Place, service: &Service, keys: &[String]) {
    let log = service.log();
    let read = || log.lock().expect("a log").matches("key-encryption keys were").count();
    let before = read();
    place.use_keys(keys);
    service.signal(Signal::HUP);
    until(|| read() > before);
    assert!(!log.lock().expect("a log").contains("stay as they were"), "{}", log.lock().expect("a log"));
}

fn secret(service: &Service, place: &Place, path: &str) -> Vec<u8> {
    let (guest, token) = admitted(service, place);
    opened(&guest, get(service, place, path, Some(&token)))
}

fn key_files(place: &Place) -> Vec<String> {
    vec![place.file("kek1").display().to_string()]
}

#[test]
fn a_key_goes_from_a_file_into_a_token_to_another_key_there_and_back() {
    let Some((place, token)) = token("a_key_goes_from_a_file_into_a_token_to_another_key_there_and_back")
    else {
        return;
    };
    token.make(&place, "two");
    let (file, one, two) = (key_files(&place), token.key("one"), token.key("two"));
    place.use_keys(&file);
    let service = place.start();
    keep(&service, &place, "a secret");
    for (newer, older) in [(&one, &file[0]), (&two, &one), (&file[0], &two)] {
        read_again(&place, &service, &[newer.clone(), older.clone()]);
        assert_eq!(secret(&service, &place, KEY), b"a secret");
        read_again(&place, &service, std::slice::from_ref(newer));
        assert_eq!(secret(&service, &place, KEY), b"a secret");
    }
    drop(service);
    // Nothing of the token is left: the file alone opens everything.
    place.use_keys(&file);
    assert_eq!(secret(&place.start(), &place, KEY), b"a secret");
}

#[test]
fn a_service_with_its_key_in_a_token_keeps_its_secrets_over_an_end() {
    let Some((place, _token)) = token("a_service_with_its_key_in_a_token_keeps_its_secrets_over_an_end")
    else {
        return;
    };
    let service = place.start();
    keep(&service, &place, "correct horse battery staple");
    drop(service);
    let bytes = std::fs::read(place.file("store")).expect("the store");
    assert!(!bytes.windows(13).any(|window| window == b"horse battery"));
    assert_eq!(secret(&place.start(), &place, KEY), b"correct horse battery staple");
    place.use_keys(&key_files(&place));
    let service = place.start();
    let (_, token) = admitted(&service, &place);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(503, "Unavailable"));
}

#[test]
fn a_token_that_hangs_holds_up_nobody_whose_key_is_known() {
    let Some((place, token)) = token("a_token_that_hangs_holds_up_nobody_whose_key_is_known") else {
        return;
    };
    let place = place.with_tables("[hsm]\npatience-milliseconds = 500");
    place.use_keys(&[token.key("one")]);
    let service = place.start();
    keep(&service, &place, "a secret");
    assert_eq!(secret(&service, &place, KEY), b"a secret");
    let held = token.hang();
    let put = |secret: &str| order(&service, &place, "alice", &format!("POST {OTHER}"), secret);
    assert_eq!(kind(&put("another")), is(503, "Unavailable"));
    // The token is known to hang now: nobody waits for it any more.
    let began = Instant::now();
    let answer = put("another");
    assert_eq!(kind(&answer), is(503, "Unavailable"));
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("token")), "{}", answer.body);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(secret(&service, &place, KEY), b"a secret");
    drop(held);
    until(|| put("another").status == 200);
}

#[test]
fn a_token_that_is_taken_out_is_found_again_when_it_is_back() {
    let Some((place, token)) = token("a_token_that_is_taken_out_is_found_again_when_it_is_back") else {
        return;
    };
    let service = place.start();
    keep(&service, &place, "a secret");
    // Each of another tenant, whose key is to be wrapped.
    let tenants = Cell::new(0);
    let put = || {
        tenants.set(tenants.get() + 1);
        order(&service, &place, "alice", &format!("POST /kbs/v0/resource/tenant{}/key/1", tenants.get()), "x")
    };
    std::fs::rename(token.file("tokens"), token.file("away")).expect("moved");
    until(|| kind(&put()) == is(503, "Unavailable"));
    assert_eq!(secret(&service, &place, KEY), b"a secret");
    std::fs::rename(token.file("away"), token.file("tokens")).expect("moved back");
    until(|| put().status == 200);
}

#[test]
fn what_is_wrong_with_a_token_is_said_with_what_to_do() {
    let Some((place, token)) = token("what_is_wrong_with_a_token_is_said_with_what_to_do") else {
        return;
    };
    let says = |key: String, expected: &[&str]| {
        place.use_keys(&[key]);
        let said = place.refused();
        assert!(expected.iter().all(|part| said.contains(part)), "{expected:?}: {said}");
    };
    let missing = Path::new("/nowhere/module.so");
    says(
        token.address("coffer", "one", missing),
        &["/nowhere/module.so", "install it or correct module-path"],
    );
    let other = token.address("other", "one", &token.module);
    says(other, &["token=\"other\"", "token=\"coffer\" serial=", "correct token, serial or slot-id"]);
    let absent = token.address("coffer", "none", &token.module);
    says(absent, &["object=\"none\"", "there are 0", "make-key"]);
    says(token.key("one").replace("/pin", "/nopin"), &["nopin", "No such file"]);
    says(
        token.key("one").replace("pin-source=", "pin-value="),
        &["a PIN does not belong into the configuration"],
    );
    std::fs::write(token.file("pin"), "1111").expect("written");
    says(
        token.key("one"),
        &["refuses the PIN", "C_Login answers PinIncorrect", "correct the file and send SIGHUP"],
    );
    std::fs::write(token.file("pin"), PIN).expect("written");
    let twice = place.command().arg("make-key").arg(token.key("one")).output().expect("it runs");
    assert!(String::from_utf8_lossy(&twice.stderr).contains("already; give the new one another name"));
    let both = [token.key("one"), token.key("one")];
    place.use_keys(&both);
    assert!(place.refused().contains("have the same names"), "two keys of one name");
}

#[test]
fn a_key_that_is_too_short_is_refused() {
    let Some((place, token)) = token("a_key_that_is_too_short_is_refused") else {
        return;
    };
    let program = unpacked(Unpacked::SoftHsmUtil).expect("it was there").join("usr/bin/softhsm2-util");
    std::fs::write(token.file("aes"), [7; 16]).expect("written");
    let imported = Command::new(program)
        .env("SOFTHSM2_CONF", token.file("softhsm2.conf"))
        .args(["--import", &token.file("aes").display().to_string(), "--aes", "--token", "coffer"])
        .args(["--label", "short", "--id", "0a", "--pin", PIN, "--module"])
        .arg(&token.module)
        .stdout(Stdio::null())
        .status();
    assert!(imported.expect("softhsm2-util runs").success());
    place.use_keys(&[token.key("short")]);
    let said = place.refused();
    assert!(said.contains("is none of 256 bits"), "{said}");
}

#[test]
fn a_release_without_its_key_is_written_down_as_refused() {
    let Some((place, token)) = token("a_release_without_its_key_is_written_down_as_refused") else {
        return;
    };
    let place = place.with_tables("[hsm]\npatience-milliseconds = 500\ndata-key-seconds = 0");
    place.use_keys(&[token.key("one")]);
    let service = place.start();
    keep(&service, &place, "a secret");
    let (_, header) = admitted(&service, &place);
    let held = token.hang();
    assert_eq!(kind(&get(&service, &place, KEY, Some(&header))), is(503, "Unavailable"));
    let asked = Ask { line: "GET /coffer/v1/audit?event=release", header: None, body: b"" };
    let entries = service.ask_as(&place, "audrey", &asked).body["entries"].to_string();
    assert!(entries.contains("the token that holds the keys does not answer now"), "{entries}");
    drop(held);
}
