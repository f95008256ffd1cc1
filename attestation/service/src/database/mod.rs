//! Where things are kept: an embedded file of one verifier, or a PostgreSQL that several replicas share.
//!
//! ```text
//! choice    what may be asked, of either
//! embedded  one file (redb), written by one process
//! tables    the same questions in SQL
//! pool      connections, how long is waited for them, and what becomes of them when the database is away
//! connect   one connection: Unix socket, or TLS, or neither where that was asked for by name
//! follow    what other replicas changed, as they change it
//! shared    that these are one deployment, and challenges that any of them took
//! ```
//! Never here: keys or plain secrets. What comes in is encrypted already, and what goes out is believed by nobody before it opens.

mod choice;
mod connect;
mod embedded;
mod follow;
mod pool;
mod shared;
mod tables;

pub use choice::{Database, DatabaseError, DocumentRow, ListedRow, RevokedRow, SecretRow};
pub use connect::{ConnectError, Identity, Postgres};
pub use pool::Pool;
pub use shared::Burnt;
