//! From what a guest sent to whether it is one that its owner knows.
//!
//! ```text
//! Attestation + Redeemed ── judge ── Judged: what the hardware proves, bound to nonce, key and initdata
//!                                      └── appraise, with References ── Appraised ── admit ── Admitted
//! ```
//! Default deny: without a reference value for each thing that is asked, the answer is no, and the missing value is named.
//! Only `admit` makes an [`Admitted`].
//!
//! Never here: secrets, tokens, the network.

mod builtin;
mod evidence;
mod reference;
mod registers;
mod signed_images;
mod signers;

pub use builtin::{Admitted, Appraised, Refused, all_that_hold, appraise};
pub use evidence::{Asked, JudgeError, Judged, Trust, judge};
pub use reference::{Firmware, Reference, ReferenceError, References, SignedBy};
pub use signed_images::{NotSigned, SignedImages, SignedImagesError};
pub use signers::{Signer, Signers};
