//! What evidence of every kind may be given with.

use std::path::PathBuf;

use clap::Args;
use coffer_attestation::x509::Certificate;

use super::input;

/// Options that do not depend on the kind of evidence.
#[derive(Args)]
pub(crate) struct SharedArguments {
    /// Evidence in JSON, as Confidential Containers' guest components send it
    #[arg(long, value_name = "FILE")]
    pub(crate) evidence: Option<PathBuf>,
    /// Expected report data, 64 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<64>)]
    pub(crate) report_data: Option<[u8; 64]>,
    /// Trust this root of a simulated processor too: whoever has its key can make any evidence
    #[arg(long, value_name = "FILE")]
    insecure_simulated_root: Option<PathBuf>,
}

impl SharedArguments {
    /// The simulated root, if the operator named one.
    pub(crate) fn simulated_root(&self) -> anyhow::Result<Option<Certificate>> {
        let read = |path| input::certificate(path, "the root certificate of a simulated processor");
        self.insecure_simulated_root.as_deref().map(read).transpose()
    }
}
