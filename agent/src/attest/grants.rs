//! What single containers may ask for while they run, as the initdata says: nothing that is not named there.
//!
//! ```toml
//! [[container]]
//! name = "web"                                                  # as the pod's author calls it
//! resources = ["kbs:///acme/db/password", "kbs:///acme/web/*"]  # exact, or all below one tenant or kind
//! token = false                                                 # whether it may have the verifier's token for this guest
//! insecure_evidence = false                                     # whether it may have evidence over bytes of its own
//! ```
//! Evidence over bytes that a container chose lets it pass for the whole guest, with a key of its own: hence the name.

use coffer_attestation::handshake::ResourceName;
use serde::Deserialize;

const MAX_CONTAINERS: usize = 32;
const MAX_RESOURCES: usize = 64;
const MAX_NAME: usize = 253;
const SCHEME: &str = "kbs:///";

/// What one container may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(super) container: String,
    resources: Vec<Allowed>,
    /// Whether it may have the verifier's token.
    pub(crate) token: bool,
    /// Whether it may have evidence.
    pub(crate) evidence: bool,
}

/// Names of secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    One(ResourceName),
    /// All whose path begins so; it ends with a slash.
    Below(String),
}

/// As it stands in `coffer.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContainerWish {
    name: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    token: bool,
    #[serde(default)]
    insecure_evidence: bool,
}

impl Grant {
    /// Whether it may ask for `resource`.
    pub(crate) fn allows(&self, resource: &ResourceName) -> bool {
        self.resources.iter().any(|allowed| match allowed {
            Allowed::One(one) => one == resource,
            Allowed::Below(prefix) => resource.path().starts_with(prefix),
        })
    }
}

#[cfg(test)]
impl Grant {
    /// One for tests.
    pub(crate) fn of(resources: &[&str], token: bool) -> Self {
        let wish = ContainerWish {
            name: "web".to_owned(),
            resources: resources.iter().map(|text| (*text).to_owned()).collect(),
            token,
            insecure_evidence: false,
        };
        wish.read().expect("a grant")
    }
}

/// Checks what is asked for; the error says what is wrong.
pub(super) fn read(wishes: Vec<ContainerWish>) -> Result<Vec<Grant>, String> {
    if wishes.len() > MAX_CONTAINERS {
        return Err(format!("{} containers are named, {MAX_CONTAINERS} may be", wishes.len()));
    }
    let mut grants: Vec<Grant> = Vec::new();
    for wish in wishes {
        let grant = wish.read()?;
        if grants.iter().any(|other| other.container == grant.container) {
            return Err(format!("the container {:?} is there twice", grant.container));
        }
        grants.push(grant);
    }
    Ok(grants)
}

impl ContainerWish {
    fn read(self) -> Result<Grant, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=MAX_NAME).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err(format!(
                "{:?} is no name of a container",
                self.name.chars().take(MAX_NAME).collect::<String>()
            ));
        }
        if self.resources.len() > MAX_RESOURCES {
            let count = self.resources.len();
            return Err(format!("{count} resources are named for {:?}, {MAX_RESOURCES} may be", self.name));
        }
        let resources = self.resources.iter().map(|text| allowed(text)).collect::<Result<_, _>>()?;
        Ok(Grant { container: self.name, resources, token: self.token, evidence: self.insecure_evidence })
    }
}

fn allowed(text: &str) -> Result<Allowed, String> {
    let Some(prefix) = text.strip_suffix("/*") else {
        return ResourceName::parse(text).map(Allowed::One).map_err(|error| error.to_string());
    };
    // What may stand below a tenant or a kind is a name once the rest is filled up.
    let filled = [format!("{prefix}/x/x"), format!("{prefix}/x")];
    let sound = filled.iter().any(|whole| ResourceName::parse(whole).is_ok());
    match prefix.strip_prefix(SCHEME).filter(|_| sound) {
        Some(path) => Ok(Allowed::Below(format!("{path}/"))),
        None => Err(format!(
            "{:?} names no secrets: kbs:///tenant/* and kbs:///tenant/kind/* do",
            text.chars().take(128).collect::<String>()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> ResourceName {
        ResourceName::parse(&format!("kbs:///{path}")).unwrap()
    }

    #[test]
    fn a_container_may_ask_for_what_is_named_and_for_nothing_else() {
        let grant = Grant::of(&["kbs:///acme/db/password", "kbs:///acme/web/*"], false);
        assert!(grant.allows(&name("acme/db/password")) && grant.allows(&name("acme/web/key")));
        let others = ["acme/db/password2", "acme/db/x", "acme/webs/key", "other/web/key"];
        assert!(others.iter().all(|other| !grant.allows(&name(other))));
        assert!(!Grant::of(&[], true).allows(&name("acme/db/password")));
    }

    #[test]
    fn a_star_stands_for_whole_names_below_a_tenant() {
        assert!(Grant::of(&["kbs:///acme/*"], false).allows(&name("acme/db/password")));
        assert!(!Grant::of(&["kbs:///acme/*"], false).allows(&name("acmes/db/password")));
        let wrong = ["kbs:///*", "*", "kbs:///acme/d*", "kbs:///acme/../*", "kbs:///a/b/c/*", "kbs:////*"];
        assert!(wrong.iter().all(|text| allowed(text).is_err()));
    }

    #[test]
    fn a_container_is_named_once_and_plainly() {
        let wish = |name: &str| ContainerWish {
            name: name.to_owned(),
            resources: Vec::new(),
            token: false,
            insecure_evidence: false,
        };
        assert!(read(vec![wish("a"), wish("b")]).is_ok());
        assert!(read(vec![wish("a"), wish("a")]).unwrap_err().contains("twice"));
        assert!(read(vec![wish("")]).is_err() && read(vec![wish("a b")]).is_err());
        assert!(read((0..33).map(|at| wish(&at.to_string())).collect()).is_err());
    }
}
