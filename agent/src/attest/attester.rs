//! Evidence: what the secure processor says of this guest, bound to 64 bytes.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use coffer_attestation::handshake::Tee;
use coffer_attestation::snp::{ReportBytes, UnverifiedReport, coco, table};
use coffer_protocol::PROCESSOR_PORT;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_vsock::VsockStream;

use super::tsm::ConfigFs;
use super::{AttestError, HostKey};

/// How long a report may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest part of an answer, in bytes.
const MAX_PART: u32 = 64 << 10;

/// Something that vouches for this guest.
#[async_trait]
pub(super) trait Attester: Send + Sync {
    /// A report that carries `report_data`.
    async fn evidence(&self, report_data: &[u8; 64]) -> Result<Evidence, AttestError>;
}

/// What it says.
pub(super) struct Evidence {
    pub(super) tee: Tee,
    /// In the form of its kind.
    pub(super) json: Value,
    /// What the host gave at launch and cannot change any more: the initdata's digest.
    pub(super) initdata: Vec<u8>,
}

/// The attester that the host names; the evidence says whether that was true.
pub(super) fn named(tee: &str, host_key: &HostKey) -> Result<Box<dyn Attester>, AttestError> {
    match tee {
        "sim" => Ok(Box::new(Simulated(host_key.clone()))),
        "snp" | "tdx" => Ok(Box::new(ConfigFs)),
        other => Err(AttestError::Tee { found: other.chars().take(32).collect() }),
    }
}

impl Evidence {
    /// From a report of SEV-SNP and the host's table of certificates.
    pub(super) fn snp(report: &[u8], certificates: &[u8]) -> Result<Self, AttestError> {
        let refused = |reason: String| AttestError::Evidence { reason };
        let bytes: &ReportBytes =
            report.try_into().map_err(|_| refused(format!("a report has no {} bytes", report.len())))?;
        let parsed = UnverifiedReport::parse(bytes).map_err(|error| refused(error.to_string()))?;
        let certificates = table::read(certificates).map_err(|error| refused(error.to_string()))?;
        let json = coco::write(bytes, &certificates).map_err(|error| refused(error.to_string()))?;
        Ok(Self { tee: Tee::Snp, json, initdata: parsed.host_data.to_vec() })
    }
}

/// The processor that the shim plays.
struct Simulated(HostKey);

#[async_trait]
impl Attester for Simulated {
    async fn evidence(&self, report_data: &[u8; 64]) -> Result<Evidence, AttestError> {
        let asked = async {
            let mut stream = self.0.connect(PROCESSOR_PORT).await?;
            stream.write_all(report_data).await?;
            Ok((part(&mut stream).await?, part(&mut stream).await?))
        };
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let answered = timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()));
        let (report, certificates) = answered.map_err(|source| AttestError::Processor { source })?;
        Evidence::snp(&report, &certificates)
    }
}

async fn part(stream: &mut VsockStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32_le().await?;
    if length > MAX_PART {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a part of {length} bytes")));
    }
    let mut part = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut part).await?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::sim::{Debug, FIRMWARE, Launch, Processor};

    fn launch() -> Launch {
        Launch { measurement: [1; 48], host_data: [2; 32], debug: Debug::Off, instance: [3; 32] }
    }

    #[test]
    fn a_report_becomes_evidence_that_reads_as_the_same_bytes() {
        let vouched = Processor::new(&[7; 32], FIRMWARE).report(&launch(), &[9; 64]);
        let evidence = Evidence::snp(&vouched.report, &vouched.table()).unwrap();
        assert_eq!((evidence.tee, evidence.initdata.as_slice()), (Tee::Snp, &[2; 32][..]));
        let read = coco::parse(evidence.json.to_string().as_bytes(), None).unwrap();
        assert_eq!(read.report, vouched.report);
        assert_eq!(read.vek.der(), vouched.certificates[0].1);
        assert_eq!(read.authorities.len(), 2);
    }

    #[test]
    fn what_is_no_report_or_no_table_is_refused() {
        let vouched = Processor::new(&[7; 32], FIRMWARE).report(&launch(), &[9; 64]);
        assert!(Evidence::snp(&vouched.report[1..], &[]).is_err());
        assert!(Evidence::snp(&vouched.report, &[1; 30]).is_err());
    }

    #[test]
    fn a_processor_that_nobody_knows_is_refused() {
        assert!(
            matches!(named("cca", &HostKey::read(&[0; 32]).unwrap()), Err(AttestError::Tee { found }) if found == "cca")
        );
    }
}
