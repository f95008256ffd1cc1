//! Replies to the guest, written straight into the frame.

use rustix::fs::Stat;
use rustix::io::Errno;

use super::tree::Qid;
use super::wire::{Writer, kind};

/// `P9_STATS_BASIC`: everything up to the number of blocks.
const VALID: u64 = 0x7ff;

/// Writes an identity; version 0 keeps the guest from caching contents.
pub(super) fn qid(writer: &mut Writer, qid: Qid) {
    writer.u8(qid.kind);
    writer.u32(0);
    writer.u64(qid.path);
}

/// Replaces the reply by an error.
pub(super) fn error(writer: &mut Writer, tag: u16, error: Errno) {
    writer.begin(kind::ERROR_REPLY, tag);
    writer.u32(error.raw_os_error().unsigned_abs());
}

/// Writes the body of `Rgetattr`.
pub(super) fn attributes(writer: &mut Writer, identity: Qid, stat: &Stat) {
    writer.u64(VALID);
    qid(writer, identity);
    writer.u32(stat.st_mode);
    writer.u32(stat.st_uid);
    writer.u32(stat.st_gid);
    writer.u64(stat.st_nlink);
    writer.u64(encode_device(stat.st_rdev));
    writer.u64(unsigned(stat.st_size));
    writer.u64(unsigned(stat.st_blksize));
    writer.u64(unsigned(stat.st_blocks));
    let times = [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
        (0, 0),
    ];
    for (seconds, nanos) in times {
        writer.u64(seconds.cast_unsigned());
        writer.u64(nanos);
    }
    // Generation and data version, which are not in `VALID`.
    writer.u64(0);
    writer.u64(0);
}

/// The encoding that the guest's kernel decodes (`new_decode_dev`).
fn encode_device(device: u64) -> u64 {
    let (major, minor) = (u64::from(rustix::fs::major(device)), u64::from(rustix::fs::minor(device)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
