//! Either database, asked the same.

use std::path::Path;
use std::sync::Arc;

use super::connect::Postgres;
use super::embedded::Embedded;
use super::pool::Pool;

/// An open database.
pub enum Database {
    /// A file of this process.
    Embedded(Embedded),
    /// One that replicas share.
    Shared(Arc<Pool>),
}

/// One version of a secret, and the key that it is encrypted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Its number.
    pub version: u64,
    /// Expiry, 8 bytes big endian ‖ ciphertext.
    pub value: Vec<u8>,
    /// Id of the key-encryption key ‖ the tenant's wrapped key.
    pub data_key: Option<Vec<u8>>,
}

/// One version of a secret, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRow {
    /// Its path.
    pub path: String,
    /// Its number.
    pub version: u64,
    /// The expiry as it is written there, 8 bytes big endian.
    pub expiry: Option<[u8; 8]>,
}

/// One version of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Its name.
    pub name: String,
    /// Its number.
    pub version: u64,
    /// What it says.
    pub text: String,
}

/// Something that was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedRow {
    /// Its kind.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Why the database does not answer.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file.
    #[error("the file of the store cannot be read or written")]
    Embedded(#[source] Box<redb::Error>),
    /// No connection.
    #[error("the database at {place} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port, or the socket's folder.
        place: String,
        /// What went wrong.
        reason: String,
    },
    /// No answer.
    #[error("the database at {place} has not answered in {seconds} s")]
    Slow {
        /// Host and port, or the socket's folder.
        place: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The server says no.
    #[error("the database at {place} refuses ({code}): {reason}")]
    Refused {
        /// Host and port, or the socket's folder.
        place: String,
        /// The SQLSTATE.
        code: String,
        /// What the server said.
        reason: String,
    },
    /// Tables of another version of this program.
    #[error(
        "the database at {place} has tables of version {found}, this program knows {known}: run the same program everywhere"
    )]
    Schema {
        /// Host and port, or the socket's folder.
        place: String,
        /// What is there.
        found: i64,
        /// What is known here.
        known: i64,
    },
    /// A replica with other keys.
    #[error(
        "the other replicas have another {what} than this one: give all the same file. To replace it in all at once stop them \
         all and delete the row named {what:?} from the table coffer_replicas_share"
    )]
    NotShared {
        /// The key's name in the configuration.
        what: &'static str,
    },
    /// A row that this program did not write.
    #[error("a row of the table {table} at {place} cannot be read")]
    Row {
        /// Host and port, or the socket's folder.
        place: String,
        /// Its table.
        table: &'static str,
    },
    /// No thread to work in.
    #[error("this machine cannot serve the database now")]
    Here(#[source] std::io::Error),
}

/// Asks whichever it is the same.
macro_rules! either {
    ($database:expr, $method:ident ( $($argument:expr),* )) => {
        match $database {
            Database::Embedded(file) => file.$method($($argument),*),
            Database::Shared(pool) => pool.$method($($argument),*),
        }
    };
}

type Answer<T> = Result<T, DatabaseError>;

impl Database {
    /// Opens a file, or makes one.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn embedded(path: &Path) -> Answer<Self> {
        Embedded::open(path).map(Self::Embedded)
    }

    /// Connects, and makes the tables if there are none.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn shared(postgres: Postgres) -> Answer<Self> {
        Pool::open(postgres).map(Self::Shared)
    }

    /// What replicas share, if this is shared.
    pub fn replicas(&self) -> Option<&Arc<Pool>> {
        match self {
            Self::Embedded(_) => None,
            Self::Shared(pool) => Some(pool),
        }
    }

    /// The key of a tenant, wrapped.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn data_key(&self, tenant: &str) -> Answer<Option<Vec<u8>>> {
        either!(self, data_key(tenant))
    }

    /// All of them, with their tenants.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn data_keys(&self) -> Answer<Vec<(String, Vec<u8>)>> {
        either!(self, data_keys())
    }

    /// Keeps the key of a tenant that has `old` (`None`: that has none). Answers whether that was so.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn set_data_key(&self, tenant: &str, old: Option<&[u8]>, new: &[u8]) -> Answer<bool> {
        either!(self, set_data_key(tenant, old, new))
    }

    /// The last version that a path ever had; 0 is none.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn last_version(&self, path: &str) -> Answer<u64> {
        either!(self, last_version(path))
    }

    /// Keeps the version after the last one. Answers whether it still is the one after the last.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn add_secret(&self, path: &str, version: u64, value: &[u8]) -> Answer<bool> {
        either!(self, add_secret(path, version, value))
    }

    /// A version, or the newest one that there is, and the key of `tenant`.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn secret(&self, path: &str, version: Option<u64>, tenant: &str) -> Answer<Option<SecretRow>> {
        either!(self, secret(path, version, tenant))
    }

    /// Deletes every version. Answers how many there were.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn delete_secret(&self, path: &str) -> Answer<usize> {
        either!(self, delete_secret(path))
    }

    /// Everything that a tenant has, without what it is.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn secrets(&self, tenant: &str) -> Answer<Vec<ListedRow>> {
        either!(self, secrets(tenant))
    }

    /// The newest version of a document; 0 is none.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn last_document(&self, collection: &str, name: &str) -> Answer<u64> {
        either!(self, last_document(collection, name))
    }

    /// Keeps the version after the newest one. Answers whether it still is the one after the newest.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn add_document(&self, place: (&str, &str), version: u64, text: &str) -> Answer<bool> {
        either!(self, add_document(place, version, text))
    }

    /// Every version of every document of a collection, or of one of them; oldest first.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn documents(&self, collection: &str, name: Option<&str>) -> Answer<Vec<DocumentRow>> {
        either!(self, documents(collection, name))
    }

    /// Keeps that something was revoked; what was before stays as it is.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn revoke(&self, kind: &str, name: &str, at: u64) -> Answer<()> {
        either!(self, revoke(kind, name, at))
    }

    /// The place in `of` of one that was revoked.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn any_revoked(&self, of: &[(&str, &str)]) -> Answer<Option<usize>> {
        either!(self, any_revoked(of))
    }

    /// Everything that was revoked.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn revoked(&self) -> Answer<Vec<RevokedRow>> {
        either!(self, revoked())
    }

    /// How often documents were changed, if others than this process can.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn generation(&self) -> Answer<Option<u64>> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Shared(pool) => pool.generation().map(Some),
        }
    }
}
