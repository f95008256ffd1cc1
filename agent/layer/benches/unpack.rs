//! How long unpacking takes beside GNU tar, and how much memory: `cargo bench -p coffer-layer --bench unpack [-- FILE.tar.gz]`.
//!
//! Without a file it packs this machine's `/usr/share`. Each is done three times in turn, and the fastest counts.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coffer_layer::unpack::{Content, Expected, Limits, unpack};
use coffer_protocol::Digest;
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let place = tempfile::tempdir()?;
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let blob = given.map_or_else(|| packed(place.path()), |path| Ok(PathBuf::from(path)))?;
    let expected = Expected {
        content: Content::Both {
            digest: digest(File::open(&blob)?)?,
            diff_id: digest(MultiGzDecoder::new(File::open(&blob)?))?,
        },
        size: fs::metadata(&blob)?.len(),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
    };
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    for round in 0..3 {
        let before = memory()?;
        let (time, said) = timed(place.path(), |target| {
            let unpacked =
                unpack(File::open(&blob)?, &expected, File::open(target)?.as_fd(), &Limits::default())?;
            Ok(format!("{} MiB, {} entries", unpacked.bytes >> 20, unpacked.entries))
        })?;
        ours = ours.min(time);
        let grown = memory()?.saturating_sub(before);
        println!("round {round}: ours {time:.2?} ({said}, {grown} KiB more memory at its peak)");
        let (time, _) = timed(place.path(), |target| {
            let status = Command::new("tar")
                .args(["-C", target.to_str().unwrap_or_default(), "-xzpf"])
                .arg(&blob)
                .status()?;
            Ok(status.to_string())
        })?;
        theirs = theirs.min(time);
        println!("round {round}: tar {time:.2?}");
    }
    let times = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("ours {ours:.2?}, tar {theirs:.2?}: {times:.2} times its speed");
    Ok(())
}

/// Unpacks into a directory that is removed afterwards, which is not timed.
fn timed(place: &Path, run: impl Fn(&Path) -> Outcome<String>) -> Outcome<(Duration, String)> {
    let target = place.join("target");
    fs::create_dir(&target)?;
    let start = Instant::now();
    let said = run(&target)?;
    let time = start.elapsed();
    fs::remove_dir_all(&target)?;
    Ok((time, said))
}

fn packed(place: &Path) -> Outcome<PathBuf> {
    let path = place.join("blob.tar.gz");
    let sources = ["-C", "/usr", "-czf", path.to_str().unwrap_or_default(), "share"];
    Command::new("tar").args(sources).stderr(Stdio::null()).status()?;
    Ok(path)
}

fn digest(mut from: impl Read) -> io::Result<Digest> {
    struct Hashing(Sha256);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hashing = Hashing(Sha256::new());
    io::copy(&mut from, &mut hashing)?;
    Ok(Digest::from_bytes(hashing.0.finalize().into()))
}

/// The most KiB that this process has had in memory.
fn memory() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
