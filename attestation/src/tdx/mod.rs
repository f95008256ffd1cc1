//! Intel TDX evidence: the quote, Intel's collateral about the platform, and the log of what booted.
//!
//! ```text
//! quote ── certification data: PCK leaf ── Platform or Processor CA ── Intel SGX Root CA (pinned)
//!   │          │ signs
//!   │       QE report ── binds the attestation key, which signs header and TD report
//!   └─ TD report ── MRTD, RTMR0..3 ── event log (CCEL) replayed
//! collateral: TCB info, QE identity (signed by Intel's TCB signing key), CRLs ── TCB status
//! ```
//! [`appraise()`] makes every check and concludes. `coco` reads the JSON form of Confidential Containers.
//!
//! Never here: network, clocks, files.

mod answers;
mod appraise;
mod attributes;
mod body;
mod ccel_table;
mod chain;
mod claims;
pub mod coco;
mod collateral;
mod domain;
mod enclave;
mod event_log;
mod events;
mod expectations;
mod hexadecimal;
mod pck;
mod platform_checks;
mod platform_status;
mod published;
mod qe_identity;
mod quote;
mod replay;
mod roots;
mod signatures;
mod statement;
mod tcb_info;
mod tcb_status;

pub use answers::{Answers, issuer_chain};
pub use appraise::{Evidence, appraise};
pub(crate) use appraise::{Guest, appraise_guest};
pub use attributes::{TdAttributes, Xfam};
pub use body::{ServiceTd, TdReport};
pub use ccel_table::{CCEL_TABLE_BYTES, CcelTable, CcelTableError};
pub use collateral::{CollateralError, MAX_COLLATERAL_BYTES, UnverifiedCollateral, UnverifiedStatement};
pub use enclave::{ENCLAVE_REPORT_BYTES, EnclaveReport};
pub use event_log::{Event, EventLog, EventLogError, MAX_EVENTS, MAX_LOG_BYTES};
pub use expectations::Expectations;
pub use pck::{Configuration, Platform, PlatformError, PlatformTcb};
pub use published::{PckAuthority, PlatformKind, Published, appraise_collateral};
pub use qe_identity::{QeIdentity, QeIdentityError};
pub use quote::{MAX_QUOTE_BYTES, QuoteError, UnverifiedQuote};
pub use replay::{NoSuchRegister, Replayed};
pub use roots::{Root, TrustedRoots};
pub use tcb_info::{IsvLevel, TcbInfo, TcbInfoError, TcbLevel, TdxModule, TdxModuleIdentity};
pub use tcb_status::TcbStatus;
