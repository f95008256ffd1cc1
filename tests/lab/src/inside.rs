//! The guest's side: the first process of a guest, which does what the case outside asks over vsock, line by line.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::wire;

/// The host, and the port that it waits at.
const HOST: u32 = 2;
const PORT: u32 = 1023;

/// Plays a role until the guest ends.
pub(crate) fn play(role: &str) -> ! {
    let outcome = match role {
        "obey" => obey(),
        "io" => crate::bench::answer(),
        "reset" => Ok(()),
        other => Err(anyhow::anyhow!("no role {other}")),
    };
    if let Err(error) = outcome {
        println!("GUEST failed: {error:#}");
    }
    loop {
        // The kernel's way of resetting, which the monitor sees.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    }
}

fn obey() -> Result<()> {
    let fd: OwnedFd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(HOST, PORT)).context("cannot connect to the host")?;
    let mut stream = File::from(fd);
    let lines = BufReader::new(stream.try_clone()?).lines();
    let mut reading = None;
    for line in lines {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match command(&words, &mut reading) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(()),
            Err(error) => format!("error: {error:#}"),
        };
        writeln!(stream, "{}", answer.replace('\n', " "))?;
    }
    Ok(())
}

/// A read that goes on beside everything else.
type Reading = JoinHandle<Result<String>>;

/// Does one thing; nothing to answer means to end.
fn command(words: &[&str], reading: &mut Option<Reading>) -> Result<Option<String>> {
    Ok(Some(match words {
        ["disks"] => disks()?,
        ["await", serial] => await_disk(serial, true)?,
        ["await-gone", serial] => await_disk(serial, false)?,
        ["write", serial, at, text] => {
            let file = OpenOptions::new().write(true).open(device(serial)?)?;
            file.write_all_at(&sector(text), at.parse()?)?;
            file.sync_all()?;
            "ok".to_owned()
        }
        ["read", serial, at] => read(&device(serial)?, at.parse()?)?,
        ["begin-read", serial, at] => {
            let (device, at) = (device(serial)?, at.parse()?);
            *reading = Some(std::thread::spawn(move || read(&device, at)));
            "ok".to_owned()
        }
        ["end-read"] => {
            let ended = reading.take().context("nothing is being read")?.join();
            ended.map_err(|_| anyhow!("the reader failed"))??
        }
        ["sum", serial] => sum(File::open(device(serial)?)?)?,
        ["sum", serial, processors] => sum_by(File::open(device(serial)?)?, processors.parse()?)?,
        ["queues", serial] => {
            let name = device(serial)?.file_name().context("a name")?.to_owned();
            format!("{}", fs::read_dir(Path::new("/sys/block").join(name).join("mq"))?.count())
        }
        ["cpus"] => fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned(),
        ["fill", mib] => {
            let filled = vec![1_u8; mib.parse::<usize>()? << 20];
            format!("{}", filled.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>())
        }
        ["memory"] => {
            let text = fs::read_to_string("/proc/meminfo")?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        ["clock"] => fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")?
            .trim()
            .to_owned(),
        ["interface", name] => {
            let get = |file| fs::read_to_string(format!("/sys/class/net/{name}/{file}"));
            format!("{} {}", get("address")?.trim(), get("mtu")?.trim())
        }
        ["carrier", name] => fs::read_to_string(format!("/sys/class/net/{name}/carrier"))?.trim().to_owned(),
        ["address", name, address] => {
            wire::configure(name, address.parse()?)?;
            "ok".to_owned()
        }
        ["echo"] => wire::echo()?,
        ["queues-of", name] => {
            let queues = fs::read_dir(format!("/sys/class/net/{name}/queues"))?.flatten();
            let receiving = queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"));
            format!("{}", receiving.count())
        }
        ["ask-from", processors] => {
            // A socket stays with the queue of its first packet, and the first of all is sent by whoever learns the host's address.
            wire::ask_and_hear()?;
            for processor in 0..processors.parse()? {
                only_on(processor)?;
                wire::ask_and_hear()?;
            }
            "ok".to_owned()
        }
        ["kicks", name] => wire::kicks(name)?,
        ["panic"] => {
            fs::write("/proc/sysrq-trigger", "c")?;
            bail!("the kernel did not panic")
        }
        ["reset"] => return Ok(None),
        _ => bail!("not understood"),
    }))
}

/// A sector, as text.
fn read(device: &Path, at: u64) -> Result<String> {
    let mut bytes = [0; 512];
    File::open(device)?.read_exact_at(&mut bytes, at)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
}

fn sector(text: &str) -> [u8; 512] {
    let mut bytes = [0; 512];
    for (place, byte) in bytes.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    bytes
}

/// A sum of all bytes and their places, and the length.
fn sum(file: File) -> Result<String> {
    sum_by(file, 1)
}

/// Goes on on this processor.
fn only_on(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).context("sched_setaffinity")
}

/// The same, read by each of so many processors in turn.
fn sum_by(mut file: File, processors: usize) -> Result<String> {
    let (mut buffer, mut sum, mut length) = (vec![0; 1 << 20], 0_u64, 0_u64);
    for processor in (0..processors).cycle() {
        if processors > 1 {
            only_on(processor)?;
        }
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(format!("{length} {sum:016x}"));
        }
        sum = wire::add(sum, &buffer[..count]);
        length += u64::try_from(count)?;
    }
    bail!("no processor")
}

/// Serial, sectors and whether it may only be read, of every disk.
fn disks() -> Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let path = entry.path();
        if let Some(serial) = serial(&path) {
            let get = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default().trim().to_owned();
            found.push(format!("{serial}:{}:{}", get("size"), get("ro")));
        }
    }
    found.sort();
    Ok(found.join(" "))
}

/// The serial of a disk, of either kind.
fn serial(block: &Path) -> Option<String> {
    if let Ok(page) = fs::read(block.join("device/vpd_pg80")) {
        return Some(String::from_utf8_lossy(page.get(4..)?).into_owned());
    }
    let serial = fs::read_to_string(block.join("serial")).ok()?;
    Some(serial.trim().to_owned())
}

fn device(wanted: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")?.flatten() {
        if serial(&entry.path()).as_deref() == Some(wanted) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("no disk {wanted}")
}

/// Waits until a disk is there, or gone: it comes by itself, and the guest has nothing else to do.
fn await_disk(serial: &str, there: bool) -> Result<String> {
    for _ in 0..2000 {
        if device(serial).is_ok() == there {
            return Ok("ok".to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bail!("the disk {serial} did not change; there are {}", disks()?)
}
