//! Who asks: what Docker's configuration holds for a registry, itself or through a helper's program.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64ct::{Base64, Encoding};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::attest::read_file;

/// How Docker's configuration calls its own registry.
const DOCKER: &str = "https://index.docker.io/v1/";

/// The most bytes that a credential helper may say.
const MAX_SAID: usize = 64 << 10;

/// `config.json`; without one nobody is known anywhere.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Credentials {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<Zeroizing<String>>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    identitytoken: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: Zeroizing<String>,
}

/// What to show to one registry, looked up when it asks.
pub(super) struct Holder<'a> {
    all: &'a Credentials,
    host: String,
}

impl Credentials {
    /// Reads `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
    pub(super) fn read() -> anyhow::Result<Self> {
        let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
        let Some(path) = folder.map(|folder| folder.join("config.json")).filter(|path| path.exists()) else {
            return Ok(Self::default());
        };
        let text = Zeroizing::new(read_file(&path, "Docker's configuration")?);
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Those for the registry `host`.
    pub(super) fn of(&self, host: &str) -> Holder<'_> {
        Holder { all: self, host: host.to_owned() }
    }

    fn basic(&self, host: &str, patience: Duration) -> anyhow::Result<Option<Zeroizing<String>>> {
        let key = if host == "docker.io" { DOCKER } else { host };
        let helper = self.cred_helpers.get(key).or_else(|| self.cred_helpers.get(host));
        if let Some(helper) = helper {
            return helped(helper, key, patience);
        }
        let written =
            [key.to_owned(), host.to_owned(), format!("https://{host}"), format!("https://{host}/")];
        let auth = written.iter().find_map(|name| self.auths.get(name));
        if let Some(found) = auth.map(Auth::basic).transpose()?.flatten() {
            return Ok(Some(found));
        }
        self.creds_store.as_ref().map_or(Ok(None), |store| helped(store, key, patience))
    }
}

impl Auth {
    fn basic(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        ensure!(
            self.identitytoken.is_none(),
            "Docker's configuration holds an identity token, which is not supported: log in with a password or an access token"
        );
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            return Ok(Some(auth.clone()));
        }
        Ok(self.username.as_ref().zip(self.password.as_ref()).map(|(name, password)| encoded(name, password)))
    }
}

impl Holder<'_> {
    /// Name and password in base64, as `Authorization: Basic` wants them. A program that knows them gets `patience`.
    pub(super) fn basic(&self, patience: Duration) -> anyhow::Result<Option<Zeroizing<String>>> {
        let found = self.all.basic(&self.host, patience);
        found.with_context(|| format!("looking for credentials of {}", self.host))
    }
}

/// Asks `docker-credential-HELPER get`, which is killed if it takes longer than `patience` or says more than anybody's
/// credentials.
fn helped(helper: &str, host: &str, patience: Duration) -> anyhow::Result<Option<Zeroizing<String>>> {
    let plain = helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    ensure!(plain && !helper.is_empty(), "{helper:?} is no name of a credential helper");
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends without reading says so by how it ends.
        let _ = input.write_all(host.as_bytes());
    }
    let ended = said(&mut child, patience);
    if ended.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().with_context(|| format!("waiting for {program}"))?;
    let said = ended.with_context(|| format!("{program} was killed"))?;
    if !status.success() {
        if String::from_utf8_lossy(&said).contains("credentials not found") {
            return Ok(None);
        }
        bail!("{program} failed: {status}");
    }
    let found: Helped =
        serde_json::from_slice(&said).with_context(|| format!("reading what {program} says"))?;
    ensure!(
        found.username != "<token>",
        "{program} holds an identity token, which is not supported: log in with a password or an access token"
    );
    Ok(Some(encoded(&found.username, &found.secret)))
}

/// Everything that a program says until it ends.
fn said(child: &mut Child, patience: Duration) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut output = child.stdout.take().context("it has no standard output")?;
    let until = Instant::now() + patience;
    let late = || format!("it had not ended after {} s", patience.as_secs_f32());
    // Room for all of it at once: growing would leave copies of a password behind.
    let mut said = Zeroizing::new(Vec::with_capacity(MAX_SAID));
    let mut part = Zeroizing::new([0; 4096]);
    loop {
        ensure!(is_ready(&output, until)?, late());
        let length = output.read(part.as_mut_slice()).context("reading its words")?;
        let Some(read) = part.get(..length).filter(|read| !read.is_empty()) else { break };
        ensure!(said.len() + read.len() <= MAX_SAID, "it says more than {MAX_SAID} bytes");
        said.extend_from_slice(read);
    }
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("waiting for its end")?;
    ensure!(is_ready(&process, until)?, late());
    Ok(said)
}

/// Whether `file` can be read from before the time `until`.
fn is_ready(file: &impl AsFd, until: Instant) -> anyhow::Result<bool> {
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn encoded(name: &str, password: &str) -> Zeroizing<String> {
    let both = Zeroizing::new(format!("{name}:{password}"));
    Zeroizing::new(Base64::encode_string(both.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// What comes of a program that does what `script` says, and then runs as long as nobody ends it.
    fn said_by(script: &str, patience: Duration) -> Result<Vec<u8>, String> {
        let mut command = Command::new("sh");
        let command = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let said = said(&mut child, patience).map(|said| said.to_vec()).map_err(|error| error.to_string());
        child.kill().and_then(|()| child.wait()).expect("ended");
        said
    }

    #[test]
    fn a_helper_that_never_ends_is_given_up() {
        let said = said_by("exec tail -f /dev/null", Duration::from_millis(50));
        assert_eq!(said, Err("it had not ended after 0.05 s".to_owned()));
    }

    #[test]
    fn a_helper_that_says_nothing_more_and_runs_on_is_given_up() {
        let said = said_by("exec tail -f /dev/null > /dev/null", Duration::from_millis(50));
        assert_eq!(said, Err("it had not ended after 0.05 s".to_owned()));
    }

    #[test]
    fn a_helper_that_never_stops_talking_is_given_up() {
        assert_eq!(said_by("exec yes", PATIENCE), Err("it says more than 65536 bytes".to_owned()));
    }

    #[test]
    fn what_a_helper_says_in_pieces_is_read_whole() {
        assert_eq!(said_by("printf a; printf b", PATIENCE), Ok(b"ab".to_vec()));
    }

    fn found(config: &str, host: &str) -> Option<String> {
        let all: Credentials = serde_json::from_str(config).expect("a configuration");
        all.basic(host, PATIENCE).expect("readable").map(|basic| basic.to_string())
    }

    #[test]
    fn dockers_own_registry_is_called_by_its_old_name() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}}}"#;
        assert_eq!(found(config, "docker.io").as_deref(), Some("YTpi"));
        assert_eq!(found(config, "r.example.com"), None);
    }

    #[test]
    fn a_name_and_a_password_are_encoded() {
        let config = r#"{"auths": {"https://r.example.com": {"username": "a", "password": "b"}}}"#;
        assert_eq!(found(config, "r.example.com").as_deref(), Some("YTpi"));
    }

    #[test]
    fn an_identity_token_is_refused_with_what_to_do() {
        let config = r#"{"auths": {"r.example.com": {"identitytoken": "x"}}}"#;
        let all: Credentials = serde_json::from_str(config).expect("a configuration");
        let refused = all.basic("r.example.com", PATIENCE).expect_err("refused").to_string();
        assert!(refused.contains("log in with a password"), "{refused}");
    }

    #[test]
    fn a_helper_elsewhere_in_the_file_system_is_not_started() {
        let config = r#"{"credHelpers": {"r.example.com": "../../x"}}"#;
        let all: Credentials = serde_json::from_str(config).expect("a configuration");
        assert!(all.basic("r.example.com", PATIENCE).is_err());
    }
}
