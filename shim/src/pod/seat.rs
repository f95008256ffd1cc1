//! What the volumes see of a guest: its agent, its streams and its machine.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coffer_node::process::ProcessId;
use coffer_node::record::{PodRecord, Resource};
use coffer_protocol::agent::{ReadVolumeFileRequest, SyncVolumeRequest, Volume};
use coffer_protocol::{STREAM_PORT, StreamHeader, StreamHeaderError};
use coffer_vmm::spec::Disk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::agent::Agent;
use super::error::{PodError, chain};
use crate::hypervisor::{self, connect};
use crate::volume::{self, Answer};

/// How long the agent may take to accept a stream.
const STREAM_LIMIT: Duration = Duration::from_secs(10);

/// The longest answer to a stream's header.
const MAX_LINE: usize = 512;

/// Opens a byte stream to the guest whose machine has this run directory.
pub(super) async fn open_stream(
    run_dir: &std::path::Path,
    header: &StreamHeader,
) -> Result<UnixStream, PodError> {
    open_stream_within(run_dir, header, STREAM_LIMIT).await
}

/// As [`open_stream`], where the agent may have to wait before it accepts.
pub(super) async fn open_stream_within(
    run_dir: &std::path::Path,
    header: &StreamHeader,
    limit: Duration,
) -> Result<UnixStream, PodError> {
    let doing = "open a stream to the guest";
    let opened = async {
        let mut stream = connect(run_dir, STREAM_PORT).await.map_err(|err| PodError::host(doing, err))?;
        greet(&mut stream, header).await.map_err(|err| PodError::host(doing, err))?;
        Ok(stream)
    };
    let late = PodError::Late { doing: "opening a stream to the guest", limit };
    timeout(limit, opened).await.unwrap_or(Err(late))
}

/// Sends a stream's header and reads the answer, not a byte beyond it.
async fn greet(stream: &mut UnixStream, header: &StreamHeader) -> std::io::Result<()> {
    stream.write_all(format!("{header}\n").as_bytes()).await?;
    let mut line = Vec::with_capacity(8);
    loop {
        match stream.read_u8().await? {
            b'\n' => {
                let text = String::from_utf8_lossy(&line);
                return coffer_protocol::parse_reply(&text).map_err(std::io::Error::other);
            }
            _ if line.len() == MAX_LINE => {
                return Err(std::io::Error::other(StreamHeaderError::TooLong { length: MAX_LINE }));
            }
            byte => line.push(byte),
        }
    }
}

/// The agent, as volumes call it.
pub(super) struct AgentSeat {
    pub(super) agent: Agent,
    pub(super) run_dir: PathBuf,
}

#[async_trait]
impl volume::Guest for AgentSeat {
    async fn add_volume(&self, volume: Volume) -> Answer<()> {
        Ok(self.agent.add_volume(&volume).await?)
    }

    async fn remove_volume(&self, id: &str) -> Answer<()> {
        Ok(self.agent.remove_volume(id).await?)
    }

    async fn sync_volume(&self, part: SyncVolumeRequest) -> Answer<()> {
        Ok(self.agent.sync_volume(&part).await?)
    }

    async fn read_volume_file(&self, request: ReadVolumeFileRequest) -> Answer<Vec<u8>> {
        Ok(self.agent.read_volume_file(&request).await?)
    }

    async fn open_share(&self, id: &str) -> Answer<OwnedFd> {
        let header = StreamHeader::Share { volume: id.to_owned() };
        let stream = open_stream(&self.run_dir, &header).await?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream.into())
    }
}

/// The machine, as volumes call it.
pub(super) struct MachineSeat {
    pub(super) machine: Arc<dyn hypervisor::Machine>,
    pub(super) record: PodRecord,
}

/// A file server's role in the record.
const SHARE: &str = "share";

#[async_trait]
impl volume::Machine for MachineSeat {
    async fn attach_disk(&self, serial: &str, file: OwnedFd, read_only: bool) -> Answer<()> {
        Ok(self.machine.attach_disk(Disk { serial: serial.to_owned(), file, read_only }).await?)
    }

    async fn detach_disk(&self, serial: &str) -> Answer<()> {
        Ok(self.machine.detach_disk(serial).await?)
    }

    fn note_server(&self, pid: u32) {
        note_process(&self.record, pid, SHARE);
    }

    fn forget_server(&self, pid: u32) {
        let noted = self.record.snapshot().resources.into_iter().find(|resource| {
            matches!(resource, Resource::Process { process, role }
                if role == SHARE && u32::try_from(process.pid) == Ok(pid))
        });
        if let Some(noted) = noted
            && let Err(err) = self.record.forget(&noted)
        {
            tracing::warn!(error = chain(&err), "a process that is gone stays in the record");
        }
    }
}

/// Puts a process that runs for the pod into its record.
pub(super) fn note_process(record: &PodRecord, pid: u32, role: &str) {
    let process = i32::try_from(pid).ok().and_then(|pid| ProcessId::of(pid).ok());
    if let Some(process) = process
        && let Err(err) = record.add(Resource::Process { process, role: role.to_owned() })
    {
        tracing::warn!(role, error = chain(&err), "a process is not in the record");
    }
}
