//! containerd's image verifier (`io.containerd.image-verifier.v1.bindir`): run at each pull under the name
//! [`PROGRAM`](super::PROGRAM), a link to this program in the plugin's directory.
//!
//! ```text
//! -name NAME -digest DIGEST -stdin-media-type TYPE ── signatures into the node's store ── verdict by the node's policy
//!                                                                     exit code 0: pull it; else not; standard output says why
//! ```
//! A convenience: an image that could never run is not pulled, and its signatures are there when it is started. What decides is
//! the gate where it runs. Never here: a policy of its own.

use std::ffi::OsString;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use clap::Parser;
use coffer_image::artefact::{Digest, Reference};
use coffer_image::judge::judge;
use coffer_node::config::Config;
use coffer_node::images::{Budget, SignatureStore};

use super::PROGRAM;
use super::fetch::bring;
use super::policy::read;
use super::source::ImageArguments;

/// How long registries may take together: containerd kills who takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);

/// How registries are reached comes from containerd's environment.
#[derive(Parser)]
struct Pull {
    #[command(flatten)]
    image: ImageArguments,
}

/// Judges what containerd is about to pull. Answers why it may be. Where nothing is refused an error is told on standard error,
/// and no more comes of it.
///
/// # Errors
/// Why it may not.
pub(crate) fn verify(arguments: &[OsString], config: &Config) -> anyhow::Result<String> {
    let judged = judged(arguments, config, Instant::now() + PATIENCE);
    if config.images.policy.is_some() && !config.images.dry_run {
        return judged;
    }
    Ok(judged.unwrap_or_else(|error| {
        eprintln!("{PROGRAM}: {error:#}");
        "nothing is refused on this node; standard error says what went wrong".to_owned()
    }))
}

/// The verdict, with what could be fetched before `until`. Without a policy the signatures are fetched, and the guests' policies
/// decide.
fn judged(arguments: &[OsString], config: &Config, until: Instant) -> anyhow::Result<String> {
    let name = asked(arguments)?;
    let pull = Pull::try_parse_from(["coffer", &format!("docker://{name}")])
        .with_context(|| format!("reading how registries are reached, for {name}"))?;
    let policy = config.images.policy.as_deref().map(read).transpose()?;
    let source = pull.image.open_until(Some(until))?;
    let subject = source.layout.image(source.wanted.as_deref(), name, pull.image.platform())?;
    let store = SignatureStore::new(&config.images.signatures);
    let brought = bring(&source, &subject, &store).and_then(|brought| brought.is_whole());
    let Some(policy) = policy else {
        brought?;
        return Ok("this node has no policy for images: it is judged where it runs".to_owned());
    };
    if let Err(error) = brought {
        if Instant::now() < until {
            return Err(error);
        }
        // A registry that takes too long cannot keep out what is known to be signed.
        eprintln!("{PROGRAM}: {error:#}");
    }
    let digests: Vec<Digest> = subject.digests().copied().collect();
    let evidence = store.objects(&digests, Budget::default()).evidence();
    match judge(&policy, subject, &evidence, SystemTime::now().into()).into_admitted() {
        Ok(admitted) => Ok(format!("admitted by {}", admitted.rule())),
        Err(refusal) if config.images.dry_run => Ok(format!("dry run: {refusal}")),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The name with its digest.
fn asked(arguments: &[OsString]) -> anyhow::Result<Reference> {
    let (mut name, mut digest) = (None, None);
    let mut rest = arguments.iter().map(|part| part.to_string_lossy());
    while let Some(option) = rest.next() {
        let value = rest.next().with_context(|| format!("{option} has no value"))?;
        match option.trim_start_matches('-') {
            "name" => name = Some(value),
            "digest" => digest = Some(value),
            "stdin-media-type" => {}
            _ => bail!("{option} is not understood: containerd gives -name, -digest and -stdin-media-type"),
        }
    }
    let (name, digest) = name.zip(digest).context("containerd gives -name and -digest")?;
    let bare = name.split_once('@').map_or(&*name, |(bare, _)| bare);
    format!("{bare}@{digest}").parse().with_context(|| format!("{name:?} is no name of an image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(line: &str) -> Result<String, String> {
        let parts: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        asked(&parts).map(|name| name.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn name_and_digest_are_taken_as_containerd_gives_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let line = format!("-name r.io/a:1 -digest {digest} -stdin-media-type application/x");
        assert_eq!(read_as(&line), Ok(format!("r.io/a:1@{digest}")));
    }

    #[test]
    fn what_is_not_understood_lets_nothing_be_pulled() {
        assert!(read_as("-name r.io/a:1").is_err() && read_as("-name r.io/a:1 -other x").is_err());
    }
}
