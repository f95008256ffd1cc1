//! Why a layer is refused.

use std::fmt;
use std::io;

use coffer_protocol::Digest;

/// Why a layer could not be unpacked. What was written until then is to be removed.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An archive of another kind, or compressed otherwise.
    #[error(
        "layers of media type {media_type:?} are not supported: OCI's and Docker's are, as tar, gzip or zstd"
    )]
    MediaType {
        /// What it says.
        media_type: String,
    },
    /// Whoever asks has to decrypt it first.
    #[error("the layer is encrypted ({media_type:?}), and no key for it is at hand")]
    Encrypted {
        /// What it says.
        media_type: String,
    },
    /// The blob could not be read.
    #[error("cannot read the layer's blob after {read} bytes")]
    Read {
        /// Bytes that had come.
        read: u64,
        /// The reader's answer.
        source: io::Error,
    },
    /// Another length than the manifest's.
    #[error("the layer has {found} bytes{}, the manifest says {expected}", if found > expected { " or more" } else { "" })]
    Size {
        /// By the manifest.
        expected: u64,
        /// What came; one more than expected if there is more.
        found: u64,
    },
    /// Other bytes than the manifest's.
    #[error("the layer hashes to {found}, the manifest says {expected}")]
    Digest {
        /// By the manifest.
        expected: Digest,
        /// Of what came.
        found: Digest,
    },
    /// Another archive than the configuration's.
    #[error("the layer's archive hashes to {found}, the image's configuration says {expected}")]
    DiffId {
        /// By the configuration.
        expected: Digest,
        /// Of what was unpacked.
        found: Digest,
    },
    /// The blob is not compressed as its media type says, or is cut short.
    #[error("the layer cannot be decompressed as {compression} after {bytes} bytes of its archive")]
    Decompress {
        /// By the media type.
        compression: &'static str,
        /// Bytes that could be.
        bytes: u64,
        /// The decoder's answer.
        source: io::Error,
    },
    /// More than is allowed of something.
    #[error("the layer has {found} {bound}, the most are {most}")]
    TooMuch {
        /// Of what.
        bound: Bound,
        /// How much is allowed.
        most: u64,
        /// How much there was when it was given up.
        found: u64,
    },
    /// The archive cannot be read.
    #[error("the layer's archive is broken at byte {position}")]
    Archive {
        /// Where the header begins.
        position: u64,
        /// What is wrong.
        #[source]
        fault: ArchiveFault,
    },
    /// An entry that no image needs.
    #[error("the layer's entry {entry:?} is refused")]
    Entry {
        /// Its name, cut to 200 characters.
        entry: String,
        /// What is wrong.
        #[source]
        fault: EntryFault,
    },
    /// The target could not be written.
    #[error("cannot {action} {entry:?}")]
    Write {
        /// What was tried.
        action: &'static str,
        /// The entry's name, cut to 200 characters.
        entry: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// What there is a limit for, as [`Limits`](super::Limits) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `bytes`.
    Bytes,
    /// `entries`.
    Entries,
    /// `path_bytes`.
    PathBytes,
    /// `depth`.
    Depth,
    /// `xattr_bytes`.
    XattrBytes,
    /// `all_xattr_bytes`.
    AllXattrBytes,
    /// `extension_bytes`.
    ExtensionBytes,
    /// `pieces`.
    Pieces,
    /// `ratio`.
    Ratio,
    /// `window_bytes`.
    WindowBytes,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes unpacked",
            Self::Entries => "entries",
            Self::PathBytes => "bytes in a path",
            Self::Depth => "components in a path",
            Self::XattrBytes => "bytes of extended attributes at one entry",
            Self::AllXattrBytes => "bytes of extended attributes",
            Self::ExtensionBytes => "bytes in an extended header",
            Self::Pieces => "pieces in a sparse file",
            Self::Ratio => "bytes of archive for a byte of the blob",
            Self::WindowBytes => "bytes in its compression's window",
        })
    }
}

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFault {
    /// It ends in the middle.
    #[error("it ends in the middle of an entry")]
    Truncated,
    /// A header that was not meant as one.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// A number that is none, or too large for what it says.
    #[error("{field} is no number that can be used")]
    Number {
        /// Of what.
        field: &'static str,
    },
    /// A type that images do not have.
    #[error("entries of type {flag:?} are not supported")]
    Kind {
        /// The header's type.
        flag: char,
    },
    /// Records of pax that are not of their form.
    #[error("an extended header is malformed")]
    Extension,
    /// Two headers that extend the same entry, of which readers take different ones.
    #[error("an entry is extended twice by {what}")]
    Repeated {
        /// The kind of header.
        what: &'static str,
    },
    /// A header that extends nothing.
    #[error("it ends after a header that extends the next")]
    Dangling,
    /// Pieces that overlap, are out of order, or do not add up.
    #[error("the pieces of a sparse file do not fit its size")]
    Sparse,
    /// Something behind the end.
    #[error("there are bytes behind its end")]
    Trailing,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// A name that names nothing.
    #[error("its name is empty")]
    Nameless,
    /// A name that leads upwards.
    #[error("its name climbs by ..")]
    Climbs,
    /// A name that readers cut differently.
    #[error("a name with a zero byte")]
    Nul,
    /// A name that stands for something that is not one.
    #[error("names that begin with .wh. are for whiteouts, and this is none")]
    Reserved,
    /// Something lies where a directory should.
    #[error("{parent:?}, which it should lie in, is no directory: links are not followed")]
    Parent {
        /// The part of the path.
        parent: String,
    },
    /// A hard link to nothing.
    #[error("{target:?}, which it should be a link to, is no file of this layer")]
    Target {
        /// What it says.
        target: String,
    },
    /// A whiteout by other means.
    #[error("a character device 0:0 would hide a file of a lower layer")]
    WhiteoutDevice,
    /// A device that Linux does not have.
    #[error("no device has the number {major}:{minor}")]
    Device {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// An attribute that overlayfs would obey.
    #[error("its extended attribute {name:?} is for file systems, not for images")]
    Xattr {
        /// The attribute.
        name: String,
    },
}

/// A name for an error: whatever is no text in it is replaced, and the end is cut.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// More than `most` of `bound` is refused.
pub(super) fn within(bound: Bound, most: u64, found: u64) -> Result<(), UnpackError> {
    if found > most { Err(UnpackError::TooMuch { bound, most, found }) } else { Ok(()) }
}
