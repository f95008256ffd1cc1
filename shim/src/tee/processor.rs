//! Plays the secure processor: signs what was measured together with 64 bytes of the guest's choice.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use coffer_attestation::sim::{Launch, Processor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::door::Door;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers one request after the other: a guest that asks often waits for itself.
pub(super) async fn serve(mut door: Door, processor: Arc<Processor>, launch: Launch) {
    loop {
        let stream = door.next().await;
        if let Ok(Err(error)) | Err(error) =
            timeout(PATIENCE, answer(stream, &processor, &launch)).await.map_err(io::Error::from)
        {
            tracing::debug!(%error, "a request for a report came to nothing");
        }
    }
}

async fn answer(mut stream: UnixStream, processor: &Processor, launch: &Launch) -> io::Result<()> {
    let mut report_data = [0; 64];
    stream.read_exact(&mut report_data).await?;
    let vouched = processor.report(launch, &report_data);
    let table = vouched.table();
    for part in [vouched.report.as_slice(), &table] {
        stream.write_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX)).await?;
        stream.write_all(part).await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::sim::{Debug, FIRMWARE};
    use coffer_attestation::snp::UnverifiedReport;
    use tokio::net::UnixListener;

    use super::super::door::HostKey;

    #[tokio::test]
    async fn a_guest_chooses_64_bytes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let door = Door::new(UnixListener::bind(&path).unwrap(), HostKey([1; 32]));
        let launch =
            Launch { measurement: [1; 48], host_data: [2; 32], debug: Debug::Off, instance: [4; 32] };
        tokio::spawn(serve(door, Arc::new(Processor::new(&[7; 32], FIRMWARE)), launch));
        let mut guest = UnixStream::connect(&path).await.unwrap();
        guest.write_all(&[1; 32]).await.unwrap();
        guest.write_all(&[3; 64]).await.unwrap();
        // What follows is nobody's: it is not read.
        guest.write_all(&[9; 200]).await.unwrap();
        let length = guest.read_u32_le().await.unwrap();
        let mut report = vec![0; length as usize];
        guest.read_exact(&mut report).await.unwrap();
        let report = UnverifiedReport::parse(&report).unwrap();
        assert_eq!((report.report_data, report.measurement, report.host_data), ([3; 64], [1; 48], [2; 32]));
    }
}
