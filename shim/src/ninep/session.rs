//! One 9P session: takes requests in order and writes the reply to each.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::fids::{Fid, Fids, Opened};
use super::reply;
use super::request::{Request, Step, Unfit};
use super::tree::{Node, Qid, Tree};
use super::wire::{HEADER, Writer};

/// The largest frame that is agreed to.
pub(super) const MAX_MSIZE: u32 = 256 << 10;

/// The smallest: a page, as Linux wants it.
const MIN_MSIZE: u32 = 4096;

/// The only dialect.
const DIALECT: &[u8] = b"9P2000.L";

/// What the server has for one guest.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) tree: Tree,
    pub(super) fids: Fids,
    /// The largest frame, once agreed.
    msize: Option<u32>,
}

impl Session {
    /// A session before `Tversion`.
    pub(super) fn new(tree: Tree, most_fids: usize) -> Session {
        Session { tree, fids: Fids::new(most_fids), msize: None }
    }

    /// The largest frame that may come.
    pub(super) fn msize(&self) -> u32 {
        self.msize.unwrap_or(MIN_MSIZE)
    }

    /// Answers one request: `message` is the type in the header, `body` what follows the header.
    pub(super) fn answer(&mut self, message: u8, tag: u16, body: &[u8], writer: &mut Writer) {
        writer.begin(message.wrapping_add(1), tag);
        let done = match Request::parse(message, body) {
            Ok(Request::Version { msize, version }) => self.version(msize, version, writer),
            Ok(_) if self.msize.is_none() => Err(Errno::PROTO),
            Ok(request) => self.handle(request, writer),
            Err(Unfit::Kind) => Err(Errno::OPNOTSUPP),
            Err(Unfit::TooLong) => Err(Errno::NAMETOOLONG),
            Err(Unfit::Shape | Unfit::Name | Unfit::Range) => Err(Errno::INVAL),
        };
        if let Err(error) = done {
            reply::error(writer, tag, error);
        }
    }

    fn handle(&mut self, request: Request<'_>, writer: &mut Writer) -> Result<(), Errno> {
        use Request as R;
        match request {
            R::Version { .. } | R::Flush => Ok(()),
            R::Auth => Err(Errno::OPNOTSUPP),
            R::Attach { fid, uid } => self.attach(fid, uid, writer),
            R::Walk { fid, new_fid, steps } => self.walk(fid, new_fid, &steps, writer),
            R::Clunk { fid } => self.clunk(fid),
            R::Open { fid, flags } => self.open(fid, flags, writer),
            R::Create { .. } => self.create(&request, writer),
            R::Read { fid, offset, count } => self.read(fid, offset, count, writer),
            R::Write { fid, offset, data } => self.write(fid, offset, data, writer),
            R::ReadDir { fid, offset, count } => self.read_directory(fid, offset, count, writer),
            R::Sync { fid, data_only } => self.sync(fid, data_only),
            R::Lock { fid } => self.lock(fid, writer),
            R::GetLock { fid, start, length, process, client } => {
                self.fids.get(fid)?;
                self.get_lock((start, length), process, client, writer)
            }
            R::StatFs { fid } => self.stat_fs(fid, writer),
            R::GetAttr { fid } => self.get_attributes(fid, writer),
            R::SetAttr { fid, change } => self.set_attributes(fid, &change),
            R::ReadLink { fid } => self.read_link(fid, writer),
            R::XattrWalk { fid, new_fid, name } => self.xattr_walk(fid, new_fid, name, writer),
            R::XattrCreate { fid, name, size, flags } => self.xattr_create(fid, name, size, flags),
            R::Symlink { fid, name, target, gid } => self.symlink(fid, name, target, gid, writer),
            R::MakeNode { fid, name, mode, gid } => self.make_node(fid, name, (mode, gid), writer),
            R::MakeDir { fid, name, mode, gid } => self.make_directory(fid, name, (mode, gid), writer),
            R::Link { directory, fid, name } => self.link(directory, fid, name),
            R::Rename { fid, directory, name } => self.rename(fid, directory, name),
            R::RenameAt { from, old, to, new } => self.rename_at((from, old), (to, new)),
            R::UnlinkAt { fid, name, directory } => self.unlink(fid, name, directory),
            R::Remove { fid } => self.remove(fid),
        }
    }

    /// Agrees on the size of frames; every handle of an earlier agreement is given back.
    fn version(&mut self, msize: u32, version: &[u8], writer: &mut Writer) -> Result<(), Errno> {
        self.fids.clear();
        self.msize = None;
        if msize < MIN_MSIZE {
            return Err(Errno::MSGSIZE);
        }
        let msize = msize.min(MAX_MSIZE);
        writer.u32(msize);
        if version != DIALECT {
            writer.string(b"unknown");
            return Ok(());
        }
        writer.string(DIALECT);
        self.msize = Some(msize);
        writer.set_limit(usize::try_from(msize).unwrap_or_default());
        Ok(())
    }

    fn attach(&mut self, fid: u32, uid: u32, writer: &mut Writer) -> Result<(), Errno> {
        // The mount itself attaches as nobody in particular; that is the guest's root.
        let uid = if uid == u32::MAX { 0 } else { uid };
        let node = self.tree.root();
        let qid = self.node_qid(&node)?;
        self.fids.insert(fid, Fid { node, uid, opened: Opened::No }, false)?;
        reply::qid(writer, qid);
        Ok(())
    }

    /// Walks as far as the names lead; the new handle exists only if that is all the way.
    fn walk(&mut self, from: u32, to: u32, steps: &[Step<'_>], writer: &mut Writer) -> Result<(), Errno> {
        let fid = self.fids.get(from)?;
        if !matches!(fid.opened, Opened::No) && from == to {
            return Err(Errno::BUSY);
        }
        let (uid, mut node) = (fid.uid, fid.node.clone());
        let mut qids = Vec::with_capacity(steps.len());
        for step in steps {
            let next = self.tree.step(&node, *step).and_then(|next| Ok((self.node_qid(&next)?, next)));
            match next {
                Ok((qid, next)) => {
                    qids.push(qid);
                    node = next;
                }
                Err(error) if qids.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        if qids.len() == steps.len() {
            self.fids.insert(to, Fid { node, uid, opened: Opened::No }, from == to)?;
        }
        writer.u16(u16::try_from(qids.len()).unwrap_or_default());
        qids.into_iter().for_each(|qid| reply::qid(writer, qid));
        Ok(())
    }

    /// Gives a handle back; an attribute that was written through it is set now.
    fn clunk(&mut self, number: u32) -> Result<(), Errno> {
        let fid = self.fids.remove(number)?;
        match (fid.opened, fid.node) {
            (Opened::NewValue(value), Node::Host(node)) => self.set_xattr(&node, &value),
            _ => Ok(()),
        }
    }

    /// The identity of a node.
    pub(super) fn node_qid(&self, node: &Node) -> Result<Qid, Errno> {
        match node {
            Node::Host(node) => Ok(self.tree.qid(&node.stat()?)),
            Node::Above => {
                let below = self.tree.qid(&self.tree.shared().stat()?);
                let directory = self.tree.entry_qid(0, 0, FileType::Directory);
                // Any number that is not the file's.
                Ok(Qid { path: !below.path, ..directory })
            }
        }
    }
}

/// Length, type and tag of a frame's header.
pub(super) fn parse_header(header: [u8; HEADER]) -> (u32, u8, u16) {
    let [a, b, c, d, message, low, high] = header;
    (u32::from_le_bytes([a, b, c, d]), message, u16::from_le_bytes([low, high]))
}
