//! The real service in a process of its own, and a client for it.

mod process;

pub(crate) use process::{ADMIN, Answer, Ask, Place, Service};
