//! Where a secret is: three names, of which the first is the tenant.

use std::fmt::{self, Display};
use std::str::FromStr;

const MAX_NAME: usize = 128;

/// `tenant/type/tag`, as the protocol's `/kbs/v0/resource/…` and `kbs:///…` name secrets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourcePath([String; 3]);

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// More or fewer names.
    #[error("a resource has a path of three names, tenant/type/tag, this has {found}")]
    Count {
        /// How many there are.
        found: usize,
    },
    /// A name that could be read in two ways.
    #[error(
        "a name in a resource's path has 1 to {MAX_NAME} letters, digits, '-', '_' and '.', and does not begin with '.'"
    )]
    Name,
}

impl FromStr for ResourcePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let names: Vec<String> = text.split('/').take(5).map(str::to_owned).collect();
        let sound = |name: &String| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(known)
        };
        let names: [String; 3] =
            names.try_into().map_err(|names: Vec<String>| PathError::Count { found: names.len() })?;
        if names.iter().all(sound) { Ok(Self(names)) } else { Err(PathError::Name) }
    }
}

impl ResourcePath {
    /// Tenant, type and tag.
    pub fn names(&self) -> [&str; 3] {
        self.0.each_ref().map(String::as_str)
    }

    /// The first name.
    pub fn tenant(&self) -> &str {
        let [tenant, _, _] = &self.0;
        tenant
    }
}

impl Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, PathError> {
        text.parse().map(|path: ResourcePath| path.to_string())
    }

    #[test]
    fn a_path_has_three_names() {
        assert_eq!(read("acme/key/1"), Ok("acme/key/1".to_owned()));
        assert_eq!(read("acme/key"), Err(PathError::Count { found: 2 }));
        assert_eq!(read("acme/key/1/2"), Err(PathError::Count { found: 4 }));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let bad =
            ["acme/../1", "acme//1", "/acme/1", "acme/key/%2e", "acme/key/a b", "acme/key/ä", "acme/./1"];
        assert_eq!(bad.map(read), bad.map(|_| Err(PathError::Name)));
    }
}
