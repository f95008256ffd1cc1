//! Media types of layers that are encrypted.

/// What the media type of an encrypted layer ends with.
const SUFFIX: &str = "+encrypted";

/// The media type of what is encrypted in a layer; `None`: it is not encrypted.
pub fn decrypted_type(media_type: &str) -> Option<&str> {
    media_type.strip_suffix(SUFFIX)
}

/// The media type of a layer when it is encrypted.
pub fn encrypted_type(media_type: &str) -> String {
    format!("{media_type}{SUFFIX}")
}
