//! The thread that waits for a token, so that nobody else does for long.
//!
//! ```text
//! caller ── a place among 16 that wait ── thread: token ── answer; after `patience` the caller goes, with an error
//! thread:  not open ── open, at most once a second ── open ── failure: opened anew and tried once more
//!          a PIN that was refused is not tried again
//! ```

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::address::KeyAddress;
use super::token::{HsmError, Token};

/// How many may wait.
const QUEUE: usize = 16;
/// How soon a token that failed is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// A key in a token.
pub struct HsmKey {
    jobs: SyncSender<Job>,
    address: Arc<KeyAddress>,
    patience: Duration,
    /// Since when the thread waits for the token.
    since: Arc<Mutex<Option<Instant>>>,
    names: [Vec<u8>; 3],
}

enum Work {
    Names,
    Seal(Zeroizing<Vec<u8>>, Vec<u8>),
    Open(Vec<u8>, Vec<u8>),
}

enum Done {
    Names([Vec<u8>; 3]),
    Bytes(Zeroizing<Vec<u8>>),
}

struct Job {
    work: Work,
    /// Nobody waits for it any more after that.
    until: Instant,
    told: SyncSender<Result<Done, HsmError>>,
}

/// What the thread has.
struct Worker {
    address: Arc<KeyAddress>,
    since: Arc<Mutex<Option<Instant>>>,
    token: Option<Token>,
    /// Whether it ever was open.
    known: bool,
    /// Why it could not be opened last, and when that was.
    failure: Option<(HsmError, Instant)>,
}

impl HsmKey {
    /// Finds the key. Nobody waits for the token longer than `patience`, now or later.
    ///
    /// # Errors
    /// [`HsmError`]
    pub fn open(address: KeyAddress, patience: Duration) -> Result<Self, HsmError> {
        let (jobs, work) = sync_channel(QUEUE);
        let (address, since) = (Arc::new(address), Arc::new(Mutex::new(None)));
        let worker = Worker {
            address: address.clone(),
            since: since.clone(),
            token: None,
            known: false,
            failure: None,
        };
        thread::Builder::new()
            .name("hsm".to_owned())
            .spawn(move || worker.run(&work))
            .map_err(|error| HsmError::Here { reason: error.to_string() })?;
        let mut key = Self { jobs, address, patience, since, names: [const { Vec::new() }; 3] };
        if let Done::Names(names) = key.ask(Work::Names)? {
            key.names = names;
        }
        Ok(key)
    }

    /// Label of the token, label and id of the key.
    pub fn names(&self) -> [&[u8]; 3] {
        self.names.each_ref().map(Vec::as_slice)
    }

    /// Encrypts. The answer is IV ‖ ciphertext ‖ tag.
    ///
    /// # Errors
    /// [`HsmError`]
    pub fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Vec<u8>, HsmError> {
        self.bytes(Work::Seal(Zeroizing::new(plain.to_vec()), aad.to_vec())).map(|sealed| sealed.to_vec())
    }

    /// Decrypts what [`HsmKey::seal`] made.
    ///
    /// # Errors
    /// [`HsmError`]
    pub fn open_sealed(&self, sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.bytes(Work::Open(sealed.to_vec(), aad.to_vec()))
    }

    fn bytes(&self, work: Work) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        match self.ask(work)? {
            Done::Bytes(bytes) => Ok(bytes),
            Done::Names(_) => Err(self.slow()),
        }
    }

    fn ask(&self, work: Work) -> Result<Done, HsmError> {
        // Whoever comes while the token hangs does not wait to find that out.
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_some_and(|since| since.elapsed() > self.patience) {
            return Err(self.slow());
        }
        let (told, answer) = sync_channel(1);
        let job = Job { work, until: Instant::now() + self.patience, told };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => self.slow(),
        })?;
        match answer.recv_timeout(self.patience) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(self.slow()),
        }
    }

    fn slow(&self) -> HsmError {
        let milliseconds = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        HsmError::Slow { module: self.address.module.clone(), milliseconds }
    }
}

impl Worker {
    /// Until the key is dropped.
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            if job.until <= Instant::now() {
                continue;
            }
            self.waits(Some(Instant::now()));
            let done = self.carry_out(&job.work);
            self.waits(None);
            // Whoever asked may have gone.
            let _ = job.told.send(done);
        }
    }

    fn waits(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn carry_out(&mut self, work: &Work) -> Result<Done, HsmError> {
        if let Some(token) = &self.token {
            match token.carry_out(&self.address, work) {
                // The session may have ended: a new one says whether the token is there.
                Err(HsmError::Failed { reason, .. }) => {
                    tracing::warn!(reason, "the token failed: it is opened again");
                    self.token = None;
                }
                done => return done,
            }
        }
        let address = self.address.clone();
        self.open()?.carry_out(&address, work)
    }

    fn open(&mut self) -> Result<&Token, HsmError> {
        if let Some((failure, at)) = &self.failure
            && (matches!(failure, HsmError::Pin { .. }) || at.elapsed() < PAUSE)
        {
            return Err(failure.clone());
        }
        let open = if self.known { Token::open_again } else { Token::open };
        match open(&self.address) {
            Ok(token) => {
                self.known = true;
                if self.failure.take().is_some() {
                    tracing::info!("the token is there again");
                }
                Ok(self.token.insert(token))
            }
            Err(error) => {
                tracing::error!(%error, "the token cannot be used");
                self.failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }
}

impl Token {
    fn carry_out(&self, address: &KeyAddress, work: &Work) -> Result<Done, HsmError> {
        match work {
            Work::Names => Ok(Done::Names(self.names().map(<[u8]>::to_vec))),
            Work::Seal(plain, aad) => {
                self.seal(address, plain, aad).map(|sealed| Done::Bytes(Zeroizing::new(sealed)))
            }
            Work::Open(sealed, aad) => self.open_sealed(address, sealed, aad).map(Done::Bytes),
        }
    }
}
