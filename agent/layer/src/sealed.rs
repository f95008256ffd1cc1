//! What the manifest of a sealed image says of its files (`dev.coffer.sealed.v1`), which its signature covers:
//!
//! ```text
//! {"layers":[{"data-bytes":N,"root":"<64 hex>","salt":"<64 hex>"}, …]}       lowest layer first
//! .coffer/<n>.erofs in the image's only layer = N bytes of EROFS, then their dm-verity tree
//! ```

use std::fmt;
use std::str::FromStr;

use coffer_protocol::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::verity::{BLOCK, Root, Salt, tree_bytes};

/// The manifest's annotation.
pub const ANNOTATION: &str = "dev.coffer.sealed.v1";

/// The directory of the files, in the image's root.
pub const DIRECTORY: &str = ".coffer";

/// The most layers of one image: overlayfs and containerd take no more than about that.
pub const MAX_LAYERS: usize = 128;

/// The longest annotation, in bytes: far more than the most layers need.
pub const MAX_BYTES: usize = 64 << 10;

/// The most bytes of data in one file: 2^48, so that no sum with it overflows.
const MAX_DATA_BYTES: u64 = 1 << 48;

/// The files of a sealed image, lowest layer first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sealed {
    layers: Vec<SealedLayer>,
}

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SealedLayer {
    /// Bytes of the EROFS image, padded: a positive multiple of 4096. The tree begins there.
    pub data_bytes: u64,
    /// The tree's root.
    pub root: Root,
    /// The tree's salt.
    pub salt: Salt,
}

/// Why a text does not say what a sealed image's files are.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// Longer than anything that is meant.
    #[error("the annotation {ANNOTATION} has {found} bytes, the most are {MAX_BYTES}")]
    Long {
        /// Its length.
        found: usize,
    },
    /// Not of the form above.
    #[error("the annotation {ANNOTATION} is not of its form")]
    Form(#[source] serde_json::Error),
    /// None, or more than a guest can stack.
    #[error("a sealed image has 1 to {MAX_LAYERS} layers, this one has {found}")]
    Layers {
        /// How many.
        found: usize,
    },
    /// A size that no file can have.
    #[error(
        "layer {index} has {found} bytes of data: it should be a positive multiple of {BLOCK}, 2^48 at most"
    )]
    DataBytes {
        /// Which, from 0.
        index: usize,
        /// What it says.
        found: u64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    layers: Vec<SealedLayer>,
}

impl Sealed {
    /// Checks number and sizes of `layers`, which are named from the lowest up.
    pub fn new(layers: Vec<SealedLayer>) -> Result<Self, SealedError> {
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(SealedError::Layers { found: layers.len() });
        }
        let odd = |bytes: u64| bytes == 0 || !bytes.is_multiple_of(BLOCK) || bytes > MAX_DATA_BYTES;
        match layers.iter().enumerate().find(|(_, layer)| odd(layer.data_bytes)) {
            Some((index, layer)) => Err(SealedError::DataBytes { index, found: layer.data_bytes }),
            None => Ok(Self { layers }),
        }
    }

    /// Reads the annotation's value.
    pub fn parse(text: &str) -> Result<Self, SealedError> {
        if text.len() > MAX_BYTES {
            return Err(SealedError::Long { found: text.len() });
        }
        let written: Written = serde_json::from_str(text).map_err(SealedError::Form)?;
        Self::new(written.layers)
    }

    /// The files, lowest layer first.
    pub fn layers(&self) -> &[SealedLayer] {
        &self.layers
    }
}

impl SealedLayer {
    /// Bytes of the whole file: data and tree.
    pub fn file_bytes(&self) -> u64 {
        self.data_bytes.saturating_add(tree_bytes(self.data_bytes))
    }
}

/// The path of the file of layer `index` in the image, the lowest being 0: `.coffer/<index>.erofs`.
pub fn file_name(index: usize) -> String {
    format!("{DIRECTORY}/{index}.erofs")
}

/// The salt of the file of the layer with this diff id: another for each, and the same whenever it is sealed.
pub fn salt(diff_id: &Digest) -> Salt {
    let hasher = Sha256::new_with_prefix(ANNOTATION).chain_update([0]);
    Salt(hasher.chain_update(diff_id.as_bytes()).finalize().into())
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Sealed {
    type Err = SealedError;

    fn from_str(text: &str) -> Result<Self, SealedError> {
        Self::parse(text)
    }
}

impl Serialize for Root {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digits(deserializer).map(Root)
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digits(deserializer).map(Salt)
    }
}

fn digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let bytes = hex::decode(&text).ok().filter(|_| lower).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| serde::de::Error::custom("64 lower-case hexadecimal digits were expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(data_bytes: u64) -> SealedLayer {
        SealedLayer { data_bytes, root: Root([1; 32]), salt: Salt([2; 32]) }
    }

    fn text(entry: &str) -> String {
        format!("{{\"layers\":[{entry}]}}")
    }

    fn entry(bytes: &str, root: &str) -> String {
        format!("{{\"data-bytes\":{bytes},\"root\":\"{root}\",\"salt\":\"{}\"}}", "02".repeat(32))
    }

    #[test]
    fn what_is_written_is_read() {
        let sealed = Sealed::new(vec![layer(4096), layer(8192)]).unwrap();
        assert_eq!(Sealed::parse(&sealed.to_string()).unwrap(), sealed);
        let first = text(&entry("4096", &"01".repeat(32)));
        assert_eq!(Sealed::new(vec![layer(4096)]).unwrap().to_string(), first);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let odd = text(&entry("4096", &"01".repeat(32)).replace("}", ",\"more\":1}"));
        assert!(matches!(Sealed::parse(&odd), Err(SealedError::Form(_))));
        assert!(matches!(Sealed::parse("{\"layers\":[],\"more\":1}"), Err(SealedError::Form(_))));
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let twice = text(&entry("4096", &"01".repeat(32)).replace("}", ",\"data-bytes\":8192}"));
        assert!(matches!(Sealed::parse(&twice), Err(SealedError::Form(_))));
    }

    #[test]
    fn sizes_that_are_no_blocks_are_refused() {
        let found =
            [0, 4095, 4097, (1 << 48) + 4096].map(|bytes| Sealed::new(vec![layer(4096), layer(bytes)]));
        assert!(found.iter().all(|found| matches!(found, Err(SealedError::DataBytes { index: 1, .. }))));
        assert!(Sealed::parse(&text(&entry("-4096", &"01".repeat(32)))).is_err());
    }

    #[test]
    fn none_and_129_layers_are_refused() {
        assert!(matches!(Sealed::new(vec![]), Err(SealedError::Layers { found: 0 })));
        assert!(matches!(Sealed::new(vec![layer(4096); 129]), Err(SealedError::Layers { found: 129 })));
        assert!(Sealed::parse(&Sealed::new(vec![layer(4096); 128]).unwrap().to_string()).is_ok());
    }

    #[test]
    fn roots_of_other_forms_are_refused() {
        let odd = ["01".repeat(31), "01".repeat(33), "AB".repeat(32), "zz".repeat(32)];
        assert!(odd.iter().all(|root| Sealed::parse(&text(&entry("4096", root))).is_err()));
    }

    #[test]
    fn each_layer_has_a_salt_of_its_own_and_always_the_same() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        assert_eq!(salt(&one), salt(&one));
        assert_ne!(salt(&one), salt(&other));
    }

    #[test]
    fn a_text_without_end_is_refused_by_its_length() {
        let long = " ".repeat(MAX_BYTES + 1);
        assert!(matches!(Sealed::parse(&long), Err(SealedError::Long { .. })));
    }
}
