//! What containerd says of a container's image, and the bytes that it has.

use std::path::PathBuf;

use coffer_image::artefact::{Digest, DigestError};

use super::grpc::{Answers, Channel, GrpcError, NOT_FOUND};

#[allow(missing_docs, unreachable_pub, clippy::all)] // Generated.
mod generated {
    include!(concat!(env!("OUT_DIR"), "/containerd/mod.rs"));
}

use generated::containerd::{
    GetContainerRequest, GetContainerResponse, GetImageRequest, GetImageResponse, ReadContentRequest,
    ReadContentResponse,
};

const GET_CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const GET_IMAGE: &str = "/containerd.services.images.v1.Images/Get";
const READ_CONTENT: &str = "/containerd.services.content.v1.Content/Read";

/// Why containerd does not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerdError {
    /// The call.
    #[error("cannot ask containerd for {what}")]
    Call {
        /// What for.
        what: String,
        /// Why not.
        source: GrpcError,
    },
    /// A blob that is not there.
    #[error(
        "containerd has no bytes of {digest} ({what}) any more: pull the image again, and set discard_unpacked_layers = false in \
         containerd's configuration, which removes a layer's bytes once it is unpacked"
    )]
    Gone {
        /// The blob.
        digest: Digest,
        /// What it is of the image.
        what: String,
    },
    /// A digest that nobody else would take.
    #[error("containerd names the image {name} by a digest that cannot be used")]
    Digest {
        /// The image's name.
        name: String,
        /// What is wrong.
        source: DigestError,
    },
    /// Other bytes than the digest's.
    #[error(
        "containerd gives bytes for {digest} ({what}) that hash to {found}: its content store is damaged"
    )]
    Altered {
        /// What was asked for.
        digest: Digest,
        /// What it is of the image.
        what: String,
        /// Digest of the bytes.
        found: Digest,
    },
    /// More than is kept in memory.
    #[error("{digest} ({what}) is longer than {limit} bytes: it cannot be what it should be")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// What it is of the image.
        what: String,
        /// Most bytes.
        limit: usize,
    },
}

/// A connection to containerd.
#[derive(Clone)]
pub(super) struct Containerd {
    channel: Channel,
}

/// A blob, read piece by piece.
pub(super) struct Blob {
    digest: Digest,
    what: String,
    answers: Answers,
}

impl Containerd {
    /// Connects. `address` is a path, with or without `unix://` before it.
    pub(super) async fn connect(address: &str, namespace: &str) -> Result<Self, ContainerdError> {
        let socket = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
        let channel = Channel::connect(&socket, namespace).await.map_err(asking("a connection"))?;
        Ok(Self { channel })
    }

    /// The name of the image that a container was made of; empty: of none.
    pub(super) async fn image_of(&self, id: &str) -> Result<String, ContainerdError> {
        let request = GetContainerRequest { id: id.to_owned(), ..Default::default() };
        let answer: GetContainerResponse =
            self.channel.call(GET_CONTAINER, &request).await.map_err(asking(&format!("container {id}")))?;
        Ok(answer.container.into_option().unwrap_or_default().image)
    }

    /// The manifest or index that a name stands for; `None`: containerd has no image of that name.
    pub(super) async fn target_of(&self, name: &str) -> Result<Option<Digest>, ContainerdError> {
        let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let answer: GetImageResponse = match self.channel.call(GET_IMAGE, &request).await {
            Err(GrpcError::Status { code: NOT_FOUND, .. }) => return Ok(None),
            other => other.map_err(asking(&format!("the image {name}")))?,
        };
        let target = answer.image.into_option().and_then(|image| image.target.into_option());
        let digest = target.unwrap_or_default().digest.parse();
        digest.map(Some).map_err(|source| ContainerdError::Digest { name: name.to_owned(), source })
    }

    /// A short blob whole, held against its digest. `what` is for messages.
    pub(super) async fn read(
        &self,
        digest: &Digest,
        limit: usize,
        what: &str,
    ) -> Result<Vec<u8>, ContainerdError> {
        let mut blob = self.blob(digest, what).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = blob.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > limit {
                return Err(ContainerdError::TooLong { digest: *digest, what: what.to_owned(), limit });
            }
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ContainerdError::Altered { digest: *digest, what: what.to_owned(), found });
        }
        Ok(bytes)
    }

    /// A blob. Whether it is there is told by its first piece.
    pub(super) async fn blob(&self, digest: &Digest, what: &str) -> Result<Blob, ContainerdError> {
        let request = ReadContentRequest { digest: digest.to_string(), ..Default::default() };
        let answers = self.channel.open(READ_CONTENT, &request).await;
        let answers = answers.map_err(|err| not_read(err, digest, what))?;
        Ok(Blob { digest: *digest, what: what.to_owned(), answers })
    }
}

impl Blob {
    /// The next bytes, at least one; `None` after the last. They are not held against the digest.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, ContainerdError> {
        loop {
            let answer = self.answers.next::<ReadContentResponse>().await;
            match answer.map_err(|err| not_read(err, &self.digest, &self.what))? {
                None => return Ok(None),
                Some(piece) if piece.data.is_empty() => {}
                Some(piece) => return Ok(Some(piece.data)),
            }
        }
    }
}

fn not_read(error: GrpcError, digest: &Digest, what: &str) -> ContainerdError {
    match error {
        GrpcError::Status { code: NOT_FOUND, .. } => {
            ContainerdError::Gone { digest: *digest, what: what.to_owned() }
        }
        source => ContainerdError::Call { what: format!("{digest} ({what})"), source },
    }
}

fn asking(what: &str) -> impl FnOnce(GrpcError) -> ContainerdError {
    let what = what.to_owned();
    move |source| ContainerdError::Call { what, source }
}
