//! Images for tests, without a signature.

use coffer_attestation::handshake::ImageRecord;
use coffer_image::UnixTime;
use coffer_layer::encrypted::{Envelope, Fresh, encrypt, encrypted_type, placeholder};
use coffer_protocol::Digest;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Blob, Bytes, Claim, Gate, NodePolicy, Verdict};

/// The media type of an archive that is not packed.
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// When images are judged.
pub(super) const NOW: UnixTime = UnixTime(1_800_000_000);

/// A descriptor of these bytes.
pub(super) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// The configuration of an image of these layers.
pub(super) fn configuration(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into_bytes()
}

/// A layer with one file.
pub(crate) fn archive(path: &str, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(content.len()).unwrap());
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, path, content).unwrap();
    builder.into_inner().unwrap()
}

/// An image of these layers, which are archives that are not packed.
pub(crate) fn image(layers: &[&[u8]], annotations: Value) -> Claim {
    let configuration = configuration(layers);
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
        "layers": layers.iter().map(|layer| descriptor(TAR, layer)).collect::<Vec<Value>>(),
        "annotations": annotations,
    });
    let manifest = manifest.to_string().into_bytes();
    Claim { reference: "r.example.com/app:v1".to_owned(), manifest, configuration, ..Claim::default() }
}

/// An image with one sealed layer, which lies on a disk of 8 KiB and more.
pub(crate) fn sealed_image() -> Claim {
    let layer = json!({"data-bytes": 8192, "root": "11".repeat(32), "salt": "22".repeat(32)});
    let sealed = json!({"layers": [layer]}).to_string();
    image(&[b"tar"], json!({"dev.coffer.sealed.v1": sealed}))
}

/// A node's policy of one requirement without members.
pub(crate) fn policy(kind: &str, dry_run: bool) -> NodePolicy {
    NodePolicy { document: json!({"default": [{"type": kind}]}).to_string().into_bytes(), dry_run }
}

/// A gate that lets every image run, once it has looked at it.
pub(super) fn accepting() -> Gate {
    Gate::of_node(Some(&policy("insecureAcceptAnything", false))).unwrap()
}

/// An image that was admitted.
pub(super) fn admitted(claim: Claim) -> (ImageRecord, Bytes) {
    match accepting().judge(claim, NOW).unwrap() {
        Verdict::Admitted { admission, .. } => admission.into_parts(),
        other => panic!("{other:?}"),
    }
}

/// What encrypted layers' keys are wrapped under, and what it is called.
pub(crate) const WRAPPING_KEY: [u8; 32] = [7; 32];
pub(crate) const KEY: &str = "kbs:///acme/image-kek/web";

/// Which diff ids the configuration of an encrypted image has.
#[derive(Clone, Copy)]
pub(crate) enum Keyless {
    /// Those of what is encrypted: nobody can unpack it without a key.
    True,
    /// Those of what nodes unpack in its place.
    Placeholder,
}

/// An encrypted layer.
pub(super) fn encrypted_layer(plain: &[u8], key: &str) -> (Vec<u8>, Envelope) {
    let fresh = Fresh { key: Zeroizing::new([1; 32]), nonce: [2; 16], iv: [3; 12] };
    let mut blob = Vec::new();
    let encrypting = encrypt(&mut &*plain, &mut blob, Digest::of(plain), fresh).unwrap();
    (blob, encrypting.wrap(key, &WRAPPING_KEY).unwrap())
}

/// A layer's annotations.
pub(super) fn annotations(envelope: &Envelope) -> Value {
    let [(key, wrapped), (options, public)] = envelope.annotations();
    json!({ key: wrapped, options: public })
}

/// An image of these layers, encrypted, and the encrypted blobs.
pub(crate) fn encrypted_image(layers: &[&[u8]], key: &str, keyless: Keyless) -> (Claim, Vec<Vec<u8>>) {
    let made: Vec<(Vec<u8>, Envelope)> = layers.iter().map(|plain| encrypted_layer(plain, key)).collect();
    let places: Vec<Vec<u8>> = match keyless {
        Keyless::True => layers.iter().map(|plain| plain.to_vec()).collect(),
        Keyless::Placeholder => {
            made.iter().map(|(blob, _)| placeholder(&Digest::of(blob)).to_vec()).collect()
        }
    };
    let places: Vec<&[u8]> = places.iter().map(Vec::as_slice).collect();
    let mut claim = image(&places, json!({}));
    let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
    for (index, (blob, envelope)) in made.iter().enumerate() {
        let mut layer = descriptor(&encrypted_type(TAR), blob);
        layer["annotations"] = annotations(envelope);
        manifest["layers"][index] = layer;
    }
    claim.manifest = manifest.to_string().into_bytes();
    (claim, made.into_iter().map(|(blob, _)| blob).collect())
}

/// The encrypted archives of an admitted image of these layers, and their bytes.
pub(crate) fn encrypted_blobs(layers: &[&[u8]], keyless: Keyless) -> (Vec<Blob>, Vec<Vec<u8>>) {
    let (claim, bytes) = encrypted_image(layers, KEY, keyless);
    (admitted_blobs(claim), bytes)
}

/// The archives of an admitted image of these layers.
pub(crate) fn blobs(layers: &[&[u8]]) -> Vec<Blob> {
    admitted_blobs(image(layers, json!({})))
}

/// The archives of an image that was admitted.
pub(crate) fn admitted_blobs(claim: Claim) -> Vec<Blob> {
    match admitted(claim).1 {
        Bytes::Blobs(blobs) => blobs,
        Bytes::Sealed(sealed) => panic!("{sealed:?}"),
    }
}
