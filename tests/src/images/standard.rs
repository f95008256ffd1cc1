//! The images that the tests share.

use std::fs;

use anyhow::{Context, Result};

use super::archive::Image;
use super::layer::Layer;
use crate::artefacts::testbox;
use crate::packages::{Unpacked, unpacked};

/// Reference of [`busybox`].
pub const BUSYBOX: &str = "coffer.test/busybox:1";
/// Reference of [`pause`].
pub const PAUSE: &str = "coffer.test/pause:1";

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// Busybox and the test tool in three layers that add, replace and hide files, so that every container shows whether its
/// layers were stacked rightly.
pub fn busybox() -> Result<Image> {
    let program = unpacked(Unpacked::Busybox)?.join("bin/busybox");
    let busybox = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let tool = fs::read(testbox()?)?;
    let names = applets(&program)?;
    let mut base = Layer::new();
    for directory in [
        "bin", "sbin", "etc", "proc", "sys", "dev", "root", "usr", "usr/bin", "usr/sbin", "var", "run",
        "layers",
    ] {
        base = base.directory(directory, 0o755)?;
    }
    base = base.directory("tmp", 0o1777)?.file("bin/busybox", 0o755, busybox)?.file(
        "bin/testbox",
        0o755,
        tool,
    )?;
    for name in names {
        base = base.symlink(&format!("bin/{name}"), "busybox")?;
    }
    let base = base
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n")?
        .file("etc/group", 0o644, "root:x:0:\nguest:x:1000:\n")?
        .file("layers/replaced", 0o644, "lowest")?
        .file("layers/hidden", 0o644, "lowest")?
        .directory("layers/emptied", 0o755)?
        .file("layers/emptied/old", 0o644, "lowest")?;
    let middle = Layer::new()
        .directory("layers", 0o755)?
        .file("layers/replaced", 0o644, "middle")?
        .hide("layers", "hidden")?
        .hide_all("layers/emptied")?
        .file("layers/emptied/new", 0o644, "middle")?;
    let top = Layer::new()
        .directory("layers", 0o755)?
        .file("layers/replaced", 0o644, "highest")?
        .owned_file("layers/owned", (1000, 1000), b"owned")?
        .hard_link("layers/linked", "layers/replaced")?;
    Ok(image(BUSYBOX, &["sh"], vec![base, middle, top]))
}

/// What a pod's pause container runs.
pub fn pause() -> Result<Image> {
    let layer = Layer::new().file("pause", 0o755, fs::read(testbox()?)?)?;
    Ok(image(PAUSE, &["/pause", "pause"], vec![layer]))
}

fn image(name: &str, command: &[&str], layers: Vec<Layer>) -> Image {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    Image { name: name.to_owned(), command, environment: vec![PATH.to_owned()], layers }
}

fn applets(busybox: &std::path::Path) -> Result<Vec<String>> {
    let list = crate::run::Run::new(busybox).args(["--list"]).text()?;
    Ok(list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}
