//! What makes several verifiers one: the same keys, and challenges that are good once among all of them.

use std::sync::atomic::Ordering;

use tokio_postgres::types::Type;

use super::choice::DatabaseError;
use super::pool::Pool;

/// What became of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burnt {
    /// It was good, and is so no more.
    Now,
    /// It was used before.
    Before,
    /// It has expired by the database's clock.
    Late,
    /// No more can be remembered.
    Full,
}

impl Pool {
    /// Burns a challenge for all replicas. Which has expired says the database's clock: what it has forgotten it takes no more.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn burn(&self, nonce: &[u8], expiry: u64) -> Result<Burnt, DatabaseError> {
        if self.full.load(Ordering::Relaxed) {
            return Ok(Burnt::Full);
        }
        let Ok(expiry) = i64::try_from(expiry) else { return Ok(Burnt::Late) };
        let burnt = self.changed(
            "INSERT INTO coffer_spent SELECT $1, $2 WHERE $2 > extract(epoch FROM clock_timestamp()) ON CONFLICT DO NOTHING",
            &[(&nonce, Type::BYTEA), (&expiry, Type::INT8)],
        )?;
        if burnt == 1 {
            return Ok(Burnt::Now);
        }
        let known = "SELECT 1 FROM coffer_spent WHERE nonce = $1";
        let known = self.rows(known, &[(&nonce, Type::BYTEA)])?;
        Ok(if known.is_empty() { Burnt::Late } else { Burnt::Before })
    }

    /// Says what this replica has of something that all must have: its own first, then others that it accepts.
    ///
    /// # Errors
    /// [`DatabaseError::NotShared`] when what the last replica said is not among them.
    pub fn agree(&self, what: &'static str, mine: &[String]) -> Result<(), DatabaseError> {
        let Some(own) = mine.first() else { return Ok(()) };
        let rows = self.rows(
            "INSERT INTO coffer_replicas_share VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET value = $2 WHERE coffer_replicas_share.value = ANY ($3) RETURNING value",
            &[(&what, Type::TEXT), (own, Type::TEXT), (&mine, Type::TEXT_ARRAY)],
        )?;
        if rows.is_empty() { Err(DatabaseError::NotShared { what }) } else { Ok(()) }
    }
}
