//! A registry's directory (that of Debian's docker-registry), written and read without the registry running.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_image::artefact::{Attached, Digest, Document, Evidence};
use serde_json::{Value, json};

use crate::artefacts::{CONFIG, INDEX_TYPE, MANIFEST_TYPE};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

pub(crate) struct Store(PathBuf);

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self(root.join("docker/registry/v2"))
    }

    /// Puts an image, and what is attached to the bytes with the digest `to`, into `repository`.
    pub(crate) fn put(&self, repository: &str, manifests: &[&[u8]], to: &Digest, evidence: &Evidence) {
        self.blob(repository, CONFIG);
        for bytes in manifests {
            self.manifest(repository, bytes);
        }
        let mut referrers = Vec::new();
        let mut layers = Vec::new();
        for attached in evidence.attached() {
            match attached {
                Attached::Bundle(bytes) => referrers.push(self.bundle(repository, bytes, to)),
                Attached::SimpleSigning { payload, notes } => {
                    let mut annotations = json!({"dev.cosignproject.cosign/signature": notes.signature});
                    let mut note = |name: &str, value: &Option<String>| {
                        value.iter().for_each(|value| annotations[name] = json!(value));
                    };
                    note("dev.sigstore.cosign/certificate", &notes.certificate);
                    note("dev.sigstore.cosign/bundle", &notes.log);
                    let digest = self.blob(repository, payload);
                    layers.push(json!({
                        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                        "digest": digest.to_string(), "size": payload.len(), "annotations": annotations,
                    }));
                }
                other => panic!("no registry case has {}", other.kind()),
            }
        }
        if !referrers.is_empty() {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": referrers});
            self.tag(repository, &to.referrers_tag(), index.to_string().as_bytes());
        }
        if !layers.is_empty() {
            let config = json!({
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(CONFIG).to_string(), "size": CONFIG.len(),
            });
            let manifest =
                json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers});
            self.tag(repository, &to.signature_tag(), manifest.to_string().as_bytes());
        }
    }

    /// Attaches envelopes of notation to the bytes with the digest `to`, whatever they were made for.
    pub(crate) fn put_notation(&self, repository: &str, to: &Digest, evidence: &Evidence) {
        let kind = "application/vnd.cncf.notary.signature";
        let referrers = evidence.attached().iter().map(|attached| {
            let (media_type, bytes) = match attached {
                Attached::NotationJws(bytes) => ("application/jose+json", bytes),
                Attached::NotationCose(bytes) => ("application/cose", bytes),
                other => panic!("no envelope: {}", other.kind()),
            };
            let (config, layer) = (self.blob(repository, b"{}"), self.blob(repository, bytes));
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": kind, "digest": config.to_string(), "size": 2},
                "layers": [{"mediaType": media_type, "digest": layer.to_string(), "size": bytes.len()}],
                "subject": {"mediaType": MANIFEST_TYPE, "digest": to.to_string(), "size": 1},
                "annotations": {"io.cncf.notary.x509chain.thumbprint#S256": "[]"},
            })
            .to_string();
            let digest = self.manifest(repository, manifest.as_bytes());
            let size = manifest.len();
            json!({"mediaType": MANIFEST_TYPE, "digest": digest.to_string(), "size": size, "artifactType": kind})
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": referrers.collect::<Vec<Value>>()});
        self.tag(repository, &to.referrers_tag(), index.to_string().as_bytes());
    }

    /// Everything that is attached to the bytes with the digest `to`, as a host would hand it on.
    pub(crate) fn attached(&self, repository: &str, to: &Digest) -> Evidence {
        let mut evidence = Evidence::default();
        let mut add = |bytes: &[u8]| match Document::parse(bytes).expect("a document") {
            Document::Manifest(manifest) => {
                evidence.add_artefact(&manifest, &|digest| self.read(digest)).expect("an artefact");
                Vec::new()
            }
            Document::Index(index) => index.manifests,
        };
        for tag in [to.signature_tag(), to.referrers_tag()] {
            let Some(bytes) = self.tagged(repository, &tag) else { continue };
            for entry in add(&bytes) {
                add(&self.read(&entry.digest).expect("a manifest"));
            }
        }
        evidence
    }

    fn bundle(&self, repository: &str, bytes: &[u8], to: &Digest) -> Value {
        let empty = self.blob(repository, b"{}");
        let layer = self.blob(repository, bytes);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": BUNDLE,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.to_string(), "size": 2},
            "layers": [{"mediaType": BUNDLE, "digest": layer.to_string(), "size": bytes.len()}],
            "subject": {"mediaType": MANIFEST_TYPE, "digest": to.to_string(), "size": 1},
            "annotations": {
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
            },
        })
        .to_string();
        let digest = self.manifest(repository, manifest.as_bytes());
        json!({
            "mediaType": MANIFEST_TYPE, "digest": digest.to_string(), "size": manifest.len(), "artifactType": BUNDLE,
        })
    }

    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = self.write(bytes);
        let link = self.0.join("repositories").join(repository).join("_layers/sha256").join(digest.hex());
        put(&link.join("link"), digest.to_string().as_bytes());
        digest
    }

    fn manifest(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = self.write(bytes);
        let place = self.0.join("repositories").join(repository).join("_manifests/revisions/sha256");
        put(&place.join(digest.hex()).join("link"), digest.to_string().as_bytes());
        digest
    }

    pub(crate) fn tag(&self, repository: &str, tag: &str, bytes: &[u8]) {
        let digest = self.manifest(repository, bytes);
        put(&self.tag_link(repository, tag), digest.to_string().as_bytes());
    }

    fn tag_link(&self, repository: &str, tag: &str) -> PathBuf {
        self.0.join("repositories").join(repository).join("_manifests/tags").join(tag).join("current/link")
    }

    fn tagged(&self, repository: &str, tag: &str) -> Option<Vec<u8>> {
        let digest = fs::read_to_string(self.tag_link(repository, tag)).ok()?;
        self.read(&digest.parse().expect("a digest"))
    }

    fn write(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        put(&self.data(&digest), bytes);
        digest
    }

    fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        fs::read(self.data(digest)).ok()
    }

    fn data(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex()).join("data")
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}
