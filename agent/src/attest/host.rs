//! Connections to the ports of the host that are for the agent alone.

use std::fmt;
use std::io;

use coffer_protocol::HOST_KEY_BYTES;
use tokio::io::AsyncWriteExt;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};
use zeroize::Zeroizing;

/// What tells the host that the agent connects, and not a container: both can. It never leaves the agent's memory but for there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HostKey(Zeroizing<[u8; HOST_KEY_BYTES]>);

impl HostKey {
    /// As the host sent it; `None` if it has another length.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// A connection to a port of the host, with the key shown.
    pub(super) async fn connect(&self, port: u32) -> io::Result<VsockStream> {
        let mut stream = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await?;
        stream.write_all(self.0.as_slice()).await?;
        Ok(stream)
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_length_is_none_and_none_is_printed() {
        assert!(HostKey::read(&[1; 31]).is_none() && HostKey::read(&[]).is_none());
        assert_eq!(format!("{:?}", HostKey::read(&[1; 32])), "Some(HostKey)");
    }
}
