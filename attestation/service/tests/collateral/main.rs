//! Certificates and lists of makers: kept, fetched from services that a thread plays, and what becomes of evidence with them.
//! The same thread plays a collector of traces.

mod cases;
mod fetched;
mod forged;
mod judged;
mod kept;
mod played;
mod traced;
