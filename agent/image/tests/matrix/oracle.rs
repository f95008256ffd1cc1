//! cosign and notation themselves, beside a registry, in a network namespace that has nothing but its own loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_tests::packages::{Unpacked, unpacked};
use coffer_tests::run::Run;

pub(crate) const HOST: &str = "127.0.0.1:5000";
const LIMIT: Duration = Duration::from_secs(900);

/// How one command ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) well: bool,
    pub(crate) last: String,
}

/// Where they run.
pub(crate) struct Oracle {
    pub(crate) directory: tempfile::TempDir,
    /// Where their programs are, as a search path.
    programs: String,
    /// Where skopeo's libraries are, likewise.
    pub(crate) libraries: String,
}

impl Oracle {
    /// `None`, with a word why, where it cannot run.
    pub(crate) fn new() -> Option<Self> {
        let alone = Run::new("unshare").args(["--net", "true"]).text();
        if let Err(error) = alone {
            println!("skipped: cosign beside us: {error:#}");
            return None;
        }
        let within = |package, directory: &str| {
            unpacked(package).expect("a package of Debian").join(directory).display().to_string()
        };
        let programs = [Unpacked::Cosign, Unpacked::Notation, Unpacked::DockerRegistry, Unpacked::Skopeo]
            .map(|package| within(package, "usr/bin"));
        let programs = format!("{}:{}", programs.join(":"), std::env::var("PATH").unwrap_or_default());
        let libraries = [
            within(Unpacked::Gpgme, "usr/lib/x86_64-linux-gnu"),
            within(Unpacked::Devmapper, "lib/x86_64-linux-gnu"),
        ];
        let directory = tempfile::tempdir().expect("a directory");
        Some(Self { directory, programs, libraries: libraries.join(":") })
    }

    /// The registry's files.
    pub(crate) fn registry(&self) -> PathBuf {
        self.directory.path().join("registry")
    }

    /// Runs each command, a name, and a program with its arguments, one after the other.
    pub(crate) fn run(&self, commands: &[(String, Vec<String>)]) -> BTreeMap<String, Said> {
        let directory = self.directory.path();
        let settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {HOST}\n",
            self.registry().display()
        );
        fs::write(directory.join("registry.yml"), settings).expect("a file");
        fs::write(directory.join("script"), Self::script(commands)).expect("a file");
        let run = Run::new("unshare").args(["--net", "bash", "script"]).directory(directory);
        let run =
            run.env("HOME", directory).env("COSIGN_PASSWORD", "").env("PATH", &self.programs).limit(LIMIT);
        let text = run.text().expect("a script that ends well");
        let said = text.lines().filter_map(|line| line.strip_prefix("SAID\t")).map(|line| {
            let mut parts = line.splitn(3, '\t');
            let mut part = || parts.next().unwrap_or_default().to_owned();
            let (name, code, last) = (part(), part(), part());
            (name, Said { well: code == "0", last })
        });
        said.collect()
    }

    fn script(commands: &[(String, Vec<String>)]) -> String {
        let mut lines = vec![
            "ip link set lo up".to_owned(),
            "docker-registry serve registry.yml > registry.log 2>&1 &".to_owned(),
            "registry=$!".to_owned(),
            format!(
                "until (: > /dev/tcp/{}) 2> /dev/null; do kill -0 $registry || exit 1; done",
                HOST.replace(':', "/")
            ),
        ];
        for (name, arguments) in commands {
            let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
            lines.push(format!("{} > said 2>&1", quoted.join(" ")));
            lines.push(format!("printf 'SAID\\t%s\\t%s\\t%s\\n' '{name}' $? \"$(tail -n 1 said)\""));
        }
        lines.push("kill $registry".to_owned());
        lines.join("\n")
    }
}

/// Arguments that every command on this registry needs.
pub(crate) fn on_registry(command: &[&str], image: &str) -> Vec<String> {
    let mut arguments: Vec<String> = command.iter().map(|part| (*part).to_owned()).collect();
    arguments.extend(["--allow-http-registry", "--allow-insecure-registry", image].map(str::to_owned));
    arguments
}

pub(crate) fn file(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    fs::write(directory.join(name), bytes).expect("a file");
    name.to_owned()
}
