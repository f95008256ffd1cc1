//! Which name a signature must say, for an image of a given name (containers-policy.json, `signedIdentity`).

use std::fmt::{self, Display};

use serde::Deserialize;

use crate::artefact::Reference;

/// How the name in a signature is held against the image's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum SignedIdentity {
    /// The very same name, with the same tag or digest.
    MatchExact {},
    /// The same repository if the image was asked for by digest, else the very same name. What holds when nothing is said.
    #[default]
    #[serde(skip)]
    MatchRepoDigestOrExactByDefault,
    /// The same, said.
    MatchRepoDigestOrExact {},
    /// The same repository, whatever the tag.
    MatchRepository {},
    /// This very name.
    ExactReference {
        /// With tag or digest.
        docker_reference: String,
    },
    /// This repository.
    ExactRepository {
        /// Without tag and digest.
        docker_repository: String,
    },
    /// The name that the image has where it was mirrored from.
    RemapIdentity {
        /// How the image's name begins.
        prefix: String,
        /// How the signed name begins.
        signed_prefix: String,
    },
    /// Ours: no name, the digest alone. Bundles of version 0.3 say none.
    MatchDigest {},
}

impl SignedIdentity {
    /// What is wrong with it, if it could never fit.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            SignedIdentity::ExactReference { docker_reference } => {
                match docker_reference.parse::<Reference>() {
                    Ok(found) if found.tag().is_some() || found.digest().is_some() => None,
                    Ok(_) => Some(format!("{docker_reference:?} needs a tag or a digest")),
                    Err(error) => Some(error.to_string()),
                }
            }
            SignedIdentity::ExactRepository { docker_repository } => bare(docker_repository),
            SignedIdentity::RemapIdentity { prefix, signed_prefix } => {
                host_or_bare(prefix).or_else(|| host_or_bare(signed_prefix))
            }
            _ => None,
        }
    }

    /// Whether only the digest counts.
    pub(crate) fn is_digest_alone(&self) -> bool {
        matches!(self, SignedIdentity::MatchDigest {})
    }

    /// Whether a signature that says `signed` is one for `image`.
    pub(crate) fn accepts(&self, image: &Reference, signed: &str) -> bool {
        let Ok(signed) = signed.parse::<Reference>() else { return self.is_digest_alone() };
        match self {
            SignedIdentity::MatchExact {} => is_same(image, &signed),
            SignedIdentity::MatchRepoDigestOrExactByDefault | SignedIdentity::MatchRepoDigestOrExact {} => {
                is_same_or_digest(image, &signed)
            }
            SignedIdentity::MatchRepository {} => image.name() == signed.name(),
            SignedIdentity::ExactReference { docker_reference } => {
                docker_reference.parse::<Reference>().is_ok_and(|wanted| is_same(&wanted, &signed))
            }
            SignedIdentity::ExactRepository { docker_repository } => {
                docker_repository.parse::<Reference>().is_ok_and(|wanted| wanted.name() == signed.name())
            }
            SignedIdentity::RemapIdentity { prefix, signed_prefix } => remapped(image, prefix, signed_prefix)
                .is_some_and(|wanted| is_same_or_digest(&wanted, &signed)),
            SignedIdentity::MatchDigest {} => true,
        }
    }
}

impl Display for SignedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignedIdentity::MatchExact {} => f.write_str("the image's exact name"),
            SignedIdentity::MatchRepoDigestOrExactByDefault | SignedIdentity::MatchRepoDigestOrExact {} => {
                f.write_str("the image's exact name, or its repository for an image by digest")
            }
            SignedIdentity::MatchRepository {} => f.write_str("the image's repository"),
            SignedIdentity::ExactReference { docker_reference } => f.write_str(docker_reference),
            SignedIdentity::ExactRepository { docker_repository } => f.write_str(docker_repository),
            SignedIdentity::RemapIdentity { prefix, signed_prefix } => {
                write!(f, "the image's name with {signed_prefix} instead of {prefix}")
            }
            SignedIdentity::MatchDigest {} => f.write_str("any name, the digest counts"),
        }
    }
}

/// Without tag and digest nothing is exact.
fn is_same(wanted: &Reference, signed: &Reference) -> bool {
    let narrowed = wanted.tag().is_some() || wanted.digest().is_some();
    // An image asked for by tag and digest has the name that the signature gives by either.
    let tag =
        wanted.tag() == signed.tag() && (signed.digest().is_none() || wanted.digest() == signed.digest());
    let digest = wanted.digest().is_some() && wanted.digest() == signed.digest() && signed.tag().is_none();
    narrowed && wanted.name() == signed.name() && ((wanted.tag().is_some() && tag) || digest)
}

/// An image that is asked for by digest alone may have been signed under any tag, or by digest: not as a repository.
fn is_same_or_digest(wanted: &Reference, signed: &Reference) -> bool {
    let by_digest = wanted.digest().is_some() && wanted.tag().is_none();
    let narrowed = signed.tag().is_some() || signed.digest().is_some();
    if by_digest { narrowed && wanted.name() == signed.name() } else { is_same(wanted, signed) }
}

/// The image's name with its beginning replaced; a name that begins otherwise stays as it is.
fn remapped(image: &Reference, prefix: &str, signed_prefix: &str) -> Option<Reference> {
    let (name, whole) = (image.name(), image.to_string());
    // Held against the repository's name alone, in which a colon is part of the host; a prefix ends where a part does.
    let fits = name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match whole.strip_prefix(prefix).filter(|_| fits) {
        Some(rest) => {
            let signed = format!("{signed_prefix}{rest}");
            signed.parse::<Reference>().ok().filter(|found| found.to_string() == signed)
        }
        None => Some(image.clone()),
    }
}

fn bare(text: &str) -> Option<String> {
    match text.parse::<Reference>() {
        Ok(found) if found.tag().is_none() && found.digest().is_none() => None,
        Ok(_) => Some(format!("{text:?} must have neither tag nor digest")),
        Err(error) => Some(error.to_string()),
    }
}

/// A repository's name as it is written in full, or a host alone.
fn host_or_bare(text: &str) -> Option<String> {
    // Two parts below the host, because Docker's own repositories have no name of one.
    let whole = format!("{text}/x/x");
    match whole.parse::<Reference>() {
        Ok(found) if found.name() == whole && found.tag().is_none() => None,
        Ok(_) => Some(format!("{text:?} must be a host or a repository, written in full")),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn accepts(identity: &SignedIdentity, image: &str, signed: &str) -> bool {
        identity.accepts(&image.parse::<Reference>().expect("a reference").or_latest(), signed)
    }

    #[test]
    fn by_default_a_tag_must_be_the_same() {
        let identity = SignedIdentity::default();
        assert!(accepts(&identity, "r.io/a:1", "r.io/a:1"));
        assert!(!accepts(&identity, "r.io/a:1", "r.io/a:2") && !accepts(&identity, "r.io/a:1", "r.io/a"));
    }

    #[test]
    fn by_default_an_image_by_digest_may_have_any_tag() {
        let image = format!("r.io/a@{DIGEST}");
        assert!(accepts(&SignedIdentity::default(), &image, "r.io/a:2"));
        assert!(!accepts(&SignedIdentity::default(), &image, "r.io/b:2"));
    }

    #[test]
    fn an_image_by_digest_needs_a_signature_that_names_more_than_a_repository() {
        let image = format!("r.io/a@{DIGEST}");
        assert!(!accepts(&SignedIdentity::default(), &image, "r.io/a"));
        assert!(accepts(&SignedIdentity::default(), &image, &image));
    }

    #[test]
    fn an_image_by_tag_and_digest_must_be_signed_under_that_tag_or_that_digest() {
        let image = format!("r.io/a:1@{DIGEST}");
        assert!(accepts(&SignedIdentity::default(), &image, "r.io/a:1"));
        assert!(accepts(&SignedIdentity::default(), &image, &format!("r.io/a@{DIGEST}")));
        assert!(!accepts(&SignedIdentity::default(), &image, "r.io/a:2"));
        assert!(!accepts(&SignedIdentity::default(), &image, "r.io/a"));
    }

    #[test]
    fn an_exact_match_of_a_digest_needs_that_digest() {
        let image = format!("r.io/a@{DIGEST}");
        assert!(accepts(&SignedIdentity::MatchExact {}, &image, &image));
        assert!(!accepts(&SignedIdentity::MatchExact {}, &image, "r.io/a:1"));
    }

    #[test]
    fn a_mirrors_image_is_known_by_its_first_name() {
        let identity =
            SignedIdentity::RemapIdentity { prefix: "mirror.io/up".into(), signed_prefix: "r.io".into() };
        assert!(accepts(&identity, "mirror.io/up/a:1", "r.io/a:1"));
        assert!(!accepts(&identity, "mirror.io/upper/a:1", "r.io/a:1"));
        assert!(accepts(&identity, "other.io/a:1", "other.io/a:1"));
    }

    #[test]
    fn a_prefix_that_ends_before_a_port_is_another_hosts() {
        let identity =
            SignedIdentity::RemapIdentity { prefix: "mirror.io".into(), signed_prefix: "r.io".into() };
        assert!(!accepts(&identity, "mirror.io:5000/a:1", "r.io:5000/a:1"));
        let with_port =
            SignedIdentity::RemapIdentity { prefix: "mirror.io:5000".into(), signed_prefix: "r.io".into() };
        assert!(accepts(&with_port, "mirror.io:5000/a:1", "r.io/a:1"));
    }

    #[test]
    fn a_name_that_is_remapped_is_not_normalised_again() {
        let identity =
            SignedIdentity::RemapIdentity { prefix: "mirror.io".into(), signed_prefix: "docker.io".into() };
        assert!(!accepts(&identity, "mirror.io/busybox:1", "docker.io/library/busybox:1"));
        assert!(accepts(&identity, "mirror.io/library/busybox:1", "docker.io/library/busybox:1"));
    }

    #[test]
    fn short_names_are_normalised_before_they_are_compared() {
        assert!(accepts(&SignedIdentity::MatchRepository {}, "busybox", "docker.io/library/busybox:1"));
    }

    #[test]
    fn a_name_that_could_never_fit_is_a_fault() {
        let reference = SignedIdentity::ExactReference { docker_reference: "r.io/a".into() };
        let repository = SignedIdentity::ExactRepository { docker_repository: "r.io/a:1".into() };
        assert!(reference.fault().is_some() && repository.fault().is_some());
    }
}
