//! Which item a file is, by what is in it: whoever fills the cache by hand need not know names.

use coffer_attestation::snp::{Endorsement, Generation, SigningKey, amd_authorities};
use coffer_attestation::tdx;
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, RevocationList};

use super::item::Item;
use super::read::Roots;

const GENERATIONS: [Generation; 3] = [Generation::Milan, Generation::Genoa, Generation::Turin];

/// What `bytes` claim to be; [`Item::read`] says whether they are.
pub(super) fn recognise(bytes: &[u8], roots: &Roots, at: UnixTime) -> Option<Item> {
    list(bytes, roots).or_else(|| certificates(bytes)).or_else(|| {
        let (_, published) = tdx::appraise_collateral(bytes, &roots.tdx, at);
        Some(Item::Platform(published?.kind))
    })
}

fn list(bytes: &[u8], roots: &Roots) -> Option<Item> {
    let list = RevocationList::from_file(bytes).ok()?;
    let amd = |generation: &Generation| amd_authorities(*generation).any(|authority| list.is_of(authority));
    if let Some(generation) = GENERATIONS.into_iter().find(amd) {
        return Some(Item::List { generation, simulated: false });
    }
    let simulated = roots.snp.simulated().iter().any(|root| list.is_of(root));
    // Simulated processors are all of one generation.
    simulated.then_some(Item::List { generation: Generation::Turin, simulated: true })
}

fn certificates(bytes: &[u8]) -> Option<Item> {
    let all = Certificate::from_file(bytes).ok()?;
    let [first, others @ ..] = all.as_slice() else { return None };
    match Endorsement::read(first) {
        Ok(says) if others.is_empty() && says.kind == SigningKey::Vcek => {
            let chip = says.hardware_id?;
            Some(Item::Vcek { generation: says.generation, chip, tcb: says.tcb })
        }
        Ok(_) => None,
        // SEV-Milan below ARK-Milan.
        Err(_) => {
            let name = first.common_name()?;
            let generation = name.rsplit('-').find_map(Generation::from_product)?;
            Some(Item::Chain { generation })
        }
    }
}
