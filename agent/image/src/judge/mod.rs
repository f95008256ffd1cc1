//! The verdict about an image: which rule decides, what each of its requirements found, and who signed.
//!
//! ```text
//! Policy + Subject + Evidence + time ── judge ──> Judgement ── into_admitted ──> Admitted, or Refusal with the reason
//! ```
//! Only [`Judgement::into_admitted`] makes an [`Admitted`]: what mounts an image takes nothing else. Never here: a way to go on
//! without a policy.

mod decide;
mod verdict;

pub use decide::judge;
pub use verdict::{Admitted, Attempt, Decision, Judged, Judgement, Refusal, Signer};
