//! `coffer image fetch`: brings what is attached to an image into the node's store, from where the shim hands it to guests.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use coffer_image::artefact::{Digest, Reference, Subject};
use coffer_node::config::Config;
use coffer_node::images::{Budget, Objects, SignatureStore};
use serde_json::json;

use super::source::{ImageArguments, Source};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct FetchArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Store of signature objects [default: the node's, by its configuration]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// What came into the store.
pub(super) struct Brought {
    /// How many objects it has of each manifest now.
    counts: Vec<(Digest, usize)>,
    left_out: Vec<String>,
}

/// Fetches, and prints how many objects the store has of each manifest. What it had of them before is gone, unless something
/// could not be fetched.
pub(crate) fn run(
    arguments: &FetchArguments,
    config: &dyn Fn() -> anyhow::Result<Config>,
    as_json: bool,
) -> anyhow::Result<Health> {
    let store = match &arguments.store {
        Some(directory) => SignatureStore::new(directory),
        None => SignatureStore::new(&config()?.images.signatures),
    };
    let source = arguments.image.open()?;
    let name = source.name.clone().map_or_else(|| "directory/image".parse::<Reference>(), Ok)?;
    let subject = source.layout.image(source.wanted.as_deref(), name, arguments.image.platform())?;
    let brought = bring(&source, &subject, &store)?;
    if as_json {
        let all = brought.counts.iter().map(|(digest, count)| json!({"image": digest, "objects": count}));
        output::json(&all.collect::<Vec<_>>())?;
    } else {
        let row = |(digest, count): &(Digest, usize)| vec![digest.to_string(), count.to_string()];
        output::table(&["IMAGE", "OBJECTS"], &brought.counts.iter().map(row).collect::<Vec<_>>())?;
    }
    brought.is_whole()?;
    Ok(Health::Well)
}

/// Puts what is attached to the image's manifest and index into `store`. If all of it could be had it is what the store has then;
/// else it comes beside what the store had.
pub(super) fn bring(source: &Source, subject: &Subject, store: &SignatureStore) -> anyhow::Result<Brought> {
    let mut brought = Brought { counts: Vec::new(), left_out: source.left_out.clone() };
    for digest in subject.digests() {
        let mut objects = Objects::default();
        source.layout.add_objects(std::slice::from_ref(digest), &mut Budget::default(), &mut objects);
        let is_whole = source.left_out.is_empty() && objects.left_out.is_empty();
        brought.left_out.extend(objects.left_out);
        let count = if is_whole {
            store.replace(digest, &objects.found)?;
            objects.found.len()
        } else {
            store.merge(digest, &objects.found)?
        };
        brought.counts.push((*digest, count));
    }
    Ok(brought)
}

impl Brought {
    /// # Errors
    /// What is not there, and why.
    pub(super) fn is_whole(&self) -> anyhow::Result<()> {
        ensure!(
            self.left_out.is_empty(),
            "not all that is attached to the image could be had, so what the store had is kept beside the rest: {}",
            self.left_out.join("; ")
        );
        Ok(())
    }
}
