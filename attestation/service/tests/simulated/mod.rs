//! A simulated secure processor: what the tests of the service have in place of AMD's. No verifier believes it unless it is told
//! to.

mod processor;

#[allow(unused_imports, reason = "each test takes what it needs")]
pub(crate) use processor::{NOW, Processor, report};
