//! Puts a version in place, and takes everything away again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use coffer_node::cleanup::{Standing, scan};
use coffer_node::config::Config;
use serde_json::json;

use super::{InstallArguments, PlaceArguments, containerd, version};
use crate::{Health, output};

/// Installs, and says what is left to do.
pub(crate) fn install(config: &Config, arguments: &InstallArguments, json: bool) -> anyhow::Result<Health> {
    let place = &arguments.place;
    let from = match &arguments.from {
        Some(dir) => dir.clone(),
        None => own_directory()?,
    };
    let major = arguments.containerd_major.map_or_else(containerd::major_in_path, Ok)?;
    let artefacts = version::artefacts(&from, &arguments.guest)?;
    let name = version::name(&artefacts)?;
    let target = place.prefix.join(&name);
    version::copy(&artefacts, &target)?;
    let class = target.join("runtimeclass.yaml");
    write(&class, &containerd::runtime_class(config.machine.overhead_mib))?;
    link(&place.current(), Path::new(&name))?;
    for (at, to) in place.links() {
        link(&at, &to)?;
    }
    let mut left = left_to_do(place, major)?;
    left.push("restart containerd, or start it, so that it reads its configuration".to_owned());
    left.push(format!("kubectl apply -f {}", place.current().join("runtimeclass.yaml").display()));
    if json {
        output::json(&json!({ "version": name, "directory": target, "left_to_do": left }))?;
    } else {
        println!("installed {name} in {}", target.display());
        println!("left to do:");
        left.iter().for_each(|step| println!("- {step}"));
    }
    Ok(Health::Well)
}

/// Takes away links, drop-in and every version that no running pod uses.
pub(crate) fn uninstall(place: &PlaceArguments, json: bool) -> anyhow::Result<Health> {
    let used = executables_in_use()?;
    for (at, _) in place.links() {
        remove(&at)?;
    }
    remove(&place.drop_in())?;
    let (mut removed, mut kept) = (Vec::new(), Vec::new());
    for dir in versions(&place.prefix)? {
        if used.iter().any(|path| path.starts_with(&dir)) {
            kept.push(dir);
        } else {
            version::remove_tree(&dir)?;
            removed.push(dir);
        }
    }
    if kept.is_empty() {
        remove(&place.current())?;
        // A prefix that holds something else stays.
        let _ = fs::remove_dir(&place.prefix);
    }
    if json {
        output::json(&json!({ "removed": removed, "kept": kept }))?;
    } else {
        removed.iter().for_each(|dir| println!("removed {}", dir.display()));
        kept.iter().for_each(|dir| println!("kept {}: a running pod uses it", dir.display()));
    }
    Ok(if kept.is_empty() { Health::Well } else { Health::Amiss })
}

fn left_to_do(place: &PlaceArguments, major: u8) -> anyhow::Result<Vec<String>> {
    let command = place.command();
    let unpacks = containerd::Unpacks::on_this_node(&command);
    match containerd::obstacle(&place.containerd, major, unpacks)? {
        Some(step) if step.contains("no drop-in was written") => Ok(vec![step]),
        step => {
            write(&place.drop_in(), &containerd::drop_in(major, unpacks))?;
            Ok(step.into_iter().collect())
        }
    }
}

fn own_directory() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this command's own directory")?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("writing {}", path.display()))
}

/// Makes or swaps a symlink in one step. A file that is no symlink is not ours and is refused.
fn link(at: &Path, to: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(at).is_ok_and(|meta| !meta.is_symlink()) {
        anyhow::bail!("{} exists and is not a symlink: move it away first", at.display());
    }
    if let Some(dir) = at.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let mut new = at.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    remove(&new)?;
    std::os::unix::fs::symlink(to, &new)
        .and_then(|()| fs::rename(&new, at))
        .with_context(|| format!("linking {} to {}", at.display(), to.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Directories below the prefix that look like versions: they hold a shim.
fn versions(prefix: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(prefix) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("listing {}", prefix.display()))?,
    };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(dirs.map(|entry| entry.path()).filter(|dir| dir.join(version::SHIM).is_file()).collect())
}

/// The shims' own binaries, of all pods that run.
fn executables_in_use() -> anyhow::Result<Vec<PathBuf>> {
    let pods = scan(&Config::default().run_dir)?;
    let alive = pods.iter().filter_map(|pod| match &pod.standing {
        Standing::Alive(record) => Some(record.shim.pid),
        _ => None,
    });
    Ok(alive.filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_swapped_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("current");
        link(&at, Path::new("a")).unwrap();
        link(&at, Path::new("b")).unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("b"));
    }

    #[test]
    fn a_file_that_is_not_ours_is_not_replaced_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("coffer");
        fs::write(&at, "somebody's").unwrap();
        assert!(link(&at, Path::new("b")).unwrap_err().to_string().contains("not a symlink"));
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        assert!(remove(&dir.path().join("none")).is_ok());
    }

    #[test]
    fn only_directories_with_a_shim_count_as_versions() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::create_dir(dir.path().join("0.1.0-aa")).unwrap();
        fs::write(dir.path().join("0.1.0-aa").join(version::SHIM), "").unwrap();
        assert_eq!(versions(dir.path()).unwrap(), vec![dir.path().join("0.1.0-aa")]);
    }
}
