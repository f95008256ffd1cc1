//! The server over a socket pair, spoken to by a client that can also lie.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, OFlags};

use super::serve::{ServeError, serve};
use super::session::{MAX_MSIZE, Session};
use super::tree::Tree;
use super::wire::kind;

const ROOT: u32 = 1;
const MOST_FIDS: usize = 128;

/// A body, built field by field.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u8(mut self, value: u8) -> Body {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Body {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Body {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Body {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(mut self, text: impl AsRef<[u8]>) -> Body {
        let text = text.as_ref();
        self.0.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        self.0.extend(text);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Body {
        self.0.extend(bytes);
        self
    }
}

fn body() -> Body {
    Body::default()
}

struct Client {
    dir: tempfile::TempDir,
    stream: UnixStream,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Client {
    /// A server on a new directory, which `prepare` fills, after version and attach.
    fn on(read_only: bool, prepare: impl FnOnce(&Path)) -> Client {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let mut client = Client::raw(dir.path().to_owned().as_path(), dir, read_only);
        client.agree();
        client
    }

    /// A server before the first message.
    fn raw(shared: &Path, dir: tempfile::TempDir, read_only: bool) -> Client {
        let open = |path: &Path| -> OwnedFd {
            rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let (root, descriptors) = (open(shared), open(Path::new("/proc/self/fd")));
        let (stream, other) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let tree = Tree::new(root, descriptors, read_only).unwrap();
            serve(Session::new(tree, MOST_FIDS), other)
        });
        Client { dir, stream, server: Some(server) }
    }

    fn agree(&mut self) {
        self.call(kind::VERSION, body().u32(65536).text("9P2000.L")).unwrap();
        // The tests' own user, so that what is created can be given to it.
        let uid = rustix::process::getuid().as_raw();
        self.call(kind::ATTACH, body().u32(ROOT).u32(u32::MAX).text("").text("").u32(uid)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn send(&mut self, message: u8, body: &Body) {
        let mut frame = u32::try_from(body.0.len() + 7).unwrap().to_le_bytes().to_vec();
        frame.extend([message, 9, 0]);
        frame.extend(&body.0);
        self.stream.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_le_bytes(size)).unwrap() - 4];
        self.stream.read_exact(&mut frame).unwrap();
        (frame[0], frame.split_off(3))
    }

    /// The reply's body, or the number of the error.
    fn call(&mut self, message: u8, body: Body) -> Result<Vec<u8>, i32> {
        self.send(message, &body);
        match self.receive() {
            (kind::ERROR_REPLY, body) => Err(i32::from_le_bytes(body[..4].try_into().unwrap())),
            (reply, body) => {
                assert_eq!(reply, message + 1);
                Ok(body)
            }
        }
    }

    /// Walks from the root to a new handle.
    fn walk(&mut self, new: u32, names: &[&str]) -> Result<Vec<u8>, i32> {
        let count = u16::try_from(names.len()).unwrap();
        let request =
            names.iter().fold(body().u32(ROOT).u32(new).u16(count), |request, name| request.text(name));
        self.call(kind::WALK, request)
    }

    fn open(&mut self, new: u32, name: &str, flags: u32) -> Result<Vec<u8>, i32> {
        self.walk(new, &[name])?;
        self.call(kind::LOPEN, body().u32(new).u32(flags))
    }

    fn read(&mut self, fid: u32, count: u32) -> Result<Vec<u8>, i32> {
        self.call(kind::READ, body().u32(fid).u64(0).u32(count)).map(|reply| reply[4..].to_vec())
    }

    fn write(&mut self, fid: u32, data: &[u8]) -> Result<Vec<u8>, i32> {
        let count = u32::try_from(data.len()).unwrap();
        self.call(kind::WRITE, body().u32(fid).u64(0).u32(count).bytes(data))
    }

    fn create(&mut self, fid: u32, name: &str, mode: u32) -> Result<Vec<u8>, i32> {
        self.walk(fid, &[])?;
        let gid = rustix::process::getgid().as_raw();
        self.call(kind::LCREATE, body().u32(fid).text(name).u32(0o102).u32(mode).u32(gid))
    }

    /// Names in a directory that is open, read with room for `count` bytes at a time.
    fn names(&mut self, fid: u32, count: u32) -> Vec<String> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let reply = self.call(kind::READDIR, body().u32(fid).u64(cookie).u32(count)).unwrap();
            let mut entries = &reply[4..];
            if entries.is_empty() {
                names.sort();
                return names;
            }
            while !entries.is_empty() {
                cookie = u64::from_le_bytes(entries[13..21].try_into().unwrap());
                let length = usize::from(u16::from_le_bytes([entries[22], entries[23]]));
                names.push(String::from_utf8(entries[24..24 + length].to_vec()).unwrap());
                entries = &entries[24 + length..];
            }
        }
    }

    fn mode_of(&mut self, fid: u32) -> u32 {
        let reply = self.call(kind::GETATTR, body().u32(fid).u64(0x7ff)).unwrap();
        u32::from_le_bytes(reply[21..25].try_into().unwrap())
    }

    /// Ends the stream and answers how the server ended.
    fn end(mut self) -> Result<(), ServeError> {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        self.server.take().unwrap().join().unwrap()
    }
}

fn nothing(_: &Path) {}

fn one_file(dir: &Path) {
    fs::write(dir.join("f"), "contents").unwrap();
}

#[test]
fn a_file_is_read() {
    let mut client = Client::on(false, one_file);
    client.open(2, "f", 0).unwrap();
    assert_eq!(client.read(2, 100).unwrap(), b"contents");
    assert!(client.end().is_ok());
}

#[test]
fn a_file_is_created_with_its_mode_and_written() {
    let mut client = Client::on(false, nothing);
    client.create(2, "new", 0o100_640).unwrap();
    client.write(2, b"hello").unwrap();
    assert_eq!(fs::read(client.path("new")).unwrap(), b"hello");
    assert_eq!(fs::metadata(client.path("new")).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn what_a_user_of_the_guest_creates_is_that_users() {
    let mut client = Client::on(false, nothing);
    client.call(kind::ATTACH, body().u32(5).u32(u32::MAX).text("").text("").u32(1234)).unwrap();
    client.call(kind::MKDIR, body().u32(5).text("d").u32(0o40750).u32(5678)).unwrap();
    let made = fs::metadata(client.path("d")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1234, 5678, 0o750));
}

#[test]
fn a_created_file_that_exists_is_opened_unless_it_must_be_new() {
    let mut client = Client::on(false, one_file);
    client.create(2, "f", 0o644).unwrap();
    assert_eq!(client.read(2, 100).unwrap(), b"contents");
    client.walk(3, &[]).unwrap();
    let exclusive = body().u32(3).text("f").u32(0o302).u32(0o644).u32(0);
    assert_eq!(client.call(kind::LCREATE, exclusive), Err(libc::EEXIST));
}

#[test]
fn a_directory_is_listed_in_small_pieces() {
    let fill = |dir: &Path| (0..50).for_each(|n| fs::write(dir.join(format!("file-{n:02}")), "").unwrap());
    let mut client = Client::on(false, fill);
    client.walk(2, &[]).unwrap();
    client.call(kind::LOPEN, body().u32(2).u32(0)).unwrap();
    let names = client.names(2, 100);
    assert_eq!(names.len(), 52);
    assert_eq!(names[51], "file-49");
}

#[test]
fn a_file_is_renamed_linked_and_removed() {
    let mut client = Client::on(false, one_file);
    client.call(kind::RENAMEAT, body().u32(ROOT).text("f").u32(ROOT).text("g")).unwrap();
    client.walk(2, &["g"]).unwrap();
    client.call(kind::LINK, body().u32(ROOT).u32(2).text("h")).unwrap();
    client.call(kind::UNLINKAT, body().u32(ROOT).text("g").u32(0)).unwrap();
    assert!(!client.path("g").exists());
    assert_eq!(fs::read(client.path("h")).unwrap(), b"contents");
}

#[test]
fn a_handle_is_renamed_and_removed() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    client.call(kind::RENAME, body().u32(2).u32(ROOT).text("g")).unwrap();
    assert!(client.path("g").exists());
    client.call(kind::REMOVE, body().u32(2)).unwrap();
    assert!(!client.path("g").exists());
    assert_eq!(client.call(kind::CLUNK, body().u32(2)), Err(libc::EBADF));
}

#[test]
fn a_handle_whose_name_means_something_else_by_now_does_not_remove_that() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    fs::rename(client.path("f"), client.path("moved")).unwrap();
    fs::write(client.path("f"), "another").unwrap();
    assert_eq!(client.call(kind::REMOVE, body().u32(2)), Err(libc::ESTALE));
    assert!(client.path("f").exists());
}

#[test]
fn attributes_are_set() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    let (mode, size, mtime, exact) = (0x1, 0x8, 0x20, 0x100);
    let change = body().u32(2).u32(mode | size | mtime | exact).u32(0o4755).u32(0).u32(0).u64(3);
    client.call(kind::SETATTR, change.u64(0).u64(0).u64(1_000_000).u64(5)).unwrap();
    let set = fs::metadata(client.path("f")).unwrap();
    assert_eq!((set.mode() & 0o7777, set.len(), set.mtime(), set.mtime_nsec()), (0o4755, 3, 1_000_000, 5));
}

#[test]
fn an_attribute_of_the_users_is_set_listed_and_read() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    client.call(kind::XATTRCREATE, body().u32(2).text("user.color").u64(4).u32(0)).unwrap();
    client.write(2, b"blue").unwrap();
    client.call(kind::CLUNK, body().u32(2)).unwrap();
    client.walk(2, &["f"]).unwrap();
    client.call(kind::XATTRWALK, body().u32(2).u32(3).text("")).unwrap();
    assert_eq!(client.read(3, 100).unwrap(), b"user.color\0");
    client.call(kind::XATTRWALK, body().u32(2).u32(4).text("user.color")).unwrap();
    assert_eq!(client.read(4, 100).unwrap(), b"blue");
}

#[test]
fn an_attribute_of_the_hosts_security_is_refused() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    let create = body().u32(2).text("security.capability").u64(4).u32(0);
    assert_eq!(client.call(kind::XATTRCREATE, create), Err(libc::EOPNOTSUPP));
    let read = body().u32(2).u32(3).text("trusted.overlay.opaque");
    assert_eq!(client.call(kind::XATTRWALK, read), Err(libc::EOPNOTSUPP));
}

#[test]
fn an_attribute_over_its_announced_size_is_refused() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    client.call(kind::XATTRCREATE, body().u32(2).text("user.a").u64(2).u32(0)).unwrap();
    assert_eq!(client.write(2, b"abc"), Err(libc::EINVAL));
    assert_eq!(client.call(kind::CLUNK, body().u32(2)), Err(libc::EINVAL));
}

#[test]
fn the_file_system_tells_its_size() {
    let mut client = Client::on(false, nothing);
    let reply = client.call(kind::STATFS, body().u32(ROOT)).unwrap();
    assert_eq!(u32::from_le_bytes(reply[..4].try_into().unwrap()), 0x0102_1997);
    assert_ne!(u64::from_le_bytes(reply[8..16].try_into().unwrap()), 0);
}

#[test]
fn locks_are_granted_and_none_is_in_the_way() {
    let mut client = Client::on(false, one_file);
    client.open(2, "f", 2).unwrap();
    let lock = body().u32(2).u8(1).u32(0).u64(0).u64(10).u32(77).text("host");
    assert_eq!(client.call(kind::LOCK, lock).unwrap(), [0]);
    let get = body().u32(2).u8(1).u64(0).u64(10).u32(77).text("host");
    assert_eq!(client.call(kind::GETLOCK, get).unwrap()[0], 2);
}

#[test]
fn writes_reach_the_disk_when_asked() {
    let mut client = Client::on(false, one_file);
    client.open(2, "f", 2).unwrap();
    client.call(kind::FSYNC, body().u32(2).u32(0)).unwrap();
    client.call(kind::FSYNC, body().u32(2).u32(1)).unwrap();
    client.call(kind::FLUSH, body().u16(3)).unwrap();
}

#[test]
fn a_link_leads_nowhere() {
    let mut client = Client::on(false, |dir| symlink("/etc", dir.join("out")).unwrap());
    client.walk(2, &["out"]).unwrap();
    assert_eq!(client.mode_of(2) & 0o170_000, 0o120_000);
    assert_eq!(client.call(kind::LOPEN, body().u32(2).u32(0)), Err(libc::EPERM));
    // Walking on stops at the link: one identity in the reply, and no handle.
    assert_eq!(client.walk(3, &["out", "passwd"]).unwrap()[..2], [1, 0]);
    assert_eq!(client.call(kind::GETATTR, body().u32(3).u64(0)), Err(libc::EBADF));
    assert_eq!(client.call(kind::READLINK, body().u32(2)).unwrap()[2..], *b"/etc");
}

#[test]
fn a_link_in_place_of_a_file_is_not_written_through() {
    let mut client = Client::on(false, |dir| {
        fs::write(dir.join("outside"), "kept").unwrap();
        symlink(dir.join("outside"), dir.join("f")).unwrap();
    });
    assert_eq!(client.create(2, "f", 0o644), Err(libc::EPERM));
    assert_eq!(fs::read(client.path("outside")).unwrap(), b"kept");
}

#[test]
fn up_from_the_root_is_the_root() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["..", ".."]).unwrap();
    client.call(kind::LOPEN, body().u32(2).u32(0)).unwrap();
    assert_eq!(client.names(2, 4096), [".", "..", "f"]);
}

#[test]
fn up_from_below_is_refused() {
    let mut client = Client::on(false, |dir| fs::create_dir(dir.join("d")).unwrap());
    assert_eq!(client.walk(2, &["d", ".."]).unwrap()[..2], [1, 0]);
    assert_eq!(client.call(kind::GETATTR, body().u32(2).u64(0)), Err(libc::EBADF));
}

#[test]
fn a_name_with_a_slash_is_refused_everywhere() {
    let mut client = Client::on(false, |dir| fs::create_dir(dir.join("d")).unwrap());
    assert_eq!(client.walk(2, &["d/../.."]), Err(libc::EINVAL));
    assert_eq!(client.create(2, "d/f", 0o644), Err(libc::EINVAL));
    assert_eq!(client.call(kind::MKDIR, body().u32(ROOT).text("../x").u32(0o755).u32(0)), Err(libc::EINVAL));
    let rename = body().u32(ROOT).text("d").u32(ROOT).text("../d");
    assert_eq!(client.call(kind::RENAMEAT, rename), Err(libc::EINVAL));
    assert_eq!(client.call(kind::UNLINKAT, body().u32(ROOT).text("..").u32(0x200)), Err(libc::EINVAL));
}

#[test]
fn a_device_node_is_never_made() {
    let mut client = Client::on(false, nothing);
    let node = |mode: u32| body().u32(ROOT).text("n").u32(mode).u32(1).u32(3).u32(0);
    assert_eq!(client.call(kind::MKNOD, node(0o20666)), Err(libc::EPERM));
    assert_eq!(client.call(kind::MKNOD, node(0o60666)), Err(libc::EPERM));
    client.call(kind::MKNOD, node(0o10666)).unwrap();
    assert!(fs::metadata(client.path("n")).unwrap().file_type().is_fifo());
}

#[test]
fn a_named_pipe_of_the_host_is_not_opened() {
    let mut client = Client::on(false, |dir| {
        nix::unistd::mkfifo(&dir.join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    assert_eq!(client.open(2, "p", 0), Err(libc::EPERM));
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let mut client = Client::on(true, one_file);
    assert_eq!(client.open(2, "f", 1), Err(libc::EROFS));
    assert_eq!(client.call(kind::LOPEN, body().u32(2).u32(0o1000)), Err(libc::EROFS));
    assert_eq!(client.create(3, "new", 0o644), Err(libc::EROFS));
    assert_eq!(client.call(kind::MKDIR, body().u32(ROOT).text("d").u32(0o755).u32(0)), Err(libc::EROFS));
    assert_eq!(client.call(kind::SYMLINK, body().u32(ROOT).text("l").text("f").u32(0)), Err(libc::EROFS));
    let node = body().u32(ROOT).text("n").u32(0o10666).u32(0).u32(0).u32(0);
    assert_eq!(client.call(kind::MKNOD, node), Err(libc::EROFS));
    assert_eq!(client.call(kind::LINK, body().u32(ROOT).u32(2).text("l")), Err(libc::EROFS));
    assert_eq!(client.call(kind::UNLINKAT, body().u32(ROOT).text("f").u32(0)), Err(libc::EROFS));
    assert_eq!(client.call(kind::RENAMEAT, body().u32(ROOT).text("f").u32(ROOT).text("g")), Err(libc::EROFS));
    let change = body().u32(2).u32(1).u32(0o777).u32(0).u32(0).u64(0).u64(0).u64(0).u64(0).u64(0);
    assert_eq!(client.call(kind::SETATTR, change), Err(libc::EROFS));
    assert_eq!(client.call(kind::XATTRCREATE, body().u32(2).text("user.a").u64(0).u32(0)), Err(libc::EROFS));
    assert_eq!(client.call(kind::REMOVE, body().u32(2)), Err(libc::EROFS));
    client.open(4, "f", 0).unwrap();
    assert_eq!(client.read(4, 100).unwrap(), b"contents");
}

#[test]
fn a_shared_file_is_all_that_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), "line").unwrap();
    let shared = dir.path().join("log");
    let mut client = Client::raw(&shared, dir, false);
    client.agree();
    client.walk(2, &[]).unwrap();
    client.call(kind::LOPEN, body().u32(2).u32(0)).unwrap();
    assert_eq!(client.names(2, 4096), [".", "..", "file"]);
    assert_eq!(client.mode_of(ROOT), 0o40555);
    client.open(3, "file", 2).unwrap();
    client.write(3, b"next").unwrap();
    assert_eq!(fs::read(client.path("log")).unwrap(), b"next");
    assert_eq!(client.walk(4, &["log"]), Err(libc::ENOENT));
    assert_eq!(client.create(5, "new", 0o644), Err(libc::EPERM));
    assert_eq!(client.call(kind::UNLINKAT, body().u32(ROOT).text("file").u32(0)), Err(libc::EPERM));
}

#[test]
fn a_handle_that_does_not_exist_is_refused() {
    let mut client = Client::on(false, nothing);
    assert_eq!(client.read(99, 10), Err(libc::EBADF));
    assert_eq!(client.call(kind::CLUNK, body().u32(99)), Err(libc::EBADF));
}

#[test]
fn a_handle_cannot_be_given_twice() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    assert_eq!(client.walk(2, &["f"]), Err(libc::EBADF));
}

#[test]
fn handles_are_bounded() {
    let mut client = Client::on(false, nothing);
    let taken = (100..300).filter(|fid| client.walk(*fid, &[]).is_ok()).count();
    assert_eq!(taken, MOST_FIDS - 1);
    assert_eq!(client.walk(300, &[]), Err(libc::ENFILE));
}

#[test]
fn attributes_that_are_held_are_bounded() {
    let mut client = Client::on(false, one_file);
    client.walk(2, &["f"]).unwrap();
    let mut list = |fid: u32| client.call(kind::XATTRWALK, body().u32(2).u32(fid).text(""));
    let taken = (100..200).filter(|fid| list(*fid).is_ok()).count();
    assert_eq!((taken, list(200)), (64, Err(libc::ENFILE)));
}

#[test]
fn a_read_is_cut_to_the_agreed_frame() {
    let mut client = Client::on(false, |dir| fs::write(dir.join("f"), vec![1; 200_000]).unwrap());
    client.open(2, "f", 0).unwrap();
    assert_eq!(client.read(2, u32::MAX).unwrap().len(), 65536 - 11);
}

#[test]
fn an_offset_that_no_file_has_is_refused() {
    let mut client = Client::on(false, one_file);
    client.open(2, "f", 2).unwrap();
    assert_eq!(client.call(kind::READ, body().u32(2).u64(u64::MAX).u32(1)), Err(libc::EINVAL));
    assert_eq!(client.call(kind::WRITE, body().u32(2).u64(u64::MAX).u32(1).u8(1)), Err(libc::EINVAL));
}

#[test]
fn a_frame_is_never_larger_than_the_server_wants() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().to_owned();
    let mut client = Client::raw(&shared, dir, false);
    let reply = client.call(kind::VERSION, body().u32(u32::MAX).text("9P2000.L")).unwrap();
    assert_eq!(u32::from_le_bytes(reply[..4].try_into().unwrap()), MAX_MSIZE);
}

#[test]
fn a_tiny_frame_and_another_dialect_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().to_owned();
    let mut client = Client::raw(&shared, dir, false);
    assert_eq!(client.call(kind::VERSION, body().u32(512).text("9P2000.L")), Err(libc::EMSGSIZE));
    let reply = client.call(kind::VERSION, body().u32(65536).text("9P2000.u")).unwrap();
    assert_eq!(reply[6..], *b"unknown");
    let attach = body().u32(ROOT).u32(u32::MAX).text("").text("").u32(0);
    assert_eq!(client.call(kind::ATTACH, attach), Err(libc::EPROTO));
}

#[test]
fn a_frame_over_the_agreed_size_ends_the_session() {
    let mut client = Client::on(false, nothing);
    client.stream.write_all(&65537_u32.to_le_bytes()).unwrap();
    client.stream.write_all(&[kind::WRITE, 0, 0]).unwrap();
    let ended = client.server.take().unwrap().join().unwrap();
    assert!(matches!(ended, Err(ServeError::Frame { size: 65537, limit: 65536 })));
}

#[test]
fn a_frame_shorter_than_its_header_ends_the_session() {
    let mut client = Client::on(false, nothing);
    client.stream.write_all(&[6, 0, 0, 0, kind::CLUNK, 0, 0]).unwrap();
    let ended = client.server.take().unwrap().join().unwrap();
    assert!(matches!(ended, Err(ServeError::Frame { size: 6, .. })));
}

#[test]
fn a_frame_that_is_cut_ends_the_session() {
    let mut client = Client::on(false, nothing);
    client.stream.write_all(&[100, 0, 0, 0, kind::CLUNK, 0, 0, 1]).unwrap();
    assert!(matches!(client.end(), Err(ServeError::Stream { .. })));
}

#[test]
fn an_unknown_message_is_answered_and_the_session_goes_on() {
    let mut client = Client::on(false, one_file);
    assert_eq!(client.call(200, body()), Err(libc::EOPNOTSUPP));
    assert_eq!(client.call(kind::AUTH, body().u32(1).text("").text("").u32(0)), Err(libc::EOPNOTSUPP));
    assert!(client.open(2, "f", 0).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_messages_make_the_server_panic(
        messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 1..40),
    ) {
        let mut client = Client::on(true, one_file);
        for (message, bytes) in messages {
            client.send(message, &Body(bytes));
            client.receive();
        }
        prop_assert!(client.end().is_ok());
    }

    #[test]
    fn well_formed_messages_in_any_order_make_no_panic(
        messages in prop::collection::vec((0_u32..6, 0_u32..6, 0_usize..14, 0_u64..100), 1..60),
    ) {
        let mut client = Client::on(false, one_file);
        for (a, b, which, number) in messages {
            let names = ["f", "g", "..", "d"];
            let name = names[usize::try_from(number).unwrap() % names.len()];
            let (message, request) = match which {
                0 => (kind::WALK, body().u32(a).u32(b).u16(1).text(name)),
                1 => (kind::WALK, body().u32(a).u32(b).u16(0)),
                2 => (kind::LOPEN, body().u32(a).u32(b)),
                3 => (kind::LCREATE, body().u32(a).text(name).u32(b).u32(0o644).u32(0)),
                4 => (kind::READ, body().u32(a).u64(number).u32(100)),
                5 => (kind::WRITE, body().u32(a).u64(number).u32(1).u8(1)),
                6 => (kind::READDIR, body().u32(a).u64(number).u32(500)),
                7 => (kind::MKDIR, body().u32(a).text(name).u32(0o755).u32(0)),
                8 => (kind::RENAMEAT, body().u32(a).text(name).u32(b).text("moved")),
                9 => (kind::UNLINKAT, body().u32(a).text(name).u32(b)),
                10 => (kind::CLUNK, body().u32(a)),
                11 => (kind::XATTRCREATE, body().u32(a).text("user.x").u64(number).u32(0)),
                12 => (kind::XATTRWALK, body().u32(a).u32(b).text("")),
                _ => (kind::REMOVE, body().u32(a)),
            };
            let _ = client.call(message, request);
        }
        prop_assert!(client.end().is_ok());
    }
}
