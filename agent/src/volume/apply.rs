//! Turns a `files` volume into what a snapshot says, so that no reader sees half of it.
//!
//! ```text
//! directories → files → symbolic links, `..data` first, each by one rename → owners and modes → deletions
//! ```
//!
//! A publisher that keeps its contents in a directory of their own behind one link (as kubelet does with `..data`) is
//! therefore seen before or after, never between. A top-level file is rewritten in place, for a container may have
//! that very file mounted; every other file is replaced. A directory that becomes something else, or the reverse, is
//! absent for a moment.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::path::{RelPath, dot_if_empty};
use super::remove::remove_tree;
use super::stage::{Attributes, Content, Snapshot, Wanted, write_at};

/// Makes the tree at `root` equal to `snapshot`, whose contents are in `stage` on the same file system.
pub(super) fn apply(root: &OwnedFd, stage: &OwnedFd, snapshot: &Snapshot) -> io::Result<()> {
    let tree = Tree { root, stage };
    let found = tree.scan(snapshot)?;
    for step in plan(&snapshot.entries, &found) {
        tree.run(&step, snapshot)?;
    }
    if let Some(attributes) = snapshot.root {
        set_attributes(root, ".", attributes)?;
    }
    Ok(())
}

/// What is there already, beside an entry of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Directory,
    File { same: bool },
    Link { same: bool },
    Other,
}

/// One change; the paths are those of the snapshot or of something that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step<'a> {
    /// Takes what has the wrong type out of the way.
    Clear(&'a RelPath),
    MakeDirectory(&'a RelPath),
    PlaceFile(&'a RelPath),
    RewriteFile(&'a RelPath),
    PlaceLink(&'a RelPath),
    SetAttributes(&'a RelPath),
    Remove(&'a RelPath),
}

/// The steps in their order, without touching anything.
fn plan<'a>(wanted: &'a BTreeMap<RelPath, Wanted>, found: &'a BTreeMap<RelPath, Found>) -> Vec<Step<'a>> {
    let (mut clear, mut dirs, mut files, mut links) = (vec![], vec![], vec![], vec![]);
    let mut attributes = vec![];
    for (path, entry) in wanted {
        match (&entry.content, found.get(path)) {
            (Content::Directory, Some(Found::Directory))
            | (Content::File { .. }, Some(Found::File { same: true })) => {
                attributes.push(Step::SetAttributes(path));
            }
            (Content::Link { .. }, Some(Found::Link { same: true })) => {}
            (Content::Directory, there) => {
                clear.extend(there.map(|_| Step::Clear(path)));
                dirs.push(Step::MakeDirectory(path));
            }
            (Content::File { .. }, Some(Found::File { .. })) if path.split().0.is_empty() => {
                files.push(Step::RewriteFile(path));
                attributes.push(Step::SetAttributes(path));
            }
            (content, there) => {
                clear.extend(there.filter(|there| **there == Found::Directory).map(|_| Step::Clear(path)));
                match content {
                    Content::Link { .. } => links.push(Step::PlaceLink(path)),
                    _ => files.push(Step::PlaceFile(path)),
                }
            }
        }
    }
    links.sort_by_key(|link| !matches!(link, Step::PlaceLink(path) if path.as_str().starts_with("..")));
    let gone = found.keys().rev().filter(|path| !wanted.contains_key(path)).map(Step::Remove);
    [clear, dirs, files, links, attributes].into_iter().flatten().chain(gone).collect()
}

struct Tree<'a> {
    root: &'a OwnedFd,
    stage: &'a OwnedFd,
}

impl Tree<'_> {
    /// Looks at what is there: every wanted path, and whatever else lies in a wanted directory.
    fn scan(&self, snapshot: &Snapshot) -> io::Result<BTreeMap<RelPath, Found>> {
        let mut found = BTreeMap::new();
        let dirs = snapshot.entries.iter().filter(|(_, wanted)| wanted.content == Content::Directory);
        for dir in std::iter::once("").chain(dirs.map(|(path, _)| path.as_str())) {
            match self.open_dir(dir) {
                Ok(open) => self.scan_one(&open, dir, snapshot, &mut found)?,
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    fn scan_one(
        &self,
        open: &OwnedFd,
        dir: &str,
        snapshot: &Snapshot,
        found: &mut BTreeMap<RelPath, Found>,
    ) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(open)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                // A name that no snapshot can hold: made by a container, in its way, and gone with the volume.
                continue;
            };
            let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            let Ok(path) = RelPath::named("", &path) else { continue };
            let wanted = snapshot.entries.get(&path).map(|wanted| &wanted.content);
            let kind = self.look(open, name, wanted)?;
            found.insert(path, kind);
        }
        Ok(())
    }

    fn look(&self, dir: &OwnedFd, name: &str, wanted: Option<&Content>) -> io::Result<Found> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(match (FileType::from_raw_mode(stat.st_mode), wanted) {
            (FileType::Directory, _) => Found::Directory,
            (FileType::RegularFile, Some(Content::File { staged, size })) => {
                let same = u64::try_from(stat.st_size).is_ok_and(|there| there == *size)
                    && self.read(dir, name)? == self.read(self.stage, staged)?;
                Found::File { same }
            }
            (FileType::RegularFile, _) => Found::File { same: false },
            (FileType::Symlink, Some(Content::Link { target })) => {
                Found::Link { same: rustix::fs::readlinkat(dir, name, Vec::new())? == *target }
            }
            (FileType::Symlink, _) => Found::Link { same: false },
            _ => Found::Other,
        })
    }

    fn run(&self, step: &Step<'_>, snapshot: &Snapshot) -> io::Result<()> {
        let (Step::Clear(path)
        | Step::MakeDirectory(path)
        | Step::PlaceFile(path)
        | Step::RewriteFile(path)
        | Step::PlaceLink(path)
        | Step::SetAttributes(path)
        | Step::Remove(path)) = *step;
        let (parent, name) = path.split();
        let parent = match self.open_dir(parent) {
            Ok(parent) => parent,
            // Its parent went first.
            Err(rustix::io::Errno::NOENT) if matches!(step, Step::Remove(_) | Step::Clear(_)) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let Some(wanted) = snapshot.entries.get(path) else {
            return gone_is_fine(remove_tree(&parent, name, self.stage));
        };
        match (step, &wanted.content) {
            (Step::Clear(_), _) => gone_is_fine(remove_tree(&parent, name, self.stage)),
            (Step::SetAttributes(_), _) => set_attributes(&parent, name, wanted.attributes),
            (Step::RewriteFile(_), Content::File { staged, .. }) => self.rewrite(&parent, name, staged),
            (_, Content::Directory) => {
                rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
                set_attributes(&parent, name, wanted.attributes)
            }
            (_, Content::File { staged, .. }) => {
                set_attributes(self.stage, staged, wanted.attributes)?;
                Ok(rustix::fs::renameat(self.stage, staged, &parent, name)?)
            }
            (_, Content::Link { target }) => {
                rustix::fs::symlinkat(target, self.stage, "link")?;
                let (uid, gid) = owner(wanted.attributes);
                rustix::fs::chownat(self.stage, "link", uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(rustix::fs::renameat(self.stage, "link", &parent, name)?)
            }
        }
    }

    /// New contents for the same inode; the length is set last, so that no reader finds the file empty.
    fn rewrite(&self, parent: &OwnedFd, name: &str, staged: &str) -> io::Result<()> {
        let data = self.read(self.stage, staged)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        write_at(&file, &data, 0)?;
        Ok(rustix::fs::ftruncate(&file, data.len() as u64)?)
    }

    fn read(&self, dir: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        let mut data = Vec::new();
        // A container may make its file longer meanwhile; more than a snapshot holds is different anyway.
        io::Read::read_to_end(&mut io::Read::take(file, coffer_protocol::MAX_SNAPSHOT_BYTES), &mut data)?;
        Ok(data)
    }

    /// Opens a directory of the volume without following any link on the way.
    fn open_dir(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            self.root,
            dot_if_empty(path),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }
}

fn set_attributes(parent: &OwnedFd, name: &str, attributes: Attributes) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(rustix::io::Errno::LOOP.into());
    }
    let (uid, gid) = owner(attributes);
    if stat.st_uid != attributes.uid || stat.st_gid != attributes.gid {
        rustix::fs::chownat(&node, "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    // fchmod refuses a descriptor opened with O_PATH; its link in /proc leads to the same inode.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
    Ok(rustix::fs::chmod(path, attributes.mode)?)
}

fn owner(attributes: Attributes) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (Some(rustix::fs::Uid::from_raw(attributes.uid)), Some(rustix::fs::Gid::from_raw(attributes.gid)))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
