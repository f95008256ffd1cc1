//! What whoever makes a keyless signature looks at before anybody sees it: whom a certificate names, and whether what was made is
//! of one piece. Whether it is trusted says only a policy.

pub use crate::extension::{ALTERNATIVE_NAME, EXTENDED_USAGE, LOG_PROMISES, holder, oidc_issuer};
pub use crate::sigstore::{MadeError, check_made, check_stamp, check_use};
pub use crate::trusted_root::whole_seconds;
