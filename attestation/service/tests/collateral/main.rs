//! Certificates and lists of makers: kept, fetched from services that a thread plays, and what becomes of evidence with them.

mod cases;
mod fetched;
mod forged;
mod judged;
mod kept;
mod played;
