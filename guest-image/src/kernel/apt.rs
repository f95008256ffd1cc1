//! Debian packages: installs what a build needs, and fetches a package's content without installing it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{KernelError, command as failed, file};
use crate::command::{command, run};
use crate::progress::Progress;

/// Debian's releases get newer kernels here. A machine whose own suites have none fetches it from there, from the
/// mirror that it uses anyway and without a change to its package sources.
const NEWER: &str = "backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package in one version, and how apt reaches it.
#[derive(Debug, Clone)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    options: Vec<OsString>,
}

impl Package {
    /// The package in the version that this machine would install, or in `version`.
    pub(super) fn find(name: &str, version: Option<&str>, cache: &Path) -> Result<Self, KernelError> {
        let mut options = vec![OsString::from("-oAPT::Sandbox::User=root")];
        let mut found = candidate(name, &options)?;
        if found.is_none() {
            update(&options)?;
            found = candidate(name, &options)?;
        }
        if found.is_none()
            && let Some(source) = newer_source()?
        {
            options.extend(only_source(&source, cache)?);
            update(&options)?;
            found = candidate(name, &options)?;
        }
        let found = found.ok_or_else(|| KernelError::NoPackage { package: name.to_owned() })?;
        Ok(Self { name: name.to_owned(), version: version.map_or(found, str::to_owned), options })
    }

    /// The real package behind a metapackage whose dependency's name begins with `prefix`.
    pub(super) fn dependency(&self, prefix: &str) -> Result<Self, KernelError> {
        let mut show = command("apt-cache");
        show.args(&self.options).args(["show", "--no-all-versions"]).arg(self.to_string());
        let text = run(&mut show).map_err(failed("read what a package depends on"))?;
        let name = text.lines().find_map(|line| dependency(line, prefix));
        let missing =
            || KernelError::NotInPackage { package: self.to_string(), file: format!("dependency {prefix}*") };
        Self {
            name: name.ok_or_else(missing)?.to_owned(),
            version: String::new(),
            options: self.options.clone(),
        }
        .with_candidate()
    }

    fn with_candidate(self) -> Result<Self, KernelError> {
        let version = candidate(&self.name, &self.options)?;
        let version = version.ok_or_else(|| KernelError::NoPackage { package: self.name.clone() })?;
        Ok(Self { version, ..self })
    }

    /// Downloads the package and extracts its files below `dir`.
    pub(super) fn extract(&self, dir: &Path) -> Result<(), KernelError> {
        let progress = Progress::begin(format!("downloading {self}"));
        let mut download = command("apt-get");
        download.args(&self.options).args(["download", "-q"]).arg(self.to_string()).current_dir(dir);
        run(&mut download).map_err(failed(&format!("download {self}")))?;
        progress.end();
        let archive = only_file(dir, "deb")?
            .ok_or_else(|| KernelError::NotInPackage { package: self.to_string(), file: "archive".into() })?;
        run(command("dpkg-deb").arg("-x").arg(&archive).arg(dir))
            .map_err(failed(&format!("extract {self}")))?;
        fs::remove_file(&archive).map_err(file(&archive))
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.version)
    }
}

/// Installs those of `packages` that are missing.
pub(super) fn install_missing(packages: &[&str]) -> Result<(), KernelError> {
    let installed = installed(packages)?;
    let missing: Vec<_> =
        packages.iter().filter(|package| !installed.iter().any(|name| name == *package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().map(|package| package.to_string()).collect::<Vec<_>>().join(" ");
    let progress = Progress::begin(format!("installing {list}"));
    run(command("apt-get").args(["update", "-q"])).map_err(failed("read the package lists"))?;
    let mut install = command("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-q", "-y", "--no-install-recommends"]);
    run(install.args(missing)).map_err(failed(&format!("install {list}")))?;
    progress.end();
    Ok(())
}

fn installed(packages: &[&str]) -> Result<Vec<String>, KernelError> {
    let mut query = command("dpkg-query");
    query.args(["-W", "-f=${db:Status-Status} ${Package}\n"]).args(packages);
    // It fails when it knows nothing of one package, and still answers for the others.
    let output = query.output().map_err(file(Path::new("/usr/bin/dpkg-query")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

fn candidate(package: &str, options: &[OsString]) -> Result<Option<String>, KernelError> {
    let text = run(command("apt-cache").args(options).args(["policy", package]));
    Ok(parse_candidate(&text.map_err(failed("ask apt for a package"))?))
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

fn dependency<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    let dependencies = line.strip_prefix("Depends: ")?.split(',');
    dependencies.filter_map(|one| one.split_whitespace().next()).find(|name| name.starts_with(prefix))
}

fn update(options: &[OsString]) -> Result<(), KernelError> {
    let progress = Progress::begin("reading the package lists");
    run(command("apt-get").args(options).args(["update", "-q"])).map_err(failed("read the package lists"))?;
    progress.end();
    Ok(())
}

/// A line for apt's sources that names the newer suite of this machine's Debian release, if it runs one.
fn newer_source() -> Result<Option<String>, KernelError> {
    let mut targets = command("apt-get");
    targets.args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(CODENAME)", "Created-By: Packages"]);
    let text = run(&mut targets).map_err(failed("ask apt for its package sources"))?;
    Ok(text.lines().find_map(newer_suite))
}

fn newer_suite(target: &str) -> Option<String> {
    let [origin, mirror, release] = target.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
    let is_release = origin == "Debian" && release.chars().all(|c| c.is_ascii_lowercase());
    is_release.then(|| format!("deb [signed-by={KEYRING}] {mirror} {release}-{NEWER} main\n"))
}

/// Options that make apt see `source` alone, with lists of its own.
fn only_source(source: &str, cache: &Path) -> Result<Vec<OsString>, KernelError> {
    let root = cache.join("apt");
    let (lists, archives, sources) =
        (root.join("lists/partial"), root.join("archives/partial"), root.join("sources.list"));
    for dir in [&lists, &archives] {
        fs::create_dir_all(dir).map_err(file(dir))?;
    }
    fs::write(&sources, source).map_err(file(&sources))?;
    let option = |key: &str, path: &Path| {
        let mut option = OsString::from(format!("-o{key}="));
        option.push(path);
        option
    };
    Ok(vec![
        option("Dir::State::Lists", &root.join("lists")),
        option("Dir::Cache", &root),
        option("Dir::Etc::SourceList", &sources),
        option("Dir::Etc::SourceParts", Path::new("/dev/null")),
    ])
}

/// The first file in `dir`, by name, with this extension.
pub(super) fn only_file(dir: &Path, extension: &str) -> Result<Option<PathBuf>, KernelError> {
    let entries = fs::read_dir(dir).map_err(file(dir))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(file(dir))?;
    paths.sort();
    Ok(paths.into_iter().find(|path| path.extension().is_some_and(|found| found == extension)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let policy =
            "linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.117-1~deb12u1\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("6.12.117-1~deb12u1"));
    }

    #[test]
    fn a_package_without_candidate_has_none() {
        assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn the_newer_suite_is_looked_for_on_the_same_mirror() {
        let source = newer_suite("Debian http://mirror.example/debian/ bookworm").unwrap();
        assert!(source.ends_with(" http://mirror.example/debian/ bookworm-backports main\n"), "{source}");
    }

    #[test]
    fn a_suite_that_is_no_release_of_debian_has_no_newer_one() {
        assert_eq!(newer_suite("Debian http://mirror.example/debian/ bookworm-updates"), None);
        assert_eq!(newer_suite("Other http://mirror.example/other/ bookworm"), None);
        assert_eq!(newer_suite("$(ORIGIN) http://mirror.example/debian/ $(CODENAME)"), None);
    }

    #[test]
    fn a_metapackage_leads_to_its_kernel() {
        let line = "Depends: linux-image-6.1.0-42-cloud-amd64 (= 6.1.192-2)";
        assert_eq!(dependency(line, "linux-image-"), Some("linux-image-6.1.0-42-cloud-amd64"));
        assert_eq!(dependency("Suggests: linux-image-x", "linux-image-"), None);
    }
}
