//! Keys that never leave a hardware security module, used through its PKCS#11 module.
//!
//! ```text
//! address   pkcs11:token=…;object=…?module-path=…&pin-source=…     which key of which token
//! module    somebody else's library, loaded once
//! token     slot, login, key: found, and known to be one that cannot be taken out
//! worker    one thread that waits for the token, and callers that wait for it no longer than they like
//! ```
//! What is sealed is IV ‖ ciphertext ‖ tag of AES-256-GCM, computed by the token. The module is somebody else's library in this
//! process: it is loaded when the configuration names it and otherwise not, and one that hangs costs its thread.
//!
//! Never here: a key, or the decision what is sealed.

mod address;
mod module;
mod token;
mod worker;

pub use address::{AddressError, KeyAddress};
pub use token::{HsmError, make_key};
pub use worker::HsmKey;
