//! Cases about disks.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::guest::Wanted;
use crate::obedient::{image, obedient, obey};
use crate::wire::add;

/// A file of `sectors` sectors, which the guest sees as a disk.
fn file(name: &str, sectors: usize) -> Result<(String, Vec<u8>)> {
    let path = format!("/tmp/{name}");
    let content: Vec<u8> = (0..sectors * 512).map(|index| (index / 7 % 251) as u8).collect();
    File::create(&path)?.write_all(&content)?;
    Ok((path, content))
}

/// A file of `sectors` sectors that may only be read.
pub(crate) fn scratch(name: &str, sectors: usize) -> Result<OwnedFd> {
    let (path, _) = file(name, sectors)?;
    open(&path, false)
}

fn open(path: &str, write: bool) -> Result<OwnedFd> {
    Ok(File::options().read(true).write(write).open(path)?.into())
}

/// Disks at boot, of both kinds: their serials, sizes and contents.
pub(crate) fn disks_are_found_read_and_written() -> Result<String> {
    let (layer, content) = file("layer", 8192)?;
    let (scratch, _) = file("scratch", 64)?;
    let (plain, _) = file("plain", 128)?;
    let mut guest = obedient(
        1,
        256,
        vec![
            ("--disk layer-1,ro,".to_owned(), open(&layer, false)?),
            ("--disk scratch,rw,".to_owned(), open(&scratch, true)?),
            ("--block plain,rw,".to_owned(), open(&plain, true)?),
        ],
    )?;
    guest.says("disks", "layer-1:8192:1 plain:128:0 scratch:64:0")?;
    guest.says("sum layer-1", &format!("{} {:016x}", content.len(), add(0, &content)))?;
    guest.says("write scratch 512 hello", "ok")?;
    guest.says("read scratch 512", "hello")?;
    guest.says("write plain 1024 world", "ok")?;
    ensure!(fs::read(&scratch)?[512..517] == *b"hello", "the write did not reach the file");
    ensure!(fs::read(&plain)?[1024..1029] == *b"world", "the write did not reach the other file");
    let answer = guest.obeys("write layer-1 0 no")?;
    ensure!(answer.starts_with("error"), "a disk that may only be read was written: {answer}");
    guest.stop()
}

/// Disks that come and go while the guest runs.
pub(crate) fn disks_come_and_go() -> Result<String> {
    let (late, content) = file("late", 2048)?;
    let mut guest = obedient(1, 256, Vec::new())?;
    guest.says("disks", "")?;
    let answer = guest.machine.ask_with("attach late ro", &File::open(&late)?)?;
    ensure!(answer == "ok", "attach: {answer}");
    guest.says("await late", "ok")?;
    guest.says("sum late", &format!("{} {:016x}", content.len(), add(0, &content)))?;
    let answer = guest.machine.ask_with("attach late ro", &File::open(&late)?)?;
    ensure!(answer.starts_with("error"), "attached twice: {answer}");
    let answer = guest.machine.ask("detach late")?;
    ensure!(answer == "ok", "detach: {answer}");
    guest.says("await-gone late", "ok")?;
    guest.stop()
}

/// A guest asks in a queue for each of its processors, of which each moves what it asks for.
pub(crate) fn each_processor_asks_in_its_own_queue() -> Result<String> {
    let (layer, content) = file("queues-1", 12288)?;
    let (plain, _) = file("queues-2", 12288)?;
    let more = vec![
        ("--disk layer-1,ro,".to_owned(), open(&layer, false)?),
        ("--block plain,rw,".to_owned(), open(&plain, true)?),
    ];
    let mut guest = obedient(3, 256, more)?;
    let expected = format!("{} {:016x}", content.len(), add(0, &content));
    for disk in ["layer-1", "plain"] {
        guest.says(&format!("queues {disk}"), "3")?;
        guest.says(&format!("sum {disk} 3"), &expected)?;
    }
    guest.says("write plain 512 hello", "ok")?;
    ensure!(fs::read(&plain)?[512..517] == *b"hello", "the write did not reach the file");
    guest.stop()
}

/// Of 4 MiB half a MiB is free at once, and the rest comes at 1 MiB a second; the last request is paid for afterwards, and is
/// as long as what a kernel reads ahead.
pub(crate) fn disks_keep_to_their_limit() -> Result<String> {
    let (layer, content) = file("limited", 8192)?;
    let more = vec![("--disk layer-1,ro,".to_owned(), open(&layer, false)?)];
    let limits = &["--disk-bytes", "1048576,524288"];
    let mut guest = obey(Wanted { plain: limits, more, ..image("vmlinux") })?;
    let start = Instant::now();
    guest.says("sum layer-1", &format!("{} {:016x}", content.len(), add(0, &content)))?;
    let took = start.elapsed();
    guest.stop()?;
    fs::remove_file(layer)?;
    let wanted = Duration::from_secs(2)..Duration::from_secs(6);
    ensure!(wanted.contains(&took), "4 MiB in {} ms", took.as_millis());
    Ok(format!("4 MiB in {} ms", took.as_millis()))
}
