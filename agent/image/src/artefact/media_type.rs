//! Media types of OCI's own documents (image-spec, media-types.md), as they are written; what is read may have others.

/// A manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The configuration of an image.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The two bytes `{}`, where a descriptor has to point to something.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
