//! Reports of real hardware, through Linux's one interface for them (Documentation/ABI/testing/configfs-tsm).
//!
//! ```text
//! mkdir <report>/coffer-<n> ── write inblob ── read outblob, auxblob, provider ── generation is the one expected ── rmdir
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::Tee;
use coffer_attestation::tdx;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::AttestError;
use super::attester::{Attester, Evidence};

const CONFIGFS: &str = "/sys/kernel/config";
const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// Where MRCONFIGID is in a quote: behind its header of 48 bytes, in version 5 six more, at 184 of the body.
const MRCONFIGID: usize = 48 + 184;
const VERSION_5_MORE: usize = 6;

/// A secure processor that the guest's own kernel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SecureProcessor {
    /// What the host must call it.
    pub(crate) tee: &'static str,
    /// What the kernel's driver for it makes.
    pub(crate) device: &'static str,
}

/// Those that are known.
const PROCESSORS: [SecureProcessor; 2] = [
    SecureProcessor { tee: "snp", device: "/dev/sev-guest" },
    SecureProcessor { tee: "tdx", device: "/dev/tdx_guest" },
];

/// This guest's processor, if it has a secure one.
pub(crate) fn present() -> Option<SecureProcessor> {
    PROCESSORS.into_iter().find(|processor| Path::new(processor.device).exists())
}

/// The kernel's interface.
pub(super) struct ConfigFs;

/// What it answered.
struct Blobs {
    provider: String,
    out: Vec<u8>,
    aux: Vec<u8>,
}

#[async_trait]
impl Attester for ConfigFs {
    async fn evidence(&self, report_data: &[u8; 64]) -> Result<Evidence, AttestError> {
        let report_data = *report_data;
        // The firmware takes milliseconds, a quote of TDX goes through the host.
        let asked = tokio::task::spawn_blocking(move || ask(&report_data)).await;
        let asked = asked.unwrap_or_else(|_| Err(io::Error::other("the request was cut off")));
        let blobs = asked.map_err(|source| AttestError::Processor { source })?;
        match blobs.provider.trim() {
            "sev_guest" => Evidence::snp(&blobs.out, &blobs.aux),
            "tdx_guest" => of_quote(&blobs.out),
            other => {
                let reason = format!("the kernel's provider is {other:?}: sev_guest and tdx_guest are known");
                Err(AttestError::Evidence { reason })
            }
        }
    }
}

fn ask(report_data: &[u8; 64]) -> io::Result<Blobs> {
    if !Path::new(REPORTS).exists() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        match mount(Some("configfs"), CONFIGFS, Some("configfs"), flags, None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let entry = Entry::make()?;
    entry.write("inblob", report_data)?;
    let blobs = Blobs {
        provider: String::from_utf8_lossy(&entry.read("provider")?).into_owned(),
        out: entry.read("outblob")?,
        aux: entry.read("auxblob").unwrap_or_default(),
    };
    // One write was made: another number means that somebody else wrote too.
    let generation = String::from_utf8_lossy(&entry.read("generation")?).trim().to_owned();
    if generation != "1" {
        return Err(io::Error::other(format!("the report is of generation {generation}, not of the first")));
    }
    Ok(blobs)
}

/// One request's directory; it goes with this value.
struct Entry(PathBuf);

impl Entry {
    fn make() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(REPORTS).join(format!("coffer-{number}"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.0.join(name), bytes)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // An entry that stays costs a few bytes of the kernel's.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The evidence that a quote is; without an event log, which this kernel may not have.
fn of_quote(quote: &[u8]) -> Result<Evidence, AttestError> {
    let version = quote.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes));
    let at = MRCONFIGID + if version == Some(5) { VERSION_5_MORE } else { 0 };
    let initdata = quote.get(at..).and_then(|rest| rest.first_chunk::<48>());
    let initdata = initdata
        .ok_or_else(|| AttestError::Evidence { reason: format!("a quote has no {} bytes", quote.len()) })?;
    let json = json!({ "quote": Base64::encode_string(quote), "cc_eventlog": Value::Null });
    // Whoever judges it reads it so.
    tdx::coco::parse(json.to_string().as_bytes())
        .map_err(|error| AttestError::Evidence { reason: error.to_string() })?;
    Ok(Evidence { tee: Tee::Tdx, json, initdata: initdata.to_vec() })
}
