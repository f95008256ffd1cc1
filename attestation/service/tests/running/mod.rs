//! The real service as a process, and clients for it.

mod operators;
pub(crate) mod process;

pub(crate) use operators::{OPERATORS, stranger};
pub(crate) use process::{
    Answer, Ask, Conversation, Heard, Place, SIGNER, Service, Tls, client, pem, signed,
};
