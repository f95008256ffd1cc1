//! Secrets that the guest has, and where: files on a tmpfs, environments of containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_attestation::handshake::ResourceName;
use zeroize::Zeroizing;

use super::AttestError;
use super::shown::{Fetched, Shown};

/// The most secrets that are kept because containers asked for them.
const MOST_ASKED: usize = 256;

/// The most bytes that all secrets together have when another one is kept because a container asked for it.
const MOST_BYTES: usize = 8 << 20;

/// Every secret of the pod.
pub(super) struct Held {
    directory: PathBuf,
    shown: Arc<Shown>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<ResourceName, Place>,
    /// Containers that knew a secret which was taken back, until they are deleted.
    doomed: BTreeSet<String>,
}

/// Where a secret is.
#[derive(Default)]
struct Place {
    /// Gone when it was taken back.
    value: Option<Zeroizing<Vec<u8>>>,
    /// Of the images that the guest had shown when the value was last given.
    changes: u64,
    files: Vec<String>,
    /// Containers that have it in their environment.
    containers: BTreeSet<String>,
}

/// What is known of a secret.
pub(super) enum Known {
    /// It was never asked for, or not since the guest shows the images that it does.
    Unasked,
    /// It is here.
    Here(Fetched),
    /// It was taken back.
    TakenBack,
}

/// Whether a secret that was fetched may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It may.
    Current,
    /// It was given to the guest as it was before another image was let run: it must be asked for again.
    Stale,
    /// It was taken back meanwhile.
    TakenBack,
}

impl Held {
    /// Keeps files in `directory`, which exists.
    pub(super) fn new(directory: &Path, shown: Arc<Shown>) -> Self {
        Self { directory: directory.to_owned(), shown, state: Mutex::default() }
    }

    /// Writes a secret into the file `name`.
    pub(super) fn put_file(
        &self,
        resource: &ResourceName,
        name: &str,
        fetched: Fetched,
    ) -> Result<(), AttestError> {
        // Held while it is written, so that what is taken back meanwhile is not written anew.
        let secrets = &mut self.state().secrets;
        self.write(name, &fetched.value)?;
        let place = secrets.entry(resource.clone()).or_default();
        place.take(fetched);
        place.files.push(name.to_owned());
        Ok(())
    }

    /// What is known of `resource`.
    pub(super) fn known(&self, resource: &ResourceName) -> Known {
        let now = self.shown.changes();
        match self.state().secrets.get(resource) {
            None => Known::Unasked,
            Some(Place { value: None, .. }) => Known::TakenBack,
            Some(Place { value: Some(value), changes, .. }) if *changes == now => {
                Known::Here(Fetched { value: value.clone(), changes: now })
            }
            Some(_) => Known::Unasked,
        }
    }

    /// Remembers that `container` gets `resource` into its environment, unless it must not.
    pub(super) fn note_container(&self, resource: &ResourceName, container: &str, fetched: Fetched) -> Kept {
        let secrets = &mut self.state().secrets;
        let kept = self.usable(secrets.get(resource), &fetched);
        if kept == Kept::Current {
            let place = secrets.entry(resource.clone()).or_default();
            place.take(fetched);
            place.containers.insert(container.to_owned());
        }
        kept
    }

    /// Keeps a secret that a container asked for, unless it must not have it. Beyond [`MOST_ASKED`] of them, or
    /// [`MOST_BYTES`], the others may be given and are not kept.
    pub(super) fn keep(&self, resource: &ResourceName, fetched: Fetched) -> Kept {
        let secrets = &mut self.state().secrets;
        let usable = self.usable(secrets.get(resource), &fetched);
        let kept: usize = secrets.values().filter_map(|place| Some(place.value.as_ref()?.len())).sum();
        let full = secrets.len() >= MOST_ASKED || kept.saturating_add(fetched.value.len()) > MOST_BYTES;
        if usable == Kept::Current && (!full || secrets.contains_key(resource)) {
            secrets.entry(resource.clone()).or_default().take(fetched);
        }
        usable
    }

    /// Called with the secrets locked: whoever lets another image run looks at them afterwards, and finds what was noted.
    fn usable(&self, place: Option<&Place>, fetched: &Fetched) -> Kept {
        if place.is_some_and(|place| place.value.is_none()) {
            Kept::TakenBack
        } else if fetched.changes == self.shown.changes() {
            Kept::Current
        } else {
            Kept::Stale
        }
    }

    /// Whether every secret that is here was given to the guest as it was after so many changes of its images.
    pub(super) fn all_given_at(&self, changes: u64) -> bool {
        self.state().secrets.values().all(|place| place.value.is_none() || place.changes == changes)
    }

    /// Every secret that is here.
    pub(super) fn all(&self) -> Vec<ResourceName> {
        let secrets = &self.state().secrets;
        secrets.iter().filter(|(_, place)| place.value.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Takes what the verifier has now; files get it when it is another than before.
    pub(super) fn renew(&self, resource: &ResourceName, fetched: Fetched) -> Result<(), AttestError> {
        let secrets = &mut self.state().secrets;
        let Some(place) = secrets.get_mut(resource).filter(|place| place.value.is_some()) else {
            return Ok(());
        };
        if place.value.as_ref().is_none_or(|held| **held != *fetched.value) {
            // First the files: one that cannot be written is tried again when the secret is looked at next.
            place.files.iter().try_for_each(|name| self.write(name, &fetched.value))?;
        }
        place.take(fetched);
        Ok(())
    }

    /// Wipes a secret wherever it is. Answers the containers that have it in their environment, from where nobody but their
    /// end takes it.
    pub(super) fn take_back(&self, resource: &ResourceName) -> BTreeSet<String> {
        let State { secrets, doomed } = &mut *self.state();
        let Some(place) = secrets.get_mut(resource) else { return BTreeSet::new() };
        // Wiped as it is dropped.
        place.value = None;
        for name in place.files.drain(..) {
            if let Err(error) = wipe(&self.directory.join(&name)) {
                tracing::error!(file = name, %error, "a secret that was taken back could not be wiped");
            }
        }
        let containers = std::mem::take(&mut place.containers);
        doomed.extend(containers.iter().cloned());
        containers
    }

    /// Whether `container` knew a secret that was taken back. It may still have been in the making then, so that there was
    /// nothing yet to end.
    pub(super) fn is_doomed(&self, container: &str) -> bool {
        self.state().doomed.contains(container)
    }

    /// The container is gone, and what it knew with it: another one may be made under its name.
    pub(super) fn forget_container(&self, container: &str) {
        let mut state = self.state();
        for place in state.secrets.values_mut() {
            place.containers.remove(container);
        }
        state.doomed.remove(container);
    }

    /// Replaces a file as a whole.
    fn write(&self, name: &str, value: &[u8]) -> Result<(), AttestError> {
        let path = self.directory.join(name);
        let fresh = self.directory.join(format!(".{name}.new"));
        let written = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(value)?;
            // For the users of containers, who are many; the directory is in this pod's containers alone.
            fs::set_permissions(&fresh, Permissions::from_mode(0o444))?;
            if path.exists() {
                wipe_content(&path)?;
            }
            fs::rename(&fresh, &path)
        };
        written().map_err(|source| AttestError::File { path, source })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn take(&mut self, Fetched { value, changes }: Fetched) {
        self.value = Some(value);
        self.changes = changes;
    }
}

/// Zeros over the content, for whoever holds the file open, and then no file.
fn wipe(path: &Path) -> io::Result<()> {
    let wiped = wipe_content(path);
    fs::remove_file(path)?;
    wiped
}

fn wipe_content(path: &Path) -> io::Result<()> {
    let length = fs::metadata(path)?.len();
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    let zeros = [0; 4096];
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    while left > 0 {
        let piece = zeros.get(..left.min(zeros.len())).unwrap_or_default();
        file.write_all(piece)?;
        left -= piece.len();
    }
    file.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::sample_record;
    use std::io::Read;

    fn name(tag: &str) -> ResourceName {
        ResourceName::parse(&format!("kbs:///acme/key/{tag}")).unwrap()
    }

    fn secret(text: &str) -> Fetched {
        Fetched { value: Zeroizing::new(text.as_bytes().to_vec()), changes: 0 }
    }

    fn held(dir: &tempfile::TempDir) -> Held {
        Held::new(dir.path(), Arc::default())
    }

    #[test]
    fn a_secret_that_is_taken_back_is_gone_from_its_file_and_from_who_holds_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        held.put_file(&name("1"), "key", secret("a secret")).unwrap();
        let mut open = File::open(dir.path().join("key")).unwrap();
        assert!(held.take_back(&name("1")).is_empty());
        let mut seen = Vec::new();
        open.read_to_end(&mut seen).unwrap();
        assert_eq!((seen.as_slice(), fs::read_dir(dir.path()).unwrap().count()), (&[][..], 0));
        assert!(matches!(held.known(&name("1")), Known::TakenBack));
    }

    #[test]
    fn the_containers_that_know_it_are_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        held.note_container(&name("1"), "c1", secret("x"));
        held.note_container(&name("1"), "c2", secret("x"));
        assert_eq!(held.take_back(&name("1")), BTreeSet::from(["c1".to_owned(), "c2".to_owned()]));
        assert!(held.take_back(&name("1")).is_empty());
    }

    #[test]
    fn a_container_that_knew_what_was_taken_back_is_known_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        held.note_container(&name("1"), "c1", secret("x"));
        held.note_container(&name("1"), "c2", secret("x"));
        held.forget_container("c2");
        held.take_back(&name("1"));
        assert!(held.is_doomed("c1") && !held.is_doomed("c2"));
        held.forget_container("c1");
        assert!(!held.is_doomed("c1"));
    }

    #[test]
    fn a_secret_that_was_taken_back_while_it_was_fetched_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        assert!(held.keep(&name("1"), secret("x")) == Kept::Current && held.all().len() == 1);
        held.take_back(&name("1"));
        assert!(held.keep(&name("1"), secret("x")) == Kept::TakenBack && held.all().is_empty());
        assert_eq!(held.note_container(&name("1"), "c", secret("x")), Kept::TakenBack);
        assert!(held.all().is_empty() && held.take_back(&name("1")).is_empty());
    }

    #[test]
    fn a_container_that_asks_for_ever_more_fills_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        let given = |at: &usize| held.keep(&name(&at.to_string()), secret("x")) == Kept::Current;
        let kept = (0..MOST_ASKED + 5).filter(given);
        assert_eq!((kept.count(), held.all().len()), (MOST_ASKED + 5, MOST_ASKED));
    }

    #[test]
    fn long_secrets_fill_no_memory_either() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        let long = "x".repeat(MOST_BYTES / 4);
        let given = (0..6).filter(|at| held.keep(&name(&at.to_string()), secret(&long)) == Kept::Current);
        assert_eq!((given.count(), held.all().len()), (6, 4));
    }

    #[test]
    fn a_secret_that_was_given_before_another_image_was_let_run_is_asked_for_again() {
        let (dir, shown) = (tempfile::tempdir().unwrap(), Arc::new(Shown::default()));
        let held = Held::new(dir.path(), shown.clone());
        held.note_container(&name("1"), "c1", secret("x"));
        assert!(matches!(held.known(&name("1")), Known::Here(_)));
        let record = sample_record("r.example.com/app:1");
        shown.note(record.clone()).unwrap();
        // Somebody asked before and was answered after: that is as old.
        assert_eq!(held.keep(&name("1"), secret("x")), Kept::Stale);
        assert_eq!(held.keep(&name("2"), secret("x")), Kept::Stale);
        assert_eq!(held.note_container(&name("1"), "c2", secret("x")), Kept::Stale);
        assert!(matches!(held.known(&name("1")), Known::Unasked) && held.all() == [name("1")]);
        assert!(held.all_given_at(0) && !held.all_given_at(1));
        held.renew(&name("1"), Fetched { changes: 1, ..secret("x") }).unwrap();
        shown.note(record).unwrap();
        assert!(matches!(held.known(&name("1")), Known::Here(_)));
        assert_eq!(held.take_back(&name("1")), BTreeSet::from(["c1".to_owned()]));
    }

    #[test]
    fn a_file_that_could_not_be_written_is_written_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        held.put_file(&name("1"), "key", secret("old")).unwrap();
        // A directory where the new content is to be made.
        fs::create_dir(dir.path().join(".key.new")).unwrap();
        held.renew(&name("1"), secret("new")).unwrap_err();
        fs::remove_dir(dir.path().join(".key.new")).unwrap();
        held.renew(&name("1"), secret("new")).unwrap();
        assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"new");
    }

    #[test]
    fn a_new_version_replaces_the_file_and_one_that_was_taken_back_does_not_return() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(&dir);
        held.put_file(&name("1"), "key", secret("old and long")).unwrap();
        held.renew(&name("1"), secret("new")).unwrap();
        assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"new");
        held.take_back(&name("1"));
        held.renew(&name("1"), secret("newer")).unwrap();
        assert!(held.all().is_empty() && !dir.path().join("key").exists());
    }
}
