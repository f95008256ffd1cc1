//! `coffer image encrypt`: encrypts the layers of an image of a directory, into another directory or the same.
//!
//! ```text
//! layers ── each encrypted under a key of its own, which is wrapped under the one of --key ──► `+encrypted` layers
//! configuration ── diff ids of placeholders, for nodes without keys ──► configuration
//! ```
//! Keys of layers are random, so twice the same image gives different bytes. What is signed is the new manifest, and not by this
//! command. [`placeholder`] is what containerd runs on nodes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use coffer_attestation::handshake::ResourceName;
use coffer_image::artefact::{Descriptor, Digest};
use coffer_layer::encrypted::{self, Fresh, WRAPPING_KEY_BYTES, encrypted_type};
use coffer_layer::unpack::Compression;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::local::{LocalArguments, Target, next_layer, open};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct EncryptArguments {
    #[command(flatten)]
    local: LocalArguments,
    /// Where guests ask for the key, and a file with its 32 bytes as they are: kbs:///TENANT/KIND/TAG=FILE. Give the same file to the
    /// verifier: `coffer secret put TENANT/KIND/TAG FILE`
    #[arg(long, value_name = "URI=FILE")]
    key: String,
}

/// What layers' keys are wrapped under.
struct WrappingKey {
    uri: String,
    bytes: Zeroizing<Vec<u8>>,
}

/// An encrypted layer: its descriptor, and the diff id of its placeholder.
#[derive(Clone)]
struct Encrypted {
    descriptor: Value,
    diff_id: Digest,
    digest: Digest,
    size: u64,
}

/// Encrypts and says what was made.
pub(crate) fn run(arguments: &EncryptArguments, as_json: bool) -> anyhow::Result<Health> {
    let local = &arguments.local;
    let key = wrapping_key(&arguments.key)?;
    let mut source = local.read()?;
    let to = local.target()?;
    // A layer that is there twice stays one.
    let mut made: BTreeMap<Digest, Encrypted> = BTreeMap::new();
    let mut layers = Vec::new();
    for (index, descriptor) in source.manifest.layers.iter().enumerate() {
        next_layer(index, source.manifest.layers.len(), descriptor);
        let encrypted = match made.get(&descriptor.digest) {
            Some(encrypted) => encrypted.clone(),
            None => encrypt(descriptor, &local.blob(&descriptor.digest), &key, &to)?,
        };
        made.insert(descriptor.digest, encrypted.clone());
        layers.push(encrypted);
    }
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    source.config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let tag = local.tag("encrypted");
    let descriptors: Vec<Value> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let digest = to.publish(&source, &descriptors, None, &tag)?;
    if as_json {
        let layers: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        output::json(&json!({"digest": digest, "tag": tag, "key": key.uri, "layers": layers}))?;
    } else {
        let row = |layer: &Encrypted| vec![layer.digest.to_string(), output::size(layer.size)];
        output::table(&["ENCRYPTED LAYER", "SIZE"], &layers.iter().map(row).collect::<Vec<_>>())?;
        println!("encrypted as {tag}, under {}: {digest}", key.uri);
    }
    Ok(Health::Well)
}

/// Runs as containerd's stream processor: what comes in is hashed, and the placeholder of a layer with that digest goes out.
pub(crate) fn placeholder() -> anyhow::Result<Health> {
    let (mut hasher, mut buffer, mut input) = (Sha256::new(), vec![0; 1 << 20], io::stdin().lock());
    loop {
        match input.read(&mut buffer).context("reading the encrypted layer")? {
            0 => break,
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    let archive = encrypted::placeholder(&Digest::from_bytes(hasher.finalize().into()));
    let mut output = io::stdout().lock();
    output.write_all(&archive).and_then(|()| output.flush()).context("writing the placeholder")?;
    Ok(Health::Well)
}

fn wrapping_key(said: &str) -> anyhow::Result<WrappingKey> {
    let (uri, file) = said.split_once('=').context("--key should be as in kbs:///acme/image-kek/web=FILE")?;
    ResourceName::parse(uri).context("--key")?;
    let path = PathBuf::from(file);
    let mut bytes = Zeroizing::new(Vec::with_capacity(WRAPPING_KEY_BYTES + 1));
    let most = u64::try_from(WRAPPING_KEY_BYTES + 1)?;
    open(&path)?.take(most).read_to_end(&mut bytes).with_context(|| format!("reading {file}"))?;
    ensure!(
        bytes.len() == WRAPPING_KEY_BYTES,
        "{file} has {} bytes{}: a key has {WRAPPING_KEY_BYTES}, as they are and not as text (head -c 32 /dev/urandom makes one)",
        bytes.len(),
        if bytes.len() > WRAPPING_KEY_BYTES { " or more" } else { "" }
    );
    Ok(WrappingKey { uri: uri.to_owned(), bytes })
}

fn encrypt(
    descriptor: &Descriptor,
    path: &std::path::Path,
    key: &WrappingKey,
    to: &Target<'_>,
) -> anyhow::Result<Encrypted> {
    let mut blob = to.blob()?;
    let mut plain = Hashed { inner: open(path)?, hasher: Sha256::new() };
    let encrypting = encrypted::encrypt(&mut plain, &mut blob, descriptor.digest, fresh()?)
        .with_context(|| format!("encrypting {}", path.display()))?;
    let found = Digest::from_bytes(plain.hasher.finalize().into());
    ensure!(found == descriptor.digest, "{} hashes to {found}: the directory is damaged", path.display());
    let envelope = encrypting.wrap(&key.uri, &key.bytes)?;
    let (digest, size) = to.keep(blob)?;
    let media_type = encrypted_type(Compression::of(&descriptor.media_type)?.media_type());
    // The plain layer's are left out: many builders put digests there, of its files or of the whole, and whoever has one can confirm
    // a guess of what is in it.
    let annotations = BTreeMap::from(envelope.annotations());
    let descriptor =
        json!({"mediaType": media_type, "digest": digest, "size": size, "annotations": annotations});
    Ok(Encrypted { descriptor, diff_id: Digest::of(&encrypted::placeholder(&digest)), digest, size })
}

fn fresh() -> anyhow::Result<Fresh> {
    let mut fresh = Fresh { key: Zeroizing::new([0; 32]), nonce: [0; 16], iv: [0; 12] };
    for room in [&mut fresh.key[..], &mut fresh.nonce, &mut fresh.iv] {
        getrandom::fill(room).map_err(|error| anyhow::anyhow!("no randomness for a layer's key: {error}"))?;
    }
    Ok(fresh)
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
