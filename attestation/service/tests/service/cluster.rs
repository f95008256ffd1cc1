//! A PostgreSQL of a test's own: Debian's, in a folder that goes away, by a user without rights.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use coffer_tests::packages::{Unpacked, unpacked};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A user who owns nothing else.
const NOBODY: u32 = 65534;
/// What the user `coffer` shows over a network.
pub(crate) const PASSWORD: &str = "a password";

/// A cluster, and its server while it runs.
pub(crate) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    libraries: String,
    pub(crate) port: u16,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// One that runs; or says why the test is skipped.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let wanted = [Unpacked::Postgres, Unpacked::Libpq, Unpacked::Libxml2, Unpacked::Libicu];
        let places: Result<Vec<PathBuf>, _> = wanted.into_iter().map(unpacked).collect();
        // Past the runner, which keeps what a test that passes prints.
        let skipped = |reason: &str| {
            let _ = writeln!(std::io::stderr(), "skipped: {test}: no PostgreSQL: {reason}");
        };
        let places = places.map_err(|error| skipped(&format!("{error:#}"))).ok()?;
        let libraries =
            places.iter().map(|place| place.join("usr/lib/x86_64-linux-gnu").display().to_string());
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("changed");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let cluster = Self {
            programs: places[0].join("usr/lib/postgresql/15/bin"),
            libraries: libraries.collect::<Vec<_>>().join(":"),
            port: free.local_addr().expect("an address").port(),
            folder,
            server: Mutex::new(None),
        };
        drop(free);
        let tried = cluster.program("postgres").arg("--version").output().expect("it is there");
        if !tried.status.success() {
            skipped(String::from_utf8_lossy(&tried.stderr).trim());
            return None;
        }
        cluster.make();
        cluster.run();
        Some(cluster)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The table of a configuration, over the socket.
    pub(crate) fn table(&self) -> String {
        let (socket, port) = (self.file("socket"), self.port);
        format!(
            "[postgres]\nhost = {socket:?}\nport = {port}\ndatabase = \"postgres\"\nuser = \"coffer\"\n\
             patience-milliseconds = 1500\n"
        )
    }

    /// A program of PostgreSQL's as a user that it may run as.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("LD_LIBRARY_PATH", &self.libraries).env("LC_ALL", "C").current_dir(self.folder.path());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// A file that only the server's user may read.
    fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("changed");
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("given");
        }
    }

    fn make(&self) {
        for name in ["data", "socket"] {
            std::fs::create_dir(self.file(name)).expect("a folder");
            std::fs::set_permissions(self.file(name), PermissionsExt::from_mode(0o700)).expect("changed");
            if rustix::process::geteuid().is_root() {
                chown(self.file(name), Some(NOBODY), Some(NOBODY)).expect("given");
            }
        }
        self.write("password", PASSWORD);
        let made = self
            .program("initdb")
            .args(["--auth=trust", "--username=coffer", "--no-sync", "--encoding=UTF8", "--pgdata"])
            .arg(self.file("data"))
            .arg("--pwfile")
            .arg(self.file("password"))
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        self.write("server.pem", &params.self_signed(&key).expect("a certificate").pem());
        self.write("server.key", &key.serialize_pem());
        self.write(
            "data/pg_hba.conf",
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n",
        );
    }

    /// Runs the server, and waits until it takes connections.
    pub(crate) fn run(&self) {
        let setting = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        let (certificate, key) = (self.file("server.pem"), self.file("server.key"));
        let mut child = self
            .program("postgres")
            .arg("-D")
            .arg(self.file("data"))
            .arg(setting("unix_socket_directories", &self.file("socket").display()))
            .args([setting("listen_addresses", &"localhost"), setting("port", &self.port)])
            .args([setting("ssl", &"on"), setting("ssl_cert_file", &certificate.display())])
            .args([setting("ssl_key_file", &key.display()), setting("jit", &"off")])
            .args([setting("dynamic_shared_memory_type", &"mmap"), setting("shared_buffers", &"16MB")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("postgres runs");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines().map_while(Result::ok);
        let mut said = String::new();
        let ready = lines.by_ref().find(|line| {
            said.push_str(line);
            line.contains("ready to accept connections")
        });
        assert!(ready.is_some(), "{said}");
        // Read as it comes, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        *self.server.lock().expect("no thread died") = Some(child);
    }

    /// Kills the server as nothing else could, and waits until nothing of it is left.
    pub(crate) fn kill(&self) {
        let processes = self.processes();
        if let Some(mut child) = self.server.lock().expect("no thread died").take() {
            child.kill().expect("killed");
            child.wait().expect("an end");
        }
        // Its own processes end when they see that, and then another server may begin.
        crate::until(|| processes.iter().all(|id| !PathBuf::from(format!("/proc/{id}")).exists()));
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal(&self, signal: Signal) {
        for id in self.processes() {
            let process = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
            kill_process(process, signal).expect("sent");
        }
    }

    /// The server and what it started.
    fn processes(&self) -> Vec<u32> {
        let server = self.server.lock().expect("no thread died").as_ref().map(Child::id);
        let server = server.expect("it runs");
        let parent = |id: u32| -> Option<u32> {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
        };
        let all = std::fs::read_dir("/proc")
            .expect("processes")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        all.filter(|id| *id == server || parent(*id) == Some(server)).collect()
    }

    /// Runs a statement that changes something, as somebody would who has the database.
    pub(crate) fn change(&self, statement: &str) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut config = tokio_postgres::Config::new();
            config.host_path(self.file("socket")).port(self.port).user("coffer").dbname("postgres");
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("a connection");
            tokio::spawn(connection);
            client.execute(statement, &[]).await.expect("changed")
        })
    }

    /// Whether any file of the cluster holds `text`.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.change("CHECKPOINT");
        let found = Command::new("grep").args(["-r", "-q", "-F", "-e", text]).arg(self.file("data")).status();
        match found.expect("grep runs").code() {
            Some(0) => true,
            Some(1) => false,
            other => panic!("grep: {other:?}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.lock().expect("no thread died").take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
