//! Fetches a package of any release with a private apt configuration and unpacks it into the cache.
//!
//! ```text
//! <cache>/<release>/lists/      the release's index, fetched once
//! <cache>/<release>/<package>/  an unpacked package, complete as soon as it has this name
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::list::{Suite, Unpacked};
use super::mirror;
use crate::progress::step;
use crate::run::Run;

const LIMIT: Duration = Duration::from_secs(600);
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages are kept between runs: `COFFER_CACHE`, or `/var/cache/coffer`.
pub fn cache() -> PathBuf {
    std::env::var_os("COFFER_CACHE").map_or_else(|| PathBuf::from("/var/cache/coffer"), PathBuf::from)
}

/// The directory of the unpacked package; fetches it first when it is not there.
pub fn unpacked(wanted: Unpacked) -> Result<PathBuf> {
    let (package, suite) = wanted.source();
    let place = cache().join("packages").join(suite.name());
    let directory = place.join(package);
    if directory.is_dir() {
        return Ok(directory);
    }
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let lock = File::create(place.join("lock"))?;
    lock.lock()?;
    if !directory.is_dir() {
        step(&format!("fetching {package} of {}", suite.name()), || fetch(&place, wanted))
            .with_context(|| format!("cannot fetch {package} of {}", suite.name()))?;
    }
    Ok(directory)
}

fn fetch(place: &Path, wanted: Unpacked) -> Result<()> {
    let (package, suite) = wanted.source();
    let apt = Apt::private(place, suite)?;
    // A partial index of an earlier run that was killed is fetched again.
    if !place.join("lists/complete").exists() {
        apt.get(place, &["update"])?;
        File::create(place.join("lists/complete"))?;
    }
    let fresh = tempfile::Builder::new().prefix("fetch-").tempdir_in(place)?;
    if apt.download(fresh.path(), wanted).is_err() {
        // The release moved on since its index was read.
        apt.get(place, &["update"])?;
        apt.download(fresh.path(), wanted)?;
    }
    let archive = only_entry(fresh.path())?;
    let root = fresh.path().join("root");
    Run::new("dpkg").args([Path::new("-x"), &archive, &root]).limit(LIMIT).text()?;
    fs::rename(&root, place.join(package))?;
    Ok(())
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(directory)?.next().context("apt-get fetched nothing")??;
    Ok(entry.path())
}

/// An apt that reads and writes only below one directory.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn private(place: &Path, suite: Suite) -> Result<Self> {
        let host = host_release()?;
        let mirror = mirror::find(Path::new("/etc/apt"), &host)?;
        let keys = mirror.signed_by.unwrap_or_else(|| PathBuf::from(KEYS));
        let sources = place.join("coffer.sources");
        let stanza = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {}\n",
            mirror.uri,
            suite.name(),
            keys.display()
        );
        fs::write(&sources, stanza)?;
        fs::create_dir_all(place.join("lists/partial"))?;
        fs::create_dir_all(place.join("archives/partial"))?;
        let lines = [
            format!("Dir::State::Lists \"{}\";", place.join("lists").display()),
            format!("Dir::Cache \"{}\";", place.display()),
            format!("Dir::Etc::SourceList \"{}\";", sources.display()),
            "Dir::Etc::SourceParts \"/nonexistent\";".to_owned(),
            "Dir::State::Status \"/dev/null\";".to_owned(),
            "APT::Sandbox::User \"root\";".to_owned(),
            // A mirror may be frozen, or days behind for a rolling release. Whose packages these are is still checked by their
            // signatures; old ones would only make the tests compare with an older containerd.
            "Acquire::Check-Valid-Until \"false\";".to_owned(),
            "Acquire::Languages \"none\";".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";".to_owned(),
        ];
        let configuration = place.join("apt.conf");
        fs::write(&configuration, lines.join("\n"))?;
        Ok(Self { configuration })
    }

    fn download(&self, directory: &Path, wanted: Unpacked) -> Result<()> {
        let (package, _) = wanted.source();
        let name = match wanted.behind() {
            Some(begins) => self.behind(package, begins)?,
            None => package.to_owned(),
        };
        self.get(directory, &["download", &name])
    }

    /// The package that an empty one depends on.
    fn behind(&self, package: &str, begins: &str) -> Result<String> {
        let run = Run::new("apt-cache").args(["depends", "--important", package]);
        let text = run.env("APT_CONFIG", &self.configuration).limit(LIMIT).text()?;
        let mut names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.find(|name| name.starts_with(begins));
        Ok(name.with_context(|| format!("{package} depends on no {begins}…"))?.to_owned())
    }

    fn get(&self, directory: &Path, arguments: &[&str]) -> Result<()> {
        let run = Run::new("apt-get").args(["-q"]).args(arguments).directory(directory);
        run.env("APT_CONFIG", &self.configuration).limit(LIMIT).text().map(drop)
    }
}

fn host_release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME: not a Debian")?.trim_matches('"').to_owned())
}
