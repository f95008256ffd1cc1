//! Which secrets want to be kept from whoever else's images: a rule of a reference.
//!
//! ```toml
//! [reference.images_signed_by]
//! "acme/db/password" = ["P-256 5f0c…", "P-384 91ab…"]   # one secret; "acme/db/*", "acme/*" and "*" are more of them
//! ```
//! Every image that ran in the guest until now must have one of the named signers, by the name that the guest's policy gives
//! it: `coffer image verify` shows it. Where several entries fit a secret, each must hold, and where the guest is what several
//! references say, the entries of each of them that is for the secret's tenant. A guest that shows no images, or has
//! admitted none yet, is given no such secret.

use std::collections::BTreeMap;

use coffer_attestation::handshake::{Images, MAX_SIGNER_BYTES};
use serde::{Deserialize, Serialize};

use crate::secrets::ResourcePath;

/// The most entries, and the most signers of one.
const MAX_ENTRIES: usize = 256;
const MAX_SIGNERS: usize = 64;
/// What stands for every name from its place on.
const ANY: &str = "*";

/// Who must have signed a guest's images, for each secret that asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedImages(BTreeMap<String, Vec<String>>);

/// Why an entry can protect nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedImagesError {
    /// Too many.
    #[error("it has {found} entries, at most {MAX_ENTRIES} may be")]
    Count {
        /// How many.
        found: usize,
    },
    /// A path that no secret has.
    #[error("{path:?} is no tenant/type/tag, and does not end in /{ANY} behind one or two names")]
    Path {
        /// What is there.
        path: String,
    },
    /// A tenant whose secrets the guest is never given.
    #[error("{path:?} is of a tenant that the reference is not for")]
    Tenant {
        /// What is there.
        path: String,
    },
    /// Nobody, or a name that nobody can have.
    #[error(
        "{path:?} names no signer, more than {MAX_SIGNERS}, or one of no or more than {MAX_SIGNER_BYTES} bytes"
    )]
    Signers {
        /// The entry.
        path: String,
    },
}

/// Why a guest is not given a secret, though it is one that its owner knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("every image of the guest must be signed by {} for the reference {reference:?}, and {found}", wanted.join(" or "))]
pub struct NotSigned {
    /// Whose rule it is.
    pub reference: String,
    /// One of these.
    pub wanted: Vec<String>,
    /// What is there instead, in words.
    pub found: String,
}

impl SignedImages {
    /// Whether no secret asks for anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what would protect nothing: a mistake here must not leave a secret open.
    ///
    /// # Errors
    /// [`SignedImagesError`]
    pub fn check(&self, tenants: &[String]) -> Result<(), SignedImagesError> {
        if self.0.len() > MAX_ENTRIES {
            return Err(SignedImagesError::Count { found: self.0.len() });
        }
        for (path, signers) in &self.0 {
            let path = || path.clone();
            let tenant = tenant_of(&path()).ok_or_else(|| SignedImagesError::Path { path: path() })?;
            if tenant != ANY && !tenants.contains(&tenant) {
                return Err(SignedImagesError::Tenant { path: path() });
            }
            let sound = |name: &String| (1..=MAX_SIGNER_BYTES).contains(&name.len());
            if !(1..=MAX_SIGNERS).contains(&signers.len()) || !signers.iter().all(sound) {
                return Err(SignedImagesError::Signers { path: path() });
            }
        }
        Ok(())
    }

    /// Whether a guest that has admitted `images` may have the secret at `path`, as far as this rule of `reference` decides.
    ///
    /// # Errors
    /// [`NotSigned`]
    pub fn hold(
        &self,
        reference: &str,
        path: &ResourcePath,
        images: Option<&Images>,
    ) -> Result<(), NotSigned> {
        self.0.iter().filter(|(entry, _)| fits(entry, path)).try_for_each(|(_, wanted)| {
            let found = match images {
                None => "it shows none: it judges no images".to_owned(),
                Some(images) if images.records().is_empty() => "it has admitted none yet".to_owned(),
                Some(images) => match images.first_not_signed_by(wanted) {
                    None => return Ok(()),
                    Some(stranger) => {
                        let signers = stranger.signers.join(", ");
                        let by = if signers.is_empty() { "nobody" } else { &signers };
                        let by: String = by.chars().take(MAX_SIGNER_BYTES).collect();
                        format!("{} ({}) is signed by {by}", stranger.image, stranger.digest)
                    }
                },
            };
            Err(NotSigned { reference: reference.to_owned(), wanted: wanted.clone(), found })
        })
    }
}

/// The tenant of an entry, `*` for every one; nothing if no secret could fit.
fn tenant_of(entry: &str) -> Option<String> {
    if entry == ANY {
        return Some(ANY.to_owned());
    }
    let whole = match entry.strip_suffix("/*") {
        Some(front) if front.contains('/') => format!("{front}/any"),
        Some(front) => format!("{front}/any/any"),
        None => entry.to_owned(),
    };
    whole.parse().ok().map(|path: ResourcePath| path.tenant().to_owned())
}

fn fits(entry: &str, path: &ResourcePath) -> bool {
    let path = path.to_string();
    match entry.strip_suffix(ANY) {
        Some(front) => path.starts_with(front),
        None => path == entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::handshake::ImageRecord;

    fn rule(entries: &[(&str, &[&str])]) -> SignedImages {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        SignedImages(entries.iter().map(|(path, signers)| ((*path).to_owned(), names(signers))).collect())
    }

    fn images(of: &[(&str, &[&str])]) -> Images {
        of.iter().fold(Images::default(), |all, (image, signers)| {
            let record = ImageRecord {
                image: (*image).to_owned(),
                digest: format!("sha256:{}", "0a".repeat(32)),
                rule: "/default/0".to_owned(),
                signers: signers.iter().map(|name| (*name).to_owned()).collect(),
            };
            all.with(record).expect("a record")
        })
    }

    fn held(rule: &SignedImages, path: &str, images: Option<&Images>) -> Result<(), String> {
        rule.hold("web", &path.parse().expect("a path"), images).map_err(|error| error.to_string())
    }

    #[test]
    fn every_image_must_have_one_of_the_signers() {
        let rule = rule(&[("acme/key/1", &["one", "two"])]);
        let good = images(&[("a", &["one"]), ("b", &["three", "two"])]);
        assert_eq!(held(&rule, "acme/key/1", Some(&good)), Ok(()));
        let strange = images(&[("a", &["one"]), ("b", &["three"])]);
        let refused = held(&rule, "acme/key/1", Some(&strange)).expect_err("refused");
        let words = "every image of the guest must be signed by one or two for the reference \"web\", and b (sha256:0a0a";
        assert!(refused.starts_with(words) && refused.ends_with(") is signed by three"), "{refused}");
        let unsigned = held(&rule, "acme/key/1", Some(&images(&[("a", &[])]))).expect_err("refused");
        assert!(unsigned.ends_with("is signed by nobody"), "{unsigned}");
    }

    #[test]
    fn a_guest_without_images_is_refused_and_the_reason_says_which_kind_it_is() {
        let rule = rule(&[("*", &["one"])]);
        let none = held(&rule, "acme/key/1", None).expect_err("refused");
        assert!(none.ends_with("judges no images"), "{none}");
        let empty = held(&rule, "acme/key/1", Some(&Images::default())).expect_err("refused");
        assert!(empty.ends_with("admitted none yet"), "{empty}");
    }

    #[test]
    fn an_entry_is_for_its_own_secrets_and_of_several_each_must_hold() {
        let one = images(&[("a", &["one"])]);
        let rule = rule(&[("acme/*", &["one"]), ("acme/key/*", &["one", "two"]), ("acme/key/2", &["two"])]);
        let ask = |path| held(&rule, path, Some(&one)).is_ok();
        assert_eq!(["acme/key/1", "acme/key/2", "acme/db/2"].map(ask), [true, false, true]);
        // Of another tenant nothing is asked here.
        assert!(held(&rule, "acmes/key/2", None).is_ok() && held(&rule, "acme/key/1", None).is_err());
    }

    #[test]
    fn an_entry_that_would_protect_nothing_is_refused() {
        let tenants = ["acme".to_owned()];
        let check = |path: &str, signers: &[&str]| rule(&[(path, signers)]).check(&tenants);
        for good in ["*", "acme/*", "acme/key/*", "acme/key/1"] {
            assert_eq!(check(good, &["one"]), Ok(()), "{good}");
        }
        for bad in
            ["", "acme", "acme/key", "acme/key/1/2", "acme/k*", "/*", "*/key/1", "acme/key/1/*", "acme/**"]
        {
            assert!(matches!(check(bad, &["one"]), Err(SignedImagesError::Path { .. })), "{bad}");
        }
        assert!(matches!(check("umbrella/*", &["one"]), Err(SignedImagesError::Tenant { .. })));
        let long = "x".repeat(513);
        for names in [&[][..], &[""], &[long.as_str()], &["one"; 65]] {
            assert!(matches!(check("*", names), Err(SignedImagesError::Signers { .. })));
        }
    }
}
