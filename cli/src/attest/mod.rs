//! `coffer attest`: says what evidence is worth, on any machine and without a network.
//!
//! ```text
//! verify --tee snp --report FILE --vek FILE [--ca FILE] [--crl FILE] [--at TIME] [--json] [--measurement HEX] …
//! verify --tee az-snp-vtpm --evidence FILE [--quote-data HEX] [--pcr N=HEX] …
//! verify --tee tdx --quote FILE [--collateral FILE] [--ccel FILE] [--at TIME] [--json] [--mr-td HEX] …
//! verify --tee az-tdx-vtpm --evidence FILE [--collateral FILE] [--quote-data HEX] [--pcr N=HEX] …
//! collateral --tcb-info FILE … --output FILE
//! ```
//! An option that the kind of evidence has no use for is an error. The verdict is the exit code too: 0 for affirming and warning, 3 for contraindicated and invalid. Input that cannot be
//! read is an error (1) and no verdict.
//!
//! Never here: a check. What is right and wrong is decided by `coffer-attestation`.

mod azure;
mod collateral;
mod given;
mod input;
mod shared;
mod snp;
mod table;
mod tdx;
mod verify;

pub(crate) use input::file as read_file;
pub(crate) use snp::minimum as minimum_firmware;
pub(crate) use verify::{AttestCommand, run};
