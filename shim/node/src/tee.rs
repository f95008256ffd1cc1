//! Which secure processor the pods' machines have, and the simulated one that a node may play.
//!
//! ```toml
//! [tee]
//! kind = "sim"                             # "none" or "sim"
//! verifier = "verifier.example.com:8443"   # where TLS of the guests is passed on to
//! simulated_dir = "/var/lib/coffer/simulated"
//! simulated_microcode = 71                 # firmware that the simulated processor says it has
//! insecure_debug = false                   # launches guests with debugging allowed, which no verifier should accept
//! ```
//! The seed of the simulated processor is made once per node. Whoever reads it can make any report; it proves nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coffer_attestation::sim::{FIRMWARE, Processor, SEED_BYTES};
use coffer_attestation::snp::Tcb;
use serde::Deserialize;

const DEFAULT_DIR: &str = "/var/lib/coffer/simulated";

/// What the pods' machines have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tee {
    /// The processor; `None`: their memory is open to the node.
    pub simulated: Option<Simulated>,
    /// Host and port of the verifier, if guests are to reach one.
    pub verifier: Option<String>,
}

/// A processor that the node plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulated {
    /// Directory of its seed and its root certificate.
    pub dir: PathBuf,
    /// Version of the microcode that it says it has.
    pub microcode: u8,
    /// Whether guests are launched with debugging allowed.
    pub debug: bool,
}

/// The table as the file has it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    kind: Option<Kind>,
    verifier: Option<String>,
    simulated_dir: Option<PathBuf>,
    simulated_microcode: Option<u8>,
    insecure_debug: Option<bool>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    None,
    Sim,
}

/// Why there is no simulated processor.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedError {
    /// A file or its directory.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file that is no seed.
    #[error("{path} must hold exactly {SEED_BYTES} bytes: remove it to make another processor")]
    Seed {
        /// Which.
        path: PathBuf,
    },
    /// The root certificate.
    #[error("the simulated root certificate cannot be made")]
    Root(#[source] coffer_attestation::x509::CertificateError),
}

impl Table {
    /// The setting, or the key that is wrong, what was found there and what may be.
    pub(crate) fn checked(self) -> Result<Tee, (&'static str, String, &'static str)> {
        let simulated = self.kind == Some(Kind::Sim);
        let of_simulated = [
            ("tee.simulated_dir", self.simulated_dir.is_some()),
            ("tee.simulated_microcode", self.simulated_microcode.is_some()),
            ("tee.insecure_debug", self.insecure_debug.is_some()),
        ];
        if let (false, Some((key, _))) = (simulated, of_simulated.iter().find(|(_, set)| *set)) {
            return Err((key, "set".to_owned(), "left out when tee.kind is not \"sim\""));
        }
        let sound = |address: &String| {
            let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
            matches!(port, Some((host, 1_u16..)) if !host.is_empty())
        };
        if let Some(address) = self.verifier.as_ref().filter(|address| !sound(address)) {
            return Err(("tee.verifier", address.clone(), "host and port, as in verifier.example.com:8443"));
        }
        let dir = self.simulated_dir.unwrap_or_else(|| DEFAULT_DIR.into());
        if dir.is_relative() {
            return Err(("tee.simulated_dir", dir.display().to_string(), "an absolute path"));
        }
        let microcode = self.simulated_microcode.unwrap_or(FIRMWARE.microcode);
        let debug = self.insecure_debug.unwrap_or(false);
        let simulated = simulated.then_some(Simulated { dir, microcode, debug });
        Ok(Tee { simulated, verifier: self.verifier })
    }
}

impl Simulated {
    /// The processor of this node, made when there is none yet.
    ///
    /// # Errors
    /// [`SimulatedError`]
    pub fn processor(&self) -> Result<Processor, SimulatedError> {
        let path = self.dir.join("seed");
        let seed = match read_seed(&path)? {
            Some(seed) => seed,
            None => self.make_seed(&path)?,
        };
        Ok(Processor::new(&seed, Tcb { microcode: self.microcode, ..FIRMWARE }))
    }

    /// Makes a seed in the directory, unless another process was faster.
    fn make_seed(&self, path: &Path) -> Result<[u8; SEED_BYTES], SimulatedError> {
        let fail = |doing| {
            let path = path.to_owned();
            move |source| SimulatedError::File { doing, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(fail("make the directory of"))?;
        let mut seed = [0; SEED_BYTES];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(io::Error::from)
            .map_err(fail("find randomness for"))?;
        let fresh = self.dir.join(format!(".seed-{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        let written = file.as_mut().map_err(|error| io::Error::from(error.kind()));
        written.and_then(|file| file.write_all(&seed)).map_err(fail("write"))?;
        let linked = fs::hard_link(&fresh, path);
        // The other name of the seed, or a seed that nobody uses.
        let _ = fs::remove_file(&fresh);
        match linked {
            Ok(()) => Ok(seed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                read_seed(path)?.ok_or_else(|| SimulatedError::Seed { path: path.to_owned() })
            }
            Err(error) => Err(fail("make")(error)),
        }
    }
}

fn read_seed(path: &Path) -> Result<Option<[u8; SEED_BYTES]>, SimulatedError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SimulatedError::File { doing: "open", path: path.to_owned(), source }),
    };
    let mut bytes = Vec::new();
    let read = file.take(SEED_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|source| SimulatedError::File { doing: "read", path: path.to_owned(), source })?;
    let seed = bytes.try_into().map_err(|_| SimulatedError::Seed { path: path.to_owned() })?;
    Ok(Some(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulated(dir: &Path) -> Simulated {
        Simulated { dir: dir.join("simulated"), microcode: 71, debug: false }
    }

    fn table(text: &str) -> Result<Tee, &'static str> {
        toml::from_str::<Table>(text).expect("a table").checked().map_err(|(key, ..)| key)
    }

    #[test]
    fn a_node_has_one_processor() {
        let dir = tempfile::tempdir().unwrap();
        let root = |processor: Processor| processor.root().unwrap().der().to_vec();
        let first = root(simulated(dir.path()).processor().unwrap());
        assert_eq!(root(simulated(dir.path()).processor().unwrap()), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(root(simulated(other.path()).processor().unwrap()), first);
    }

    #[test]
    fn nobody_else_reads_the_seed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let simulated = simulated(dir.path());
        simulated.processor().unwrap();
        let mode = fs::metadata(simulated.dir.join("seed")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&simulated.dir).unwrap().count(), 1);
    }

    #[test]
    fn a_seed_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let simulated = simulated(dir.path());
        fs::create_dir(&simulated.dir).unwrap();
        fs::write(simulated.dir.join("seed"), [1; 33]).unwrap();
        assert!(matches!(simulated.processor(), Err(SimulatedError::Seed { .. })));
    }

    #[test]
    fn no_table_is_no_secure_processor() {
        assert_eq!(table(""), Ok(Tee::default()));
    }

    #[test]
    fn what_belongs_to_the_simulated_processor_is_refused_without_it() {
        assert_eq!(table("insecure_debug = true"), Err("tee.insecure_debug"));
        assert!(table("kind = \"sim\"\ninsecure_debug = true").is_ok());
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        assert_eq!(table("verifier = \"example.com\""), Err("tee.verifier"));
        assert_eq!(table("verifier = \":1\""), Err("tee.verifier"));
        assert!(table("verifier = \"[::1]:8443\"").is_ok());
    }
}
