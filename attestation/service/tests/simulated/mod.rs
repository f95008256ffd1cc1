//! A simulated secure processor: what the tests of the service have in place of AMD's. No verifier believes it unless it is told
//! to.

mod processor;

pub(crate) use processor::{Processor, report};
