//! The secret store on a real file.

use std::path::PathBuf;
use std::sync::Arc;

use coffer_attestation::time::UnixTime;
use coffer_verifier::secrets::{KeyEncryptionKey, ResourcePath, Revocation, SecretStore, StoreError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;

const SECRETS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("secrets");
const NOW: UnixTime = UnixTime(1_800_000_000);

struct Place {
    _folder: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("store");
        Self { _folder: folder, file }
    }

    fn open(&self, keys: &[u8]) -> SecretStore {
        let keys = keys.iter().map(|byte| Arc::new(KeyEncryptionKey::new([*byte; 32])) as _).collect();
        SecretStore::open(&self.file, Arc::new(keys)).expect("a store")
    }
}

fn path(text: &str) -> ResourcePath {
    text.parse().expect("a path")
}

fn read(store: &SecretStore, of: &str) -> Result<(u64, Vec<u8>), StoreError> {
    store.get(&path(of), None, NOW).map(|found| (found.version, found.secret.expose().to_vec()))
}

#[test]
fn the_newest_version_is_found_and_older_ones_by_number() {
    let place = Place::new();
    let store = place.open(&[1]);
    assert_eq!(store.put(&path("acme/key/1"), b"old", None).expect("kept"), 1);
    assert_eq!(store.put(&path("acme/key/1"), b"new", None).expect("kept"), 2);
    assert_eq!(read(&store, "acme/key/1").expect("found"), (2, b"new".to_vec()));
    let old = store.get(&path("acme/key/1"), Some(1), NOW).expect("found");
    assert_eq!(old.secret.expose(), b"old");
    assert!(matches!(read(&store, "acme/key/10"), Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get(&path("acme/key/1"), Some(3), NOW), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_secret_ends_on_its_second() {
    let place = Place::new();
    let store = place.open(&[1]);
    store.put(&path("acme/key/1"), b"x", Some(UnixTime(NOW.0 + 1))).expect("kept");
    assert!(read(&store, "acme/key/1").is_ok());
    let late = store.get(&path("acme/key/1"), None, UnixTime(NOW.0 + 1));
    assert!(matches!(late, Err(StoreError::Expired { expiry, .. }) if expiry.0 == NOW.0 + 1));
}

#[test]
fn a_deleted_secret_is_gone_and_its_number_is_not_used_again() {
    let place = Place::new();
    let store = place.open(&[1]);
    store.put(&path("acme/key/1"), b"x", None).expect("kept");
    assert_eq!(store.delete(&path("acme/key/1")).expect("deleted"), 1);
    assert!(matches!(read(&store, "acme/key/1"), Err(StoreError::NotFound { .. })));
    assert_eq!(store.put(&path("acme/key/1"), b"y", None).expect("kept"), 2);
}

#[test]
fn the_file_shows_no_secret_and_another_key_opens_nothing() {
    let place = Place::new();
    let store = place.open(&[1]);
    store.put(&path("acme/key/1"), b"correct horse battery staple", None).expect("kept");
    drop(store);
    let bytes = std::fs::read(&place.file).expect("the file");
    assert!(!bytes.windows(13).any(|window| window == b"horse battery"));
    assert!(matches!(read(&place.open(&[2]), "acme/key/1"), Err(StoreError::WrongKey { .. })));
}

#[test]
fn the_key_is_replaced_while_secrets_stay_readable() {
    let place = Place::new();
    let store = place.open(&[1]);
    store.put(&path("acme/key/1"), b"a", None).expect("kept");
    store.put(&path("umbrella/key/1"), b"b", None).expect("kept");
    drop(store);
    let both = place.open(&[2, 1]);
    assert_eq!(read(&both, "acme/key/1").expect("found").1, b"a");
    assert_eq!((both.rewrap().expect("wrapped"), both.rewrap().expect("wrapped")), (2, 0));
    assert_eq!(read(&both, "umbrella/key/1").expect("found").1, b"b");
    drop(both);
    assert_eq!(read(&place.open(&[2]), "acme/key/1").expect("found").1, b"a");
}

#[test]
fn one_key_that_cannot_be_unwrapped_keeps_no_other_from_being_wrapped_anew() {
    let place = Place::new();
    place.open(&[1]).put(&path("acme/key/1"), b"a", None).expect("kept");
    place.open(&[3]).put(&path("umbrella/key/1"), b"b", None).expect("kept");
    place.open(&[1]).put(&path("zeta/key/1"), b"c", None).expect("kept");
    let wrong = place.open(&[2, 1]).rewrap();
    assert!(matches!(wrong, Err(StoreError::WrongKey { tenant }) if tenant == "umbrella"));
    let store = place.open(&[2]);
    assert_eq!(read(&store, "acme/key/1").expect("found").1, b"a");
    assert_eq!(read(&store, "zeta/key/1").expect("found").1, b"c");
}

#[test]
fn a_ciphertext_that_is_moved_to_another_path_or_version_does_not_open() {
    let place = Place::new();
    let store = place.open(&[1]);
    store.put(&path("acme/key/1"), b"a", None).expect("kept");
    store.put(&path("acme/key/2"), b"b", None).expect("kept");
    drop(store);
    let database = Database::create(&place.file).expect("the database");
    let read_side = database.begin_read().expect("a transaction");
    let stolen = read_side.open_table(SECRETS).expect("a table").get(("acme/key/1", 1)).expect("read");
    let stolen = stolen.expect("a value").value().to_vec();
    let write = database.begin_write().expect("a transaction");
    write.open_table(SECRETS).expect("a table").insert(("acme/key/2", 1), stolen.as_slice()).expect("put");
    write.open_table(SECRETS).expect("a table").insert(("acme/key/1", 2), stolen.as_slice()).expect("put");
    write.commit().expect("committed");
    drop(read_side);
    drop(database);
    let store = place.open(&[1]);
    assert!(matches!(read(&store, "acme/key/2"), Err(StoreError::Damaged { .. })));
    assert!(matches!(read(&store, "acme/key/1"), Err(StoreError::Damaged { .. })));
}

#[test]
fn an_expiry_that_is_put_off_in_the_file_is_noticed() {
    let place = Place::new();
    let store = place.open(&[1]);
    store.put(&path("acme/key/1"), b"a", Some(UnixTime(5))).expect("kept");
    drop(store);
    let database = Database::create(&place.file).expect("the database");
    let write = database.begin_write().expect("a transaction");
    let mut value = {
        let table = write.open_table(SECRETS).expect("a table");
        table.get(("acme/key/1", 1)).expect("read").expect("a value").value().to_vec()
    };
    value[..8].fill(0xff);
    write.open_table(SECRETS).expect("a table").insert(("acme/key/1", 1), value.as_slice()).expect("put");
    write.commit().expect("committed");
    drop(database);
    assert!(matches!(read(&place.open(&[1]), "acme/key/1"), Err(StoreError::Damaged { .. })));
}

#[test]
fn what_was_revoked_stays_revoked() {
    let place = Place::new();
    let store = place.open(&[1]);
    assert!(!store.is_revoked(Revocation::Measurement, "ab").expect("read"));
    store.revoke(Revocation::Measurement, "ab", NOW).expect("revoked");
    assert!(store.is_revoked(Revocation::Measurement, "ab").expect("read"));
    assert!(!store.is_revoked(Revocation::Token, "ab").expect("read"));
    drop(store);
    assert!(place.open(&[1]).is_revoked(Revocation::Measurement, "ab").expect("read"));
}
