//! The real coffer-verifier as a process on loopback.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::Node;
use crate::run::Run;
use crate::wait;

/// The name in its certificate.
pub const HOST: &str = "verifier.test";

/// The name in the certificate of whoever keeps secrets in it.
const OPERATOR: &str = "tests";

/// A verifier with files of its own in the node's directory. Its process is ended when this is dropped.
pub struct Verifier {
    place: PathBuf,
    program: PathBuf,
    /// The operator's command.
    coffer: PathBuf,
    port: u16,
    running: Option<Child>,
}

/// A guest that the verifier knows.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Launch digest in hexadecimal.
    pub measurement: String,
    /// Digest of its initdata in hexadecimal.
    pub initdata: String,
    /// The oldest microcode.
    pub microcode: u8,
    /// Who must have signed every image of a guest that is given a secret below `acme/signed`.
    pub images_signed_by: Option<String>,
}

impl Verifier {
    /// Makes keys, certificate and configuration, for a node with a simulated processor. Nothing runs yet.
    pub fn new(node: &Node) -> Result<Self> {
        let place = node.layout.data.join("verifier");
        fs::create_dir_all(&place)?;
        for (index, name) in ["kek", "challenge", "token", "audit-key"].iter().enumerate() {
            fs::write(place.join(name), [u8::try_from(index)? + 1; 32])?;
        }
        make_certificate(&place, "tls", HOST)?;
        make_certificate(&place, "operator", OPERATOR)?;
        let root = node.coffer_command().arg("simulated-root").text()?;
        fs::write(place.join("root.pem"), root)?;
        fs::write(place.join("references.toml"), "")?;
        make_signer(&place)?;
        // Free now, and nobody else's as long as nobody else on this machine looks for a port in this moment.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = node.binaries().join("coffer-verifier");
        let coffer = node.binaries().join("coffer");
        let verifier = Self { place, program, coffer, port, running: None };
        fs::write(verifier.file("verifier.toml"), verifier.configuration())?;
        Ok(verifier)
    }

    fn configuration(&self) -> String {
        let file = |name: &str| format!("\"{}\"", self.file(name).display());
        format!(
            "listen = \"{}\"\ntls-certificate = {}\ntls-key = {}\nreferences = {}\nstore = {}\naudit-log = {}\n\
             key-encryption-keys = [{}]\nchallenge-keys = [{}]\ntoken-key = {}\naudit-key = {}\n\
             operator-authorities = {}\ninsecure-simulated-snp-root = {}\n\
             [[operator]]\nname = \"{OPERATOR}\"\nrole = \"operator\"\ntenants = [\"acme\"]\n\
             [[reference-signer]]\nname = \"tests\"\nkey = {}\ntenants = [\"acme\"]\n",
            self.address(),
            file("tls.pem"),
            file("tls.key"),
            file("references.toml"),
            file("store"),
            file("audit"),
            file("kek"),
            file("challenge"),
            file("token"),
            file("audit-key"),
            file("operator.pem"),
            file("root.pem"),
            file("signer.pub.pem"),
        )
    }

    /// Where it listens, as the node is told.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it is, as guests are told.
    pub fn url(&self) -> String {
        format!("https://{HOST}:{}", self.port)
    }

    /// The certificate that guests are to believe, in PEM.
    pub fn certificate(&self) -> Result<String> {
        Ok(fs::read_to_string(self.file("tls.pem"))?)
    }

    /// Where it keeps secrets.
    pub fn store(&self) -> PathBuf {
        self.file("store")
    }

    /// Where it writes down what it decided.
    pub fn audit(&self) -> PathBuf {
        self.file("audit")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// Starts it and returns when it answers.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.file("log"))?;
        let mut command =
            Run::new(&self.program).arg("--config").arg(self.file("verifier.toml")).into_command();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.running = Some(child.context("cannot start coffer-verifier")?);
        wait::until_true("the verifier to answer", Duration::from_secs(20), || {
            self.curl("GET", "/.well-known/jwks.json").end().is_ok_and(|ended| ended.code() == 0)
        })
    }

    /// Ends it as an operator does.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.running.take().context("the verifier is not running")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "the verifier ended with {status}");
        Ok(())
    }

    /// Knows exactly these guests from now on, for the tenant `acme`: signs their references.
    pub fn know(&self, references: &[Reference]) -> Result<()> {
        let one = |(index, reference): (usize, &Reference)| {
            let Reference { measurement, initdata, microcode, images_signed_by } = reference;
            let signer = images_signed_by
                .as_ref()
                .map(|signer| format!("images_signed_by = {{ \"acme/signed/*\" = [\"{signer}\"] }}\n"));
            let signer = signer.unwrap_or_default();
            format!(
                "[[reference]]\nname = \"guest {index}\"\ntee = \"snp\"\ntenants = [\"acme\"]\n\
                 measurement = \"{measurement}\"\ninitdata = [\"{initdata}\"]\n\
                 minimum_tcb = {{ fmc = 3, boot_loader = 1, tee = 2, snp = 7, microcode = {microcode} }}\n\
                 {signer}"
            )
        };
        let text: String = references.iter().enumerate().map(one).collect();
        let signed = if text.is_empty() { text } else { self.signed(&text)? };
        fs::write(self.file("references.toml"), signed)?;
        let Some(child) = &self.running else { return Ok(()) };
        let told = || self.log().map(|log| log.matches("the reference values were read again").count());
        let before = told()?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGHUP)?;
        wait::until("the verifier to read its references", Duration::from_secs(10), || {
            Ok((told()? > before).then_some(()))
        })
    }

    fn signed(&self, references: &str) -> Result<String> {
        let sign = Run::new(&self.coffer).args(["reference", "sign", "--key"]);
        sign.arg(self.file("signer.key")).arg("-").input(references).text()
    }

    /// Keeps a secret of the tenant `acme` from now on.
    pub fn put(&self, name: &str, secret: &str) -> Result<()> {
        let path = format!("/kbs/v0/resource/acme/{name}");
        let run = self.curl("POST", &path).args(["--fail", "--data-binary", "@-"]).input(secret);
        run.text().map(drop)
    }

    /// Forgets a secret of the tenant `acme`.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.curl("DELETE", &format!("/kbs/v0/resource/acme/{name}")).arg("--fail").text().map(drop)
    }

    /// What it logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.file("log"))?)
    }

    fn curl(&self, method: &str, path: &str) -> Run {
        let url = format!("{}{path}", self.url());
        let resolve = format!("{HOST}:{}:127.0.0.1", self.port);
        let run =
            Run::new("curl").args(["--silent", "--show-error", "--request", method, "--resolve", &resolve]);
        let run = run.arg("--cacert").arg(self.file("tls.pem"));
        let run = run.arg("--cert").arg(self.file("operator.pem"));
        run.arg("--key").arg(self.file("operator.key")).arg(&url)
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A certificate and its key, in files that begin with `file`, for a name that nobody else speaks for.
/// Whose word counts about what guests look like.
fn make_signer(place: &Path) -> Result<()> {
    let key = place.join("signer.key");
    let make =
        Run::new("openssl").args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    make.arg("-out").arg(&key).text()?;
    let public = Run::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key);
    public.arg("-out").arg(place.join("signer.pub.pem")).text().map(drop)
}

fn make_certificate(place: &Path, file: &str, name: &str) -> Result<()> {
    let run = Run::new("openssl").args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    let run = run.args(["-nodes", "-days", "30", "-subj", &format!("/CN={name}")]);
    let run = run.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
    let run = run.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    let run = run.arg("-keyout").arg(place.join(format!("{file}.key")));
    let run = run.arg("-out").arg(place.join(format!("{file}.pem")));
    run.text().map(drop)
}
