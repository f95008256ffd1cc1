//! Messages from the guest, parsed: what comes out of here has bounded counts and safe names.

use super::wire::{Malformed, Reader, kind};

/// The most names in one `Twalk` (`P9_MAXWELEM`).
const MAX_NAMES: u16 = 16;

/// The longest name (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// The longest target of a symbolic link (`PATH_MAX` without its NUL).
const MAX_TARGET: usize = 4095;

/// The number that stands for no user or group.
const NONE: u32 = u32::MAX;

/// One component of a path: no `/`, no NUL, not empty, not `.` or `..`, at most 255 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    pub(super) fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    fn parse(bytes: &'a [u8]) -> Result<Name<'a>, Unfit> {
        let plain = !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|b| matches!(b, b'/' | 0));
        match plain {
            true if bytes.len() <= MAX_NAME => Ok(Name(bytes)),
            true => Err(Unfit::TooLong),
            false => Err(Unfit::Name),
        }
    }
}

/// A step of `Twalk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Down(Name<'a>),
    Up,
}

/// What `Tsetattr` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<Time>,
    pub(super) mtime: Option<Time>,
    pub(super) ctime: bool,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    Now,
    At { seconds: i64, nanos: u32 },
}

/// A message from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Version { msize: u32, version: &'a [u8] },
    Auth,
    Attach { fid: u32, uid: u32 },
    Flush,
    Walk { fid: u32, new_fid: u32, steps: Vec<Step<'a>> },
    Open { fid: u32, flags: u32 },
    Create { fid: u32, name: Name<'a>, flags: u32, mode: u32, gid: u32 },
    Read { fid: u32, offset: u64, count: u32 },
    Write { fid: u32, offset: u64, data: &'a [u8] },
    Clunk { fid: u32 },
    Remove { fid: u32 },
    StatFs { fid: u32 },
    GetAttr { fid: u32 },
    SetAttr { fid: u32, change: Change },
    ReadDir { fid: u32, offset: u64, count: u32 },
    Sync { fid: u32, data_only: bool },
    Lock { fid: u32 },
    GetLock { fid: u32, start: u64, length: u64, process: u32, client: &'a [u8] },
    ReadLink { fid: u32 },
    Symlink { fid: u32, name: Name<'a>, target: &'a [u8], gid: u32 },
    MakeNode { fid: u32, name: Name<'a>, mode: u32, gid: u32 },
    MakeDir { fid: u32, name: Name<'a>, mode: u32, gid: u32 },
    Link { directory: u32, fid: u32, name: Name<'a> },
    Rename { fid: u32, directory: u32, name: Name<'a> },
    RenameAt { from: u32, old: Name<'a>, to: u32, new: Name<'a> },
    UnlinkAt { fid: u32, name: Name<'a>, directory: bool },
    XattrWalk { fid: u32, new_fid: u32, name: &'a [u8] },
    XattrCreate { fid: u32, name: &'a [u8], size: u64, flags: u32 },
}

/// Why a message is answered with an error; the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the message's type is not known")]
    Kind,
    #[error("the message's fields do not fill it")]
    Shape,
    #[error("a name is empty, special or holds a slash or zero byte")]
    Name,
    #[error("a name or a list is too long")]
    TooLong,
    #[error("a number is out of its range")]
    Range,
}

impl From<Malformed> for Unfit {
    fn from(_: Malformed) -> Unfit {
        Unfit::Shape
    }
}

impl<'a> Request<'a> {
    /// Parses a body by the type in its header.
    pub(super) fn parse(message: u8, body: &'a [u8]) -> Result<Request<'a>, Unfit> {
        let mut reader = Reader::new(body);
        let request = match message {
            kind::STATFS..=kind::XATTRCREATE => attributes(message, &mut reader)?,
            kind::READDIR..=kind::UNLINKAT => names(message, &mut reader)?,
            _ => session(message, &mut reader)?,
        };
        reader.end()?;
        Ok(request)
    }
}

fn session<'a>(message: u8, r: &mut Reader<'a>) -> Result<Request<'a>, Unfit> {
    Ok(match message {
        kind::VERSION => Request::Version { msize: r.u32()?, version: r.string()? },
        kind::AUTH => {
            let (_fid, _user, _tree, _uid) = (r.u32()?, r.string()?, r.string()?, r.u32()?);
            Request::Auth
        }
        kind::ATTACH => {
            let fid = r.u32()?;
            let (_auth, _user, _tree) = (r.u32()?, r.string()?, r.string()?);
            Request::Attach { fid, uid: r.u32()? }
        }
        kind::FLUSH => {
            let _old = r.u16()?;
            Request::Flush
        }
        kind::WALK => {
            let (fid, new_fid, count) = (r.u32()?, r.u32()?, r.u16()?);
            if count > MAX_NAMES {
                return Err(Unfit::TooLong);
            }
            let step = |name: &'a [u8]| match name {
                b".." => Ok(Step::Up),
                name => Name::parse(name).map(Step::Down),
            };
            let steps = (0..count).map(|_| step(r.string()?)).collect::<Result<_, Unfit>>()?;
            Request::Walk { fid, new_fid, steps }
        }
        kind::READ => Request::Read { fid: r.u32()?, offset: r.u64()?, count: r.u32()? },
        kind::WRITE => {
            let (fid, offset, count) = (r.u32()?, r.u64()?, r.u32()?);
            let count = usize::try_from(count).map_err(|_| Unfit::Range)?;
            Request::Write { fid, offset, data: r.bytes(count)? }
        }
        kind::CLUNK => Request::Clunk { fid: r.u32()? },
        kind::REMOVE => Request::Remove { fid: r.u32()? },
        _ => return Err(Unfit::Kind),
    })
}

fn attributes<'a>(message: u8, r: &mut Reader<'a>) -> Result<Request<'a>, Unfit> {
    Ok(match message {
        kind::STATFS => Request::StatFs { fid: r.u32()? },
        kind::LOPEN => Request::Open { fid: r.u32()?, flags: r.u32()? },
        kind::LCREATE => Request::Create {
            fid: r.u32()?,
            name: Name::parse(r.string()?)?,
            flags: r.u32()?,
            mode: r.u32()?,
            gid: owner(r.u32()?)?,
        },
        kind::SYMLINK => {
            let (fid, name, target) = (r.u32()?, Name::parse(r.string()?)?, r.string()?);
            if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                return Err(Unfit::TooLong);
            }
            Request::Symlink { fid, name, target, gid: owner(r.u32()?)? }
        }
        kind::MKNOD => {
            let (fid, name, mode) = (r.u32()?, Name::parse(r.string()?)?, r.u32()?);
            let (_major, _minor) = (r.u32()?, r.u32()?);
            Request::MakeNode { fid, name, mode, gid: owner(r.u32()?)? }
        }
        kind::RENAME => {
            Request::Rename { fid: r.u32()?, directory: r.u32()?, name: Name::parse(r.string()?)? }
        }
        kind::READLINK => Request::ReadLink { fid: r.u32()? },
        kind::GETATTR => {
            let (fid, _mask) = (r.u32()?, r.u64()?);
            Request::GetAttr { fid }
        }
        kind::SETATTR => Request::SetAttr { fid: r.u32()?, change: change(r)? },
        kind::XATTRWALK => {
            Request::XattrWalk { fid: r.u32()?, new_fid: r.u32()?, name: xattr_name(r.string()?)? }
        }
        kind::XATTRCREATE => Request::XattrCreate {
            fid: r.u32()?,
            name: xattr_name(r.string()?)?,
            size: r.u64()?,
            flags: r.u32()?,
        },
        _ => return Err(Unfit::Kind),
    })
}

fn names<'a>(message: u8, r: &mut Reader<'a>) -> Result<Request<'a>, Unfit> {
    /// `AT_REMOVEDIR`.
    const REMOVE_DIRECTORY: u32 = 0x200;
    Ok(match message {
        kind::READDIR => Request::ReadDir { fid: r.u32()?, offset: r.u64()?, count: r.u32()? },
        kind::FSYNC => Request::Sync { fid: r.u32()?, data_only: r.u32()? != 0 },
        kind::LOCK => {
            let fid = r.u32()?;
            let (_kind, _flags, _start, _length) = (r.u8()?, r.u32()?, r.u64()?, r.u64()?);
            let (_process, _client) = (r.u32()?, r.string()?);
            Request::Lock { fid }
        }
        kind::GETLOCK => {
            let (fid, _kind) = (r.u32()?, r.u8()?);
            let (start, length, process, client) = (r.u64()?, r.u64()?, r.u32()?, r.string()?);
            Request::GetLock { fid, start, length, process, client: name_like(client)? }
        }
        kind::LINK => Request::Link { directory: r.u32()?, fid: r.u32()?, name: Name::parse(r.string()?)? },
        kind::MKDIR => Request::MakeDir {
            fid: r.u32()?,
            name: Name::parse(r.string()?)?,
            mode: r.u32()?,
            gid: owner(r.u32()?)?,
        },
        kind::RENAMEAT => Request::RenameAt {
            from: r.u32()?,
            old: Name::parse(r.string()?)?,
            to: r.u32()?,
            new: Name::parse(r.string()?)?,
        },
        kind::UNLINKAT => {
            let (fid, name) = (r.u32()?, Name::parse(r.string()?)?);
            Request::UnlinkAt { fid, name, directory: r.u32()? & REMOVE_DIRECTORY != 0 }
        }
        _ => return Err(Unfit::Kind),
    })
}

/// The bits are `P9_ATTR_*` in Linux's `fs/9p/vfs_inode_dotl.c`.
fn change(r: &mut Reader<'_>) -> Result<Change, Unfit> {
    let valid = r.u32()?;
    let has = |bit: u32| valid & bit != 0;
    let (mode, uid, gid, size) = (r.u32()?, r.u32()?, r.u32()?, r.u64()?);
    let mut time = |set: bool, exact: bool| -> Result<Option<Time>, Unfit> {
        let (seconds, nanos) = (r.u64()?, r.u64()?);
        match (set, exact) {
            (false, _) => Ok(None),
            (true, false) => Ok(Some(Time::Now)),
            (true, true) => {
                let nanos =
                    u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or(Unfit::Range)?;
                // Times before 1970 arrive as the two's complement.
                Ok(Some(Time::At { seconds: seconds.cast_signed(), nanos }))
            }
        }
    };
    let (atime, mtime) = (time(has(0x10), has(0x80))?, time(has(0x20), has(0x100))?);
    Ok(Change {
        mode: has(0x1).then_some(mode & 0o7777),
        uid: has(0x2).then(|| owner(uid)).transpose()?,
        gid: has(0x4).then(|| owner(gid)).transpose()?,
        size: has(0x8).then_some(size),
        atime,
        mtime,
        ctime: has(0x40),
    })
}

fn owner(id: u32) -> Result<u32, Unfit> {
    if id == NONE { Err(Unfit::Range) } else { Ok(id) }
}

/// An attribute's name, empty in `Txattrwalk` for the list of all.
fn xattr_name(name: &[u8]) -> Result<&[u8], Unfit> {
    if name.len() > MAX_NAME {
        return Err(Unfit::TooLong);
    }
    if name.contains(&0) { Err(Unfit::Name) } else { Ok(name) }
}

/// A text that is sent back as it came.
fn name_like(text: &[u8]) -> Result<&[u8], Unfit> {
    if text.len() > MAX_NAME { Err(Unfit::TooLong) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(name: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 0, 0, 0, 1, 0, 0, 0, 1, 0];
        body.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
        body.extend_from_slice(name);
        body
    }

    #[test]
    fn a_name_with_a_slash_is_refused() {
        assert_eq!(Request::parse(kind::WALK, &walk(b"a/b")), Err(Unfit::Name));
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert_eq!(Request::parse(kind::WALK, &walk(b"")), Err(Unfit::Name));
    }

    #[test]
    fn a_dot_is_refused() {
        assert_eq!(Request::parse(kind::WALK, &walk(b".")), Err(Unfit::Name));
    }

    #[test]
    fn a_name_with_a_zero_byte_is_refused() {
        assert_eq!(Request::parse(kind::WALK, &walk(b"a\0b")), Err(Unfit::Name));
    }

    #[test]
    fn a_name_over_the_limit_is_refused() {
        assert_eq!(Request::parse(kind::WALK, &walk(&[b'a'; 256])), Err(Unfit::TooLong));
    }

    #[test]
    fn a_walk_of_too_many_names_is_refused() {
        assert_eq!(Request::parse(kind::WALK, &[0, 0, 0, 0, 1, 0, 0, 0, 17, 0]), Err(Unfit::TooLong));
    }

    #[test]
    fn a_write_whose_count_is_over_its_data_is_refused() {
        let mut body = vec![0; 12];
        body.extend_from_slice(&100_u32.to_le_bytes());
        body.push(1);
        assert_eq!(Request::parse(kind::WRITE, &body), Err(Unfit::Shape));
    }

    #[test]
    fn a_directory_for_no_group_is_refused() {
        let mut body = vec![0, 0, 0, 0, 1, 0, b'd', 0, 0, 0, 0];
        body.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Request::parse(kind::MKDIR, &body), Err(Unfit::Range));
    }

    #[test]
    fn a_message_that_nobody_knows_is_refused() {
        assert_eq!(Request::parse(255, &[]), Err(Unfit::Kind));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(message in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(message, &body);
        }
    }
}
