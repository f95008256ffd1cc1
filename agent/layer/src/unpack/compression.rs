//! What a layer's media type says, and the bytes of its archive.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::blob::Blob;
use super::error::{UnpackError, shown};
use super::zstd::Frames;

/// Bytes that a decoder takes at once.
const CHUNK: usize = 128 << 10;

/// How a layer's archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Compression {
    /// What `media_type` says, if layers of it can be unpacked.
    pub fn of(media_type: &str) -> Result<Self, UnpackError> {
        let kinds = [
            Compression::Plain.media_type(),
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
        ];
        if media_type.ends_with("+encrypted") {
            return Err(UnpackError::Encrypted { media_type: shown(media_type.as_bytes()) });
        }
        let suffix = kinds.iter().find_map(|kind| media_type.strip_prefix(kind));
        match suffix {
            Some("") => Ok(Self::Plain),
            Some("+gzip" | ".gzip") => Ok(Self::Gzip),
            Some("+zstd" | ".zstd") => Ok(Self::Zstd),
            _ => Err(UnpackError::MediaType { media_type: shown(media_type.as_bytes()) }),
        }
    }

    /// The media type of OCI for layers of it (image-spec, layer.md), which [`Self::of`] takes among others.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Its name in an error.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "a plain archive",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A blob's archive.
pub(super) enum Decoder<R: Read> {
    Plain(Blob<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Blob<R>>>>),
    Zstd(Box<Frames<BufReader<Blob<R>>>>),
}

impl<R: Read> Decoder<R> {
    /// Decompresses `blob`; a window of zstd has `window` bytes at most.
    pub(super) fn new(compression: Compression, blob: Blob<R>, window: u64) -> Self {
        let buffered = |blob| BufReader::with_capacity(CHUNK, blob);
        match compression {
            Compression::Plain => Self::Plain(blob),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(buffered(blob)))),
            Compression::Zstd => Self::Zstd(Box::new(Frames::new(buffered(blob), window))),
        }
    }

    /// What it reads from.
    pub(super) fn blob(&self) -> &Blob<R> {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(frames) => frames.source().get_ref(),
        }
    }

    /// The blob alone, of which everything up to here was read.
    pub(super) fn into_blob(self) -> Blob<R> {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Zstd(frames) => frames.into_source().into_inner(),
        }
    }

    /// The window that a frame of zstd asked for, if it was too large.
    pub(super) fn wide(&self) -> Option<u64> {
        match self {
            Self::Zstd(frames) => frames.wide(),
            _ => None,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_types_of_oci_and_docker_are_known() {
        for known in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            assert_eq!(Compression::of(known.media_type()).unwrap(), known);
        }
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(Compression::of(docker).unwrap(), Compression::Gzip);
    }

    #[test]
    fn an_encrypted_layer_is_said_to_be_encrypted() {
        let refused = Compression::of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        assert!(matches!(refused, Err(UnpackError::Encrypted { .. })));
    }

    #[test]
    fn other_media_types_are_refused() {
        let others = [
            "",
            "text/plain",
            "application/vnd.oci.image.layer.v1.tar+xz",
            "application/vnd.oci.image.layer.v1.targ",
        ];
        assert!(
            others.iter().all(|other| matches!(Compression::of(other), Err(UnpackError::MediaType { .. })))
        );
    }
}
