//! The same questions in SQL. Each is one statement, so that each happens as a whole or not at all.

use tokio_postgres::types::Type;

use super::choice::{DatabaseError, DocumentRow, ListedRow, RevokedRow, SecretRow};
use super::pool::Pool;

/// Tables of this version.
const VERSION: i64 = 1;
/// Several replicas may be started at once: they make the tables one after another.
const TABLES: &str = "\
BEGIN;
SELECT pg_advisory_xact_lock(4842017730431288929);
CREATE TABLE IF NOT EXISTS coffer_schema (version bigint NOT NULL);
INSERT INTO coffer_schema SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM coffer_schema);
CREATE TABLE IF NOT EXISTS coffer_data_keys (tenant text COLLATE \"C\" PRIMARY KEY, wrapped bytea NOT NULL);
CREATE TABLE IF NOT EXISTS coffer_versions (path text COLLATE \"C\" PRIMARY KEY, last bigint NOT NULL);
CREATE TABLE IF NOT EXISTS coffer_secrets (
    path text COLLATE \"C\", version bigint, value bytea NOT NULL, PRIMARY KEY (path, version));
CREATE TABLE IF NOT EXISTS coffer_documents (
    collection text COLLATE \"C\", name text COLLATE \"C\", version bigint, text text NOT NULL,
    PRIMARY KEY (collection, name, version));
CREATE TABLE IF NOT EXISTS coffer_revoked (
    kind text COLLATE \"C\", name text COLLATE \"C\", at bigint NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS coffer_spent (nonce bytea PRIMARY KEY, expiry bigint NOT NULL);
CREATE INDEX IF NOT EXISTS coffer_spent_expiry ON coffer_spent (expiry);
CREATE TABLE IF NOT EXISTS coffer_generation (one boolean PRIMARY KEY CHECK (one), generation bigint NOT NULL);
INSERT INTO coffer_generation VALUES (true, 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS coffer_replicas_share (name text PRIMARY KEY, value text NOT NULL);
COMMIT;";

type Answer<T> = Result<T, DatabaseError>;

impl Pool {
    /// Makes the tables. Those of another version are left as they are.
    pub(super) fn make_tables(&self) -> Answer<()> {
        let there = "SELECT to_regclass('coffer_schema') IS NOT NULL";
        let there = self.rows(there, &[])?;
        let there = there.first().map(|row| self.column::<bool>(row, 0, "coffer_schema")).transpose()?;
        if there != Some(true) {
            self.batch(TABLES)?;
        }
        let found = self.number("SELECT max(version) FROM coffer_schema", "coffer_schema")?;
        if found == VERSION {
            return Ok(());
        }
        Err(DatabaseError::Schema { place: self.postgres.place.clone(), found, known: VERSION })
    }

    pub(super) fn data_key(&self, tenant: &str) -> Answer<Option<Vec<u8>>> {
        let statement = "SELECT wrapped FROM coffer_data_keys WHERE tenant = $1";
        let rows = self.rows(statement, &[(&tenant, Type::TEXT)])?;
        rows.first().map(|row| self.column(row, 0, "coffer_data_keys")).transpose()
    }

    pub(super) fn data_keys(&self) -> Answer<Vec<(String, Vec<u8>)>> {
        let rows = self.rows("SELECT tenant, wrapped FROM coffer_data_keys ORDER BY tenant", &[])?;
        let of = "coffer_data_keys";
        rows.iter().map(|row| Ok((self.column(row, 0, of)?, self.column(row, 1, of)?))).collect()
    }

    pub(super) fn set_data_key(&self, tenant: &str, old: Option<&[u8]>, new: &[u8]) -> Answer<bool> {
        let changed = match old {
            None => self.changed(
                "INSERT INTO coffer_data_keys VALUES ($1, $2) ON CONFLICT DO NOTHING",
                &[(&tenant, Type::TEXT), (&new, Type::BYTEA)],
            ),
            Some(old) => self.changed(
                "UPDATE coffer_data_keys SET wrapped = $2 WHERE tenant = $1 AND wrapped = $3",
                &[(&tenant, Type::TEXT), (&new, Type::BYTEA), (&old, Type::BYTEA)],
            ),
        };
        Ok(changed? == 1)
    }

    pub(super) fn last_version(&self, path: &str) -> Answer<u64> {
        let statement = "SELECT last FROM coffer_versions WHERE path = $1";
        let rows = self.rows(statement, &[(&path, Type::TEXT)])?;
        rows.first().map_or(Ok(0), |row| self.count(row, 0, "coffer_versions"))
    }

    pub(super) fn add_secret(&self, path: &str, version: u64, value: &[u8]) -> Answer<bool> {
        let Ok(version) = i64::try_from(version) else { return Ok(false) };
        let changed = self.changed(
            "WITH step AS (
                INSERT INTO coffer_versions
                SELECT $1, $2 WHERE $2 = 1 OR EXISTS (SELECT 1 FROM coffer_versions WHERE path = $1)
                ON CONFLICT (path) DO UPDATE SET last = EXCLUDED.last WHERE coffer_versions.last = EXCLUDED.last - 1
                RETURNING path)
            INSERT INTO coffer_secrets SELECT path, $2, $3 FROM step",
            &[(&path, Type::TEXT), (&version, Type::INT8), (&value, Type::BYTEA)],
        );
        Ok(changed? == 1)
    }

    pub(super) fn secret(&self, path: &str, version: Option<u64>, tenant: &str) -> Answer<Option<SecretRow>> {
        // A number that no version can have is one that none has.
        let version = version.map(|version| i64::try_from(version).unwrap_or(0));
        let rows = self.rows(
            "SELECT version, value, (SELECT wrapped FROM coffer_data_keys WHERE tenant = $2)
            FROM coffer_secrets WHERE path = $1 AND ($3 IS NULL OR version = $3) ORDER BY version DESC LIMIT 1",
            &[(&path, Type::TEXT), (&tenant, Type::TEXT), (&version, Type::INT8)],
        )?;
        let of = "coffer_secrets";
        let one = rows.first().map(|row| {
            let (version, value) = (self.count(row, 0, of)?, self.column(row, 1, of)?);
            Ok(SecretRow { version, value, data_key: self.column(row, 2, of)? })
        });
        one.transpose()
    }

    pub(super) fn delete_secret(&self, path: &str) -> Answer<usize> {
        let count = self.changed("DELETE FROM coffer_secrets WHERE path = $1", &[(&path, Type::TEXT)])?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    pub(super) fn secrets(&self, tenant: &str) -> Answer<Vec<ListedRow>> {
        // Paths begin with the tenant and a slash, which comes directly before the digit 0.
        let (from, to) = (format!("{tenant}/"), format!("{tenant}0"));
        let rows = self.rows(
            "SELECT path, version, substring(value FOR 8) FROM coffer_secrets
            WHERE path >= $1 AND path < $2 ORDER BY path, version",
            &[(&from, Type::TEXT), (&to, Type::TEXT)],
        )?;
        let of = "coffer_secrets";
        let all = rows.iter().map(|row| {
            let first: Vec<u8> = self.column(row, 2, of)?;
            let (path, version) = (self.column(row, 0, of)?, self.count(row, 1, of)?);
            Ok(ListedRow { path, version, expiry: first.try_into().ok() })
        });
        all.collect()
    }

    pub(super) fn last_document(&self, collection: &str, name: &str) -> Answer<u64> {
        let rows = self.rows(
            "SELECT max(version) FROM coffer_documents WHERE collection = $1 AND name = $2",
            &[(&collection, Type::TEXT), (&name, Type::TEXT)],
        )?;
        let newest = rows.first().map(|row| self.column::<Option<i64>>(row, 0, "coffer_documents"));
        Ok(newest.transpose()?.flatten().and_then(|newest| u64::try_from(newest).ok()).unwrap_or(0))
    }

    pub(super) fn add_document(
        &self,
        (collection, name): (&str, &str),
        version: u64,
        text: &str,
    ) -> Answer<bool> {
        let Ok(version) = i64::try_from(version) else { return Ok(false) };
        let rows = self.rows(
            "WITH added AS (
                INSERT INTO coffer_documents SELECT $1, $2, $3, $4 WHERE $3 = 1 + coalesce(
                    (SELECT max(version) FROM coffer_documents WHERE collection = $1 AND name = $2), 0)
                ON CONFLICT DO NOTHING RETURNING version),
            counted AS (
                UPDATE coffer_generation SET generation = generation + 1 WHERE EXISTS (SELECT 1 FROM added))
            SELECT pg_notify('coffer', 'documents') FROM added",
            &[(&collection, Type::TEXT), (&name, Type::TEXT), (&version, Type::INT8), (&text, Type::TEXT)],
        );
        Ok(rows?.len() == 1)
    }

    pub(super) fn documents(&self, collection: &str, name: Option<&str>) -> Answer<Vec<DocumentRow>> {
        let rows = self.rows(
            "SELECT name, version, text FROM coffer_documents
            WHERE collection = $1 AND ($2 IS NULL OR name = $2) ORDER BY name, version",
            &[(&collection, Type::TEXT), (&name, Type::TEXT)],
        )?;
        let of = "coffer_documents";
        let all = rows.iter().map(|row| {
            let (name, version) = (self.column(row, 0, of)?, self.count(row, 1, of)?);
            Ok(DocumentRow { name, version, text: self.column(row, 2, of)? })
        });
        all.collect()
    }

    pub(super) fn revoke(&self, kind: &str, name: &str, at: u64) -> Answer<()> {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let rows = self.rows(
            "WITH added AS (INSERT INTO coffer_revoked VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING kind)
            SELECT pg_notify('coffer', 'revoked') FROM added",
            &[(&kind, Type::TEXT), (&name, Type::TEXT), (&at, Type::INT8)],
        );
        rows.map(drop)
    }

    pub(super) fn any_revoked(&self, of: &[(&str, &str)]) -> Answer<Option<usize>> {
        let (kinds, names): (Vec<&str>, Vec<&str>) = of.iter().copied().unzip();
        let rows = self.rows(
            "SELECT number FROM unnest($1, $2) WITH ORDINALITY AS asked (kind, name, number)
            JOIN coffer_revoked USING (kind, name) ORDER BY number LIMIT 1",
            &[(&kinds, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)],
        )?;
        let number = rows.first().map(|row| self.count(row, 0, "coffer_revoked")).transpose()?;
        Ok(number.and_then(|number| usize::try_from(number).ok()?.checked_sub(1)))
    }

    pub(super) fn revoked(&self) -> Answer<Vec<RevokedRow>> {
        let rows = self.rows("SELECT kind, name, at FROM coffer_revoked ORDER BY kind, name", &[])?;
        let of = "coffer_revoked";
        let all = rows.iter().map(|row| {
            let (kind, name) = (self.column(row, 0, of)?, self.column(row, 1, of)?);
            Ok(RevokedRow { kind, name, at: self.count(row, 2, of)? })
        });
        all.collect()
    }

    pub(super) fn generation(&self) -> Answer<u64> {
        let number = self.number("SELECT generation FROM coffer_generation", "coffer_generation")?;
        Ok(u64::try_from(number).unwrap_or(0))
    }

    /// One number that must be there.
    fn number(&self, statement: &str, table: &'static str) -> Answer<i64> {
        let missing = || DatabaseError::Row { place: self.postgres.place.clone(), table };
        let rows = self.rows(statement, &[])?;
        self.column(rows.first().ok_or_else(missing)?, 0, table)
    }

    /// A column that holds no negative number.
    fn count(&self, row: &tokio_postgres::Row, at: usize, table: &'static str) -> Answer<u64> {
        let number: i64 = self.column(row, at, table)?;
        u64::try_from(number).map_err(|_| DatabaseError::Row { place: self.postgres.place.clone(), table })
    }
}
