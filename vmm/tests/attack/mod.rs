//! A guest that attacks its devices.

mod code;

pub(crate) use code::guest;
