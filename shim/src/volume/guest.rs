//! What volumes need from the rest of the shim: the agent, and the machine.

use std::error::Error;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use coffer_protocol::agent::{ReadVolumeFileRequest, SyncVolumeRequest, Volume};

/// An answer of the agent or the machine; every call ends within a limit of its own.
pub(crate) type Answer<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The agent in the guest.
#[async_trait]
pub(crate) trait Guest: Send + Sync {
    /// `AddVolume`.
    async fn add_volume(&self, volume: Volume) -> Answer<()>;
    /// `RemoveVolume`.
    async fn remove_volume(&self, id: &str) -> Answer<()>;
    /// `SyncVolume`.
    async fn sync_volume(&self, part: SyncVolumeRequest) -> Answer<()>;
    /// `ReadVolumeFile`.
    async fn read_volume_file(&self, request: ReadVolumeFileRequest) -> Answer<Vec<u8>>;
    /// Opens a stream with the header `share <id>` and reads the reply; what is left is 9P.
    async fn open_share(&self, id: &str) -> Answer<OwnedFd>;
}

/// The virtual machine, and what the node remembers of it.
#[async_trait]
pub(crate) trait Machine: Send + Sync {
    /// Attaches a block device or image under a serial of at most 20 bytes.
    async fn attach_disk(&self, serial: &str, file: OwnedFd, read_only: bool) -> Answer<()>;
    /// Detaches it; the guest does not use it any more.
    async fn detach_disk(&self, serial: &str) -> Answer<()>;
    /// Puts a file server's process into the pod's record.
    fn note_server(&self, pid: u32);
    /// Takes it out when the process is gone.
    fn forget_server(&self, pid: u32);
}
