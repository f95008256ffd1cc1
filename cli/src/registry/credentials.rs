//! Who asks: what Docker's configuration holds for a registry, itself or through a helper's program.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use base64ct::{Base64, Encoding};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::attest::read_file;

/// How Docker's configuration calls its own registry.
const DOCKER: &str = "https://index.docker.io/v1/";

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
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
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

    fn basic(&self, host: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
        let key = if host == "docker.io" { DOCKER } else { host };
        let helper = self.cred_helpers.get(key).or_else(|| self.cred_helpers.get(host));
        if let Some(helper) = helper {
            return helped(helper, key);
        }
        let written =
            [key.to_owned(), host.to_owned(), format!("https://{host}"), format!("https://{host}/")];
        let auth = written.iter().find_map(|name| self.auths.get(name));
        if let Some(found) = auth.map(Auth::basic).transpose()?.flatten() {
            return Ok(Some(found));
        }
        self.creds_store.as_ref().map_or(Ok(None), |store| helped(store, key))
    }
}

impl Auth {
    fn basic(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        ensure!(
            self.identitytoken.is_none(),
            "Docker's configuration holds an identity token, which is not supported: log in with a password or an access token"
        );
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            return Ok(Some(Zeroizing::new(auth.clone())));
        }
        Ok(self.username.as_ref().zip(self.password.as_ref()).map(|(name, password)| encoded(name, password)))
    }
}

impl Holder<'_> {
    /// Name and password in base64, as `Authorization: Basic` wants them.
    pub(super) fn basic(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        let found = self.all.basic(&self.host);
        found.with_context(|| format!("looking for credentials of {}", self.host))
    }
}

/// Asks `docker-credential-HELPER get`.
fn helped(helper: &str, host: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
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
    let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
    let said = Zeroizing::new(output.stdout);
    if !output.status.success() {
        if String::from_utf8_lossy(&said).contains("credentials not found") {
            return Ok(None);
        }
        bail!("{program} failed: {}", output.status);
    }
    let found: Helped =
        serde_json::from_slice(&said).with_context(|| format!("reading what {program} says"))?;
    ensure!(
        found.username != "<token>",
        "{program} holds an identity token, which is not supported: log in with a password or an access token"
    );
    Ok(Some(encoded(&found.username, &found.secret)))
}

fn encoded(name: &str, password: &str) -> Zeroizing<String> {
    Zeroizing::new(Base64::encode_string(format!("{name}:{password}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str, host: &str) -> Option<String> {
        let all: Credentials = serde_json::from_str(config).expect("a configuration");
        all.basic(host).expect("readable").map(|basic| basic.to_string())
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
        let refused = all.basic("r.example.com").expect_err("refused").to_string();
        assert!(refused.contains("log in with a password"), "{refused}");
    }

    #[test]
    fn a_helper_elsewhere_in_the_file_system_is_not_started() {
        let config = r#"{"credHelpers": {"r.example.com": "../../x"}}"#;
        let all: Credentials = serde_json::from_str(config).expect("a configuration");
        assert!(all.basic("r.example.com").is_err());
    }
}
