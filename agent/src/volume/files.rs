//! A volume of synchronized files: collects a snapshot's parts and applies it when the last one is here.

use std::os::fd::OwnedFd;

use coffer_protocol::agent::SyncVolumeRequest;

use super::VolumeError;
use super::apply::apply;
use super::stage::{Stage, clear};

/// A `files` volume that is in place.
pub(super) struct Files {
    id: String,
    /// What containers see.
    root: OwnedFd,
    /// Beside it on the same file system; containers do not see it.
    stage_dir: OwnedFd,
    stage: Option<Stage>,
    /// The newest snapshot that was applied or refused: no part of it is taken any more.
    settled: Option<u64>,
}

impl Files {
    /// An empty volume at `root`.
    pub(super) fn new(id: &str, root: OwnedFd, stage_dir: OwnedFd) -> Files {
        Files { id: id.to_owned(), root, stage_dir, stage: None, settled: None }
    }

    /// Takes a part; a snapshot that a newer one overtakes is dropped.
    pub(super) fn take(&mut self, part: &SyncVolumeRequest) -> Result<(), VolumeError> {
        if self.settled.is_some_and(|settled| part.generation <= settled) {
            let reason = "a snapshot as new as this one was applied or refused";
            return Err(VolumeError::Unfit { id: self.id.clone(), reason });
        }
        let mut stage = match self.stage.take() {
            Some(stage) if stage.generation() == part.generation => stage,
            _ => {
                self.clear()?;
                Stage::new(&self.id, part.generation)
            }
        };
        match stage.accept(part, &self.stage_dir) {
            Ok(()) if !part.last => {
                self.stage = Some(stage);
                Ok(())
            }
            accepted => {
                self.settled = Some(part.generation);
                let result = accepted.and_then(|()| self.apply(stage));
                self.clear()?;
                result
            }
        }
    }

    fn apply(&self, stage: Stage) -> Result<(), VolumeError> {
        let snapshot = stage.finish()?;
        apply(&self.root, &self.stage_dir, &snapshot)
            .map_err(VolumeError::io(&self.id, "apply a snapshot to"))
    }

    fn clear(&self) -> Result<(), VolumeError> {
        clear(&self.stage_dir).map_err(VolumeError::io(&self.id, "clear the stage of"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::remove::open_dir;
    use super::*;
    use coffer_protocol::agent::FileEntry;
    use rustix::fs::CWD;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Fixture {
        base: tempfile::TempDir,
        files: Files,
    }

    impl Fixture {
        fn new() -> Fixture {
            let base = tempfile::tempdir().unwrap();
            let open = |name: &str| {
                let path = base.path().join(name);
                fs::create_dir(&path).unwrap();
                open_dir(CWD, path.to_str().unwrap()).unwrap()
            };
            let files = Files::new("v", open("root"), open("stage"));
            Fixture { base, files }
        }

        fn root(&self) -> std::path::PathBuf {
            self.base.path().join("root")
        }

        fn apply(&mut self, generation: u64, entries: Vec<FileEntry>) -> Result<(), VolumeError> {
            self.files.take(&SyncVolumeRequest { generation, entries, last: true, ..Default::default() })
        }
    }

    fn entry(path: &str, mode: u32, data: &str) -> FileEntry {
        // The tests' own user and group, so that they also run without root.
        let me = fs::metadata("/proc/self").unwrap();
        let (uid, gid) = (me.uid(), me.gid());
        FileEntry { path: path.to_owned(), mode, uid, gid, data: data.into(), ..Default::default() }
    }

    fn dir(path: &str) -> FileEntry {
        entry(path, 0o40755, "")
    }

    fn file(path: &str, data: &str) -> FileEntry {
        entry(path, 0o100644, data)
    }

    fn link(path: &str, target: &str) -> FileEntry {
        entry(path, 0o120777, target)
    }

    /// Two keys of one publication, as kubelet lays them out.
    fn published(version: u64) -> Vec<FileEntry> {
        let (dir_name, value) = (format!("..v{version}"), format!("value {version}"));
        vec![
            dir(&dir_name),
            file(&format!("{dir_name}/a"), &value),
            file(&format!("{dir_name}/b"), &value),
            link("..data", &dir_name),
            link("a", "..data/a"),
            link("b", "..data/b"),
        ]
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_second_publication_replaces_the_first_and_its_directory_goes() {
        let mut fixture = Fixture::new();
        fixture.apply(1, published(1)).unwrap();
        fixture.apply(2, published(2)).unwrap();
        assert_eq!(fs::read_to_string(fixture.root().join("a")).unwrap(), "value 2");
        assert_eq!(names(&fixture.root()), ["..data", "..v2", "a", "b"]);
        assert_eq!(names(&fixture.base.path().join("stage")), Vec::<String>::new());
    }

    #[test]
    fn a_reader_of_the_publication_never_sees_half_of_it() {
        let mut fixture = Fixture::new();
        fixture.apply(1, published(1)).unwrap();
        let (root, done) = (fixture.root(), AtomicBool::new(false));
        let mixed = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut mixed = 0;
                while !done.load(Ordering::Relaxed) {
                    mixed += usize::from(!whole(&root));
                }
                mixed
            });
            (2..300).for_each(|version| fixture.apply(version, published(version)).unwrap());
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert_eq!(mixed, 0);
    }

    /// Follows the link once and reads both keys behind it: they agree, or the link leads to a successor by now.
    fn whole(root: &Path) -> bool {
        let Ok(publication) = fs::read_link(root.join("..data")) else { return false };
        let read = |key: &str| fs::read(root.join(&publication).join(key));
        match (read("a"), read("b")) {
            (Ok(a), Ok(b)) => a == b && !a.is_empty(),
            _ => fs::read_link(root.join("..data")).is_ok_and(|now| now != publication),
        }
    }

    #[test]
    fn a_key_that_is_gone_from_the_snapshot_is_deleted() {
        let mut fixture = Fixture::new();
        fixture.apply(1, published(1)).unwrap();
        let less = published(2).into_iter().filter(|entry| !entry.path.ends_with('b')).collect();
        fixture.apply(2, less).unwrap();
        assert_eq!(names(&fixture.root()), ["..data", "..v2", "a"]);
        assert_eq!(names(&fixture.root().join("..v2")), ["a"]);
    }

    #[test]
    fn a_top_level_file_keeps_its_inode_when_its_contents_change() {
        let mut fixture = Fixture::new();
        fixture.apply(1, vec![file("file", "a long first line")]).unwrap();
        let before = fs::metadata(fixture.root().join("file")).unwrap().ino();
        fixture.apply(2, vec![file("file", "short")]).unwrap();
        assert_eq!(fs::read_to_string(fixture.root().join("file")).unwrap(), "short");
        assert_eq!(fs::metadata(fixture.root().join("file")).unwrap().ino(), before);
    }

    #[test]
    fn a_changed_mode_arrives_without_changed_contents() {
        let mut fixture = Fixture::new();
        fixture.apply(1, vec![dir("d"), file("d/f", "x")]).unwrap();
        fixture.apply(2, vec![dir("d"), entry("d/f", 0o100400, "x")]).unwrap();
        let mode = fs::metadata(fixture.root().join("d/f")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o400);
    }

    #[test]
    fn a_directory_becomes_a_link_and_a_directory_again() {
        let mut fixture = Fixture::new();
        fixture.apply(1, vec![dir("x"), file("x/f", "1"), dir("y")]).unwrap();
        fixture.apply(2, vec![link("x", "y"), dir("y")]).unwrap();
        assert_eq!(fs::read_link(fixture.root().join("x")).unwrap(), Path::new("y"));
        fixture.apply(3, vec![dir("x"), file("x/f", "3"), dir("y")]).unwrap();
        assert_eq!(fs::read_to_string(fixture.root().join("x/f")).unwrap(), "3");
    }

    #[test]
    fn a_link_that_a_container_put_in_the_way_is_not_followed() {
        let mut fixture = Fixture::new();
        let outside = fixture.base.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, fixture.root().join("d")).unwrap();
        fixture.apply(1, vec![dir("d"), file("d/f", "x")]).unwrap();
        assert_eq!(names(&outside), Vec::<String>::new());
        assert_eq!(fs::read_to_string(fixture.root().join("d/f")).unwrap(), "x");
    }

    #[test]
    fn a_link_that_a_container_put_in_place_of_a_file_is_not_written_through() {
        let mut fixture = Fixture::new();
        let outside = fixture.base.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        symlink(&outside, fixture.root().join("file")).unwrap();
        fixture.apply(1, vec![file("file", "new")]).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "kept");
        assert_eq!(fs::read_to_string(fixture.root().join("file")).unwrap(), "new");
    }

    #[test]
    fn what_a_container_left_in_the_volume_is_deleted() {
        let mut fixture = Fixture::new();
        fixture.apply(1, vec![dir("d")]).unwrap();
        fs::create_dir_all(fixture.root().join("d/stray/deep")).unwrap();
        fs::write(fixture.root().join("stray"), "x").unwrap();
        fixture.apply(2, vec![dir("d")]).unwrap();
        assert_eq!(names(&fixture.root()), ["d"]);
        assert_eq!(names(&fixture.root().join("d")), Vec::<String>::new());
    }

    #[test]
    fn an_older_snapshot_is_refused() {
        let mut fixture = Fixture::new();
        fixture.apply(2, published(2)).unwrap();
        assert!(matches!(fixture.apply(1, published(1)), Err(VolumeError::Unfit { .. })));
        assert_eq!(fs::read_to_string(fixture.root().join("a")).unwrap(), "value 2");
    }

    #[test]
    fn the_rest_of_a_refused_snapshot_is_not_applied() {
        let mut fixture = Fixture::new();
        fixture.apply(1, published(1)).unwrap();
        let bad = SyncVolumeRequest { generation: 2, entries: vec![file("../x", "")], ..Default::default() };
        assert!(matches!(fixture.files.take(&bad), Err(VolumeError::Path { .. })));
        assert!(matches!(fixture.apply(2, vec![]), Err(VolumeError::Unfit { .. })));
        assert_eq!(fs::read_to_string(fixture.root().join("a")).unwrap(), "value 1");
    }

    #[test]
    fn a_newer_snapshot_replaces_one_that_never_ended() {
        let mut fixture = Fixture::new();
        let half = SyncVolumeRequest { generation: 1, entries: vec![file("old", "x")], ..Default::default() };
        fixture.files.take(&half).unwrap();
        fixture.apply(2, vec![file("new", "y")]).unwrap();
        assert_eq!(names(&fixture.root()), ["new"]);
        assert_eq!(names(&fixture.base.path().join("stage")), Vec::<String>::new());
    }
}
