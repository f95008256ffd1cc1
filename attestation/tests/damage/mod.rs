//! What can become of bytes that were good, for properties over hostile input.

mod bytes;

pub(crate) use bytes::{Damage, damaged};
