//! What the pod's author asks for in the initdata, once the processor has vouched for it.
//!
//! ```toml
//! # aa.toml, as in Confidential Containers: the verifier, and the authority of its certificate
//! [token_configs.kbs]
//! url = "https://verifier.example.com:8443"
//! cert = """-----BEGIN CERTIFICATE-----…"""
//!
//! # coffer.toml, every key optional
//! wait_seconds = 30                     # how long a start waits for a verifier that does not answer; 0: it fails
//! lease_seconds = 600                   # how long secrets stay while the verifier does not answer; absent: as long
//! directory = "/run/secrets/coffer"     # where containers see the files
//! insecure_unsigned_sealed_secrets = false
//! [[file]]
//! name = "db-password"
//! resource = "kbs:///acme/db/password"
//! [[container]]                         # what one container may ask for while it runs: `grants.rs`
//! ```

use std::path::PathBuf;
use std::time::Duration;

use coffer_attestation::handshake::{InitData, ResourceName};
use serde::Deserialize;

use super::AttestError;
use super::grants::{self, ContainerWish, Grant};

/// The longest that a start may wait: containerd waits two minutes for it, the shim less.
const MAX_WAIT_SECONDS: u64 = 40;
const MAX_FILES: usize = 64;
const DEFAULT_DIRECTORY: &str = "/run/secrets/coffer";
/// Where containers find their socket.
const INSIDE: &str = "/run/coffer";
const AGENT: &str = "aa.toml";
const COFFER: &str = "coffer.toml";

/// What the pod's author asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Nobody, if there are to be no secrets.
    pub(super) verifier: Option<Address>,
    pub(super) wait: Duration,
    pub(super) lease: Option<Duration>,
    pub(super) directory: PathBuf,
    pub(super) unsigned: bool,
    pub(super) files: Vec<(String, ResourceName)>,
    pub(super) containers: Vec<Grant>,
}

/// Where the verifier is, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Host and port as they are asked for.
    pub(super) authority: String,
    /// The name that its certificate must have.
    pub(super) host: String,
    /// What comes before `/kbs`; empty, or with a slash in front.
    pub(super) prefix: String,
    /// Authorities, in PEM.
    pub(super) authorities: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AgentFile {
    token_configs: TokenConfigs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenConfigs {
    kbs: Option<Kbs>,
}

#[derive(Deserialize)]
struct Kbs {
    url: String,
    #[serde(default)]
    cert: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct CofferFile {
    wait_seconds: u64,
    lease_seconds: Option<u64>,
    directory: Option<PathBuf>,
    insecure_unsigned_sealed_secrets: bool,
    file: Vec<FileWish>,
    container: Vec<ContainerWish>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWish {
    name: String,
    resource: String,
}

impl Wishes {
    /// Those of a pod without initdata.
    pub(super) fn of_nobody() -> Self {
        Self {
            verifier: None,
            wait: Duration::ZERO,
            lease: None,
            directory: DEFAULT_DIRECTORY.into(),
            unsigned: false,
            files: Vec::new(),
            containers: Vec::new(),
        }
    }

    /// Reads the initdata's files.
    pub(super) fn of(initdata: &InitData) -> Result<Self, AttestError> {
        let agent: AgentFile = read(initdata, AGENT)?;
        let coffer: CofferFile = read(initdata, COFFER)?;
        let verifier = agent.token_configs.kbs.map(|kbs| Address::of(&kbs)).transpose()?;
        if coffer.wait_seconds > MAX_WAIT_SECONDS {
            return Err(refused(
                COFFER,
                format!("wait_seconds may be {MAX_WAIT_SECONDS}, not {}", coffer.wait_seconds),
            ));
        }
        let directory = coffer.directory.unwrap_or_else(|| DEFAULT_DIRECTORY.into());
        let plain = |part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_));
        if !directory.is_absolute()
            || directory.components().count() < 2
            || !directory.components().all(plain)
        {
            return Err(refused(COFFER, format!("directory {} is no absolute path", directory.display())));
        }
        if coffer.file.len() > MAX_FILES {
            return Err(refused(
                COFFER,
                format!("{} files are asked for, {MAX_FILES} may be", coffer.file.len()),
            ));
        }
        if verifier.is_none() && !coffer.file.is_empty() {
            return Err(refused(AGENT, "there is no token_configs.kbs, and files are asked for".to_owned()));
        }
        let containers = grants::read(coffer.container).map_err(|reason| refused(COFFER, reason))?;
        if verifier.is_none() && !containers.is_empty() {
            return Err(refused(AGENT, "there is no token_configs.kbs, and containers may ask".to_owned()));
        }
        if !containers.is_empty() && directory.starts_with(INSIDE) {
            return Err(refused(COFFER, format!("directory may not be below {INSIDE}, where sockets are")));
        }
        let mut files: Vec<(String, ResourceName)> = Vec::new();
        for wish in coffer.file {
            let file = wish.read()?;
            if files.iter().any(|(name, _)| *name == file.0) {
                return Err(refused(COFFER, format!("the file {:?} is there twice", file.0)));
            }
            files.push(file);
        }
        Ok(Self {
            verifier,
            wait: Duration::from_secs(coffer.wait_seconds),
            lease: coffer.lease_seconds.map(Duration::from_secs),
            directory,
            unsigned: coffer.insecure_unsigned_sealed_secrets,
            files,
            containers,
        })
    }
}

impl FileWish {
    fn read(self) -> Result<(String, ResourceName), AttestError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let sound = (1..=64).contains(&self.name.len()) && self.name.bytes().all(plain);
        if !sound || self.name.starts_with('.') {
            return Err(refused(COFFER, format!("{:?} is no name of a file", self.name)));
        }
        let resource = ResourceName::parse(&self.resource);
        Ok((self.name, resource.map_err(|error| refused(COFFER, error.to_string()))?))
    }
}

impl Address {
    fn of(kbs: &Kbs) -> Result<Self, AttestError> {
        let wrong = |what: &str| refused(AGENT, format!("token_configs.kbs.{what}"));
        let rest =
            kbs.url.strip_prefix("https://").ok_or_else(|| wrong("url does not begin with https://"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let sound = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'@' | b'?' | b'#' | b'"' | b'\\');
        if authority.is_empty() || !rest.bytes().all(sound) {
            return Err(wrong("url is no https://host:port/path"));
        }
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            Some((_, port)) if !port.ends_with(']') => return Err(wrong("url has no port behind its colon")),
            _ => authority,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        if kbs.cert.is_empty() {
            return Err(wrong("cert is missing: the guest believes no authority that is not named there"));
        }
        Ok(Self { authority: authority.to_owned(), host, prefix, authorities: kbs.cert.clone() })
    }
}

fn read<T: for<'a> Deserialize<'a> + Default>(
    initdata: &InitData,
    file: &'static str,
) -> Result<T, AttestError> {
    let Some(text) = initdata.file(file) else { return Ok(T::default()) };
    toml::from_str(text).map_err(|error| refused(file, error.message().chars().take(200).collect()))
}

fn refused(file: &'static str, reason: String) -> AttestError {
    AttestError::Wishes { file, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KBS: &str = "[token_configs.kbs]\nurl = \"https://kbs.example:8443/a/\"\ncert = \"pem\"";

    fn wishes(agent: &str, coffer: &str) -> Result<Wishes, String> {
        let body = format!(
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = '''\n{agent}'''\n\"coffer.toml\" = '''\n{coffer}'''\n"
        );
        Wishes::of(&InitData::parse("toml", body).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_verifier_is_found_where_confidential_containers_name_it() {
        let address = wishes(KBS, "").unwrap().verifier.unwrap();
        assert_eq!((address.host.as_str(), address.authority.as_str()), ("kbs.example", "kbs.example:8443"));
        assert_eq!((address.prefix.as_str(), address.authorities.as_str()), ("/a", "pem"));
    }

    #[test]
    fn without_a_word_nothing_is_fetched() {
        let none = wishes("", "").unwrap();
        assert_eq!((none.verifier, none.files.len(), none.wait), (None, 0, Duration::ZERO));
    }

    #[test]
    fn plain_http_and_a_missing_authority_are_refused() {
        assert!(wishes(&KBS.replace("https", "http"), "").unwrap_err().contains("https://"));
        assert!(wishes(&KBS.replace("cert = \"pem\"", ""), "").unwrap_err().contains("cert is missing"));
    }

    #[test]
    fn a_file_is_named_by_a_plain_name_and_once() {
        let file = |name: &str| format!("[[file]]\nname = \"{name}\"\nresource = \"kbs:///a/b/c\"\n");
        assert_eq!(wishes(KBS, &file("x")).unwrap().files[0].1.path(), "a/b/c");
        assert!(wishes(KBS, &file("../x")).is_err());
        assert!(wishes(KBS, &file("x").repeat(2)).unwrap_err().contains("twice"));
        assert!(wishes("", &file("x")).unwrap_err().contains("token_configs.kbs"));
    }

    #[test]
    fn containers_that_may_ask_are_named_and_need_a_verifier() {
        let web = "[[container]]\nname = \"web\"\nresources = [\"kbs:///acme/web/*\"]\n";
        assert_eq!(wishes(KBS, web).unwrap().containers.len(), 1);
        assert!(wishes("", web).unwrap_err().contains("token_configs.kbs"));
        assert!(wishes(KBS, &web.repeat(2)).unwrap_err().contains("twice"));
        assert!(wishes(KBS, &format!("directory = \"/run/coffer/x\"\n{web}")).is_err());
        assert!(wishes(KBS, &web.replace("resources", "secrets")).is_err());
    }

    #[test]
    fn an_unknown_key_and_a_long_wait_are_refused() {
        assert!(wishes(KBS, "wait = 3").is_err());
        assert!(wishes(KBS, "wait_seconds = 3600").unwrap_err().contains("40"));
    }

    #[test]
    fn a_directory_that_leads_elsewhere_is_refused() {
        assert!(wishes(KBS, "directory = \"/run/../etc\"").is_err());
        assert!(wishes(KBS, "directory = \"secrets\"").is_err());
        assert!(wishes(KBS, "directory = \"/\"").is_err());
    }
}
