//! A guest with a secure processor: what its initdata asks for, and what containers get of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_attestation::handshake::{InitData, ResourceName, SEALED_PREFIX, SealedSecretError, SealedString};
use nix::mount::{MsFlags, mount};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Duration, Instant, sleep};

use super::attester::named;
use super::held::{Held, Kept, Known};
use super::renew;
use super::session::Session;
use super::shown::{Fetched, Shown};
use super::verifier::Verifier;
use super::wishes::Wishes;
use super::{AttestError, HostKey, SECRETS};
use crate::gate::POLICY_ENTRY;

/// Between two attempts to reach a verifier that a start waits for.
const AGAIN: Duration = Duration::from_secs(1);

/// What the host says of the launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launched {
    /// Which secure processor: `sim`, `snp` or `tdx`.
    pub(crate) tee: String,
    /// Initdata as its author wrote it; empty: none.
    pub(crate) initdata: Vec<u8>,
    /// What is shown to the host first.
    pub(crate) host_key: HostKey,
}

/// A guest whose initdata is what the processor vouches for.
pub(crate) struct Attested {
    /// Nothing, when the initdata names no verifier.
    pub(super) session: Option<Arc<Session>>,
    pub(super) held: Arc<Held>,
    pub(super) wishes: Wishes,
    /// Held by the one container's request that the verifier is asked for.
    pub(super) turn: tokio::sync::Mutex<()>,
    shown: Arc<Shown>,
    confirmed: tokio::sync::Mutex<Confirmed>,
    /// Told which containers must end.
    ended: UnboundedSender<BTreeSet<String>>,
}

/// How far the verifier has been asked with the images that the guest shows.
#[derive(Default)]
struct Confirmed {
    /// Of the images with which every secret was asked for again.
    changes: u64,
    /// Files that the verifier refused while the guest had no image to show.
    late: Vec<(String, ResourceName)>,
}

/// What the launch turned out to be.
pub(crate) struct Begun {
    pub(crate) attested: Attested,
    /// The initdata's, as its author wrote it.
    pub(crate) image_policy: Option<String>,
    /// Told which containers must end, because they know a secret that was taken back.
    pub(crate) end: UnboundedReceiver<BTreeSet<String>>,
}

/// Where containers find files of secrets.
pub(crate) struct SecretFiles<'a> {
    /// In the guest.
    pub(crate) source: &'a Path,
    /// In the container.
    pub(crate) destination: &'a Path,
}

impl Attested {
    /// Holds the initdata against the processor's report and fetches the files that it asks for. Images that are admitted are
    /// noted in `shown`.
    pub(crate) async fn begin(launched: Launched, shown: Arc<Shown>) -> Result<Begun, AttestError> {
        let attester = named(&launched.tee, &launched.host_key)?;
        let evidence = attester.evidence(&[0; 64]).await?;
        let wishes_and_initdata = vouched(launched.initdata, &evidence.initdata)?;
        let (ended, end) = unbounded_channel();
        let Some((wishes, initdata)) = wishes_and_initdata else {
            let attested = Self::new(Wishes::of_nobody(), shown, ended);
            return Ok(Begun { attested, image_policy: None, end });
        };
        let image_policy = initdata.file(POLICY_ENTRY).map(str::to_owned);
        if image_policy.is_some() {
            shown.begin();
        }
        let mut attested = Self::new(wishes, shown, ended);
        if let Some(address) = attested.wishes.verifier.clone() {
            let verifier = Verifier::new(address, launched.host_key)?;
            let session = Session::new(verifier, attester, (evidence.tee, initdata), attested.shown.clone())?;
            attested.converse(session, image_policy.is_some()).await?;
        }
        Ok(Begun { attested, image_policy, end })
    }

    /// Fetches the files, and keeps asking for them.
    async fn converse(&mut self, session: Session, judges: bool) -> Result<(), AttestError> {
        let (session, wishes) = (Arc::new(session), &self.wishes);
        if !wishes.files.is_empty() {
            mount_memory(Path::new(SECRETS))?;
        }
        for (name, resource) in &wishes.files {
            match patiently(wishes.wait, || session.secret(resource)).await {
                Ok(fetched) => self.held.put_file(resource, name, fetched)?,
                // It may be for guests that show the right images, and there are none to show yet.
                Err(AttestError::Refused { status: 403, reason, .. })
                    if judges && session.is_affirmed().await =>
                {
                    tracing::info!(secret = resource.path(), reason, "asked for again with the first image");
                    self.confirmed.get_mut().late.push((name.clone(), resource.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        session.hang_up().await;
        tokio::spawn(renew::keep(session.clone(), self.held.clone(), wishes.lease, self.ended.clone()));
        self.session = Some(session);
        Ok(())
    }

    fn new(wishes: Wishes, shown: Arc<Shown>, ended: UnboundedSender<BTreeSet<String>>) -> Self {
        Self {
            session: None,
            held: Arc::new(Held::new(Path::new(SECRETS), shown.clone())),
            wishes,
            turn: tokio::sync::Mutex::default(),
            shown,
            confirmed: tokio::sync::Mutex::default(),
            ended,
        }
    }

    /// Comes before a container is made. With images that the verifier has not seen yet every secret that the guest has is
    /// asked for again, and what is not given any more is wiped before anything of them runs; so are the files that could not be
    /// had without an image.
    ///
    /// # Errors
    /// When a secret cannot be asked for now, or a file is still refused: then the container must not be made.
    pub(crate) async fn confirm(&self) -> Result<(), AttestError> {
        let Some(session) = &self.session else { return Ok(()) };
        let mut confirmed = self.confirmed.lock().await;
        let changes = self.shown.changes();
        let current = confirmed.changes == changes && self.held.all_given_at(changes);
        if current && confirmed.late.is_empty() {
            return Ok(());
        }
        let looked = patiently(self.wishes.wait, || renew::look(session, &self.held, &self.ended)).await;
        let fetched = match looked {
            Ok(()) => self.fetch_late(session, &mut confirmed.late).await,
            Err(error) => Err(error),
        };
        session.hang_up().await;
        fetched?;
        confirmed.changes = changes;
        Ok(())
    }

    async fn fetch_late(
        &self,
        session: &Session,
        late: &mut Vec<(String, ResourceName)>,
    ) -> Result<(), AttestError> {
        while let Some((name, resource)) = late.last() {
            let fetched = patiently(self.wishes.wait, || renew::fetch(session, resource)).await?;
            self.held.put_file(resource, name, fetched)?;
            late.pop();
        }
        Ok(())
    }

    /// The directory of files, if there is one.
    pub(crate) fn files(&self) -> Option<SecretFiles<'_>> {
        let any = !self.wishes.files.is_empty();
        any.then_some(SecretFiles { source: Path::new(SECRETS), destination: &self.wishes.directory })
    }

    /// Puts secrets in place of the strings that stand for them in the environment of a process of `container`.
    pub(crate) async fn unseal(
        &self,
        container: &str,
        environment: &mut [String],
    ) -> Result<(), AttestError> {
        for entry in environment {
            let Some((variable, value)) = entry.split_once('=') else { continue };
            if !value.starts_with(SEALED_PREFIX) {
                continue;
            }
            let fail = |source| AttestError::Sealed { variable: variable.to_owned(), source };
            let sealed = SealedString::parse(value).map_err(fail)?;
            self.check_signature(&sealed, variable).await?;
            let ask = || self.fetch(sealed.resource());
            let filled = self.fill(container, variable, sealed.resource(), ask).await?;
            *entry = filled;
        }
        Ok(())
    }

    /// `variable` with what stands for it. An image that is let run while the verifier is asked makes an answer void: it was for
    /// the guest without that image. This ends, as only so many images can be shown.
    async fn fill<F: Future<Output = Result<Fetched, AttestError>>>(
        &self,
        container: &str,
        variable: &str,
        resource: &ResourceName,
        ask: impl Fn() -> F,
    ) -> Result<String, AttestError> {
        loop {
            let secret = match self.held.known(resource) {
                Known::Here(fetched) => fetched,
                Known::Unasked => ask().await?,
                Known::TakenBack => return Err(taken_back(resource.path())),
            };
            let text = std::str::from_utf8(&secret.value).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| AttestError::Sealed {
                variable: variable.to_owned(),
                source: SealedSecretError::Form {
                    reason: "the secret is no text, which an environment asks for",
                },
            })?;
            let filled = format!("{variable}={text}");
            match self.held.note_container(resource, container, secret) {
                Kept::Current => return Ok(filled),
                Kept::Stale => {}
                Kept::TakenBack => return Err(taken_back(resource.path())),
            }
        }
    }

    /// Refuses a container that has a secret in its environment which was taken back.
    ///
    /// # Errors
    /// Then it must not run, and what there is of it must end.
    pub(crate) fn check_container(&self, container: &str) -> Result<(), AttestError> {
        if self.held.is_doomed(container) { Err(taken_back("in its environment")) } else { Ok(()) }
    }

    /// Called when a container is gone, or could not be made.
    pub(crate) fn forget_container(&self, container: &str) {
        self.held.forget_container(container);
    }

    /// The key that layers' keys are wrapped under, as the verifier gives it now. It is not kept here.
    pub(crate) async fn layer_key(&self, resource: &ResourceName) -> Result<Fetched, AttestError> {
        let _turn = self.turn.lock().await;
        self.fetch(resource).await
    }

    async fn check_signature(&self, sealed: &SealedString, variable: &str) -> Result<(), AttestError> {
        let fail = |source| AttestError::Sealed { variable: variable.to_owned(), source };
        match sealed.signed_with() {
            Some(key) => {
                let key = self.fetch(key).await?;
                sealed.verify(&key.value).map_err(fail)
            }
            None if self.wishes.unsigned => Ok(()),
            None => Err(fail(SealedSecretError::Form {
                reason: "it is not signed: sign it, or set insecure_unsigned_sealed_secrets in coffer.toml",
            })),
        }
    }

    async fn fetch(&self, resource: &ResourceName) -> Result<Fetched, AttestError> {
        let session = self.session.as_ref().ok_or_else(|| AttestError::Wishes {
            file: "aa.toml",
            reason: "there is no token_configs.kbs, and the pod asks for secrets".to_owned(),
        })?;
        let secret = patiently(self.wishes.wait, || session.secret(resource)).await;
        session.hang_up().await;
        secret
    }
}

fn taken_back(which: &str) -> AttestError {
    AttestError::Refused {
        what: format!("the secret {which}"),
        status: 403,
        reason: "it was taken back while the pod ran".to_owned(),
    }
}

/// Initdata that the processor vouches for with `field`, and what it asks for.
fn vouched(given: Vec<u8>, field: &[u8]) -> Result<Option<(Wishes, InitData)>, AttestError> {
    let differs = |found: String| AttestError::InitDataDiffers { expected: hex::encode(field), found };
    if given.is_empty() {
        // A host that keeps initdata back is no better than one that changes it.
        let none = field.iter().all(|byte| *byte == 0);
        return if none { Ok(None) } else { Err(differs("of nothing".to_owned())) };
    }
    let text = String::from_utf8(given)
        .map_err(|_| AttestError::Wishes { file: "the text", reason: "it is not UTF-8".to_owned() })?;
    let initdata = InitData::parse("toml", text).map_err(AttestError::InitData)?;
    let digest = initdata.digest();
    if digest != field {
        return Err(differs(hex::encode(digest)));
    }
    Ok(Some((Wishes::of(&initdata)?, initdata)))
}

/// Tries again for as long as `wait` while nobody answers. A refusal is an answer.
async fn patiently<T, F: Future<Output = Result<T, AttestError>>>(
    wait: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, AttestError> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(AttestError::Unreachable { verifier, reason }) => {
                if began.elapsed() >= wait {
                    let reason = if wait.is_zero() {
                        reason
                    } else {
                        format!("{reason} (tried for {} s, as coffer.toml says)", wait.as_secs())
                    };
                    return Err(AttestError::Unreachable { verifier, reason });
                }
                tracing::info!(verifier, reason, "waiting for the verifier");
                sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

fn mount_memory(path: &Path) -> Result<(), AttestError> {
    let fail = |source: io::Error| AttestError::File { path: PathBuf::from(path), source };
    fs::create_dir_all(path).map_err(fail)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("coffer"), path, Some("tmpfs"), flags, Some("mode=0755,size=16m"));
    mounted.map_err(|errno| fail(errno.into()))
}

#[cfg(test)]
impl Attested {
    /// One that holds a secret and has no verifier.
    pub(crate) fn holding(uri: &str, value: &[u8]) -> Self {
        let attested = Self::new(Wishes::of_nobody(), Arc::default(), unbounded_channel().0);
        let value = zeroize::Zeroizing::new(value.to_vec());
        attested.held.keep(&ResourceName::parse(uri).unwrap(), Fetched { value, changes: 0 });
        attested
    }

    /// Gives a container what is held, in its environment.
    pub(crate) async fn give(&self, container: &str, uri: &str) {
        let resource = ResourceName::parse(uri).unwrap();
        let ask = || self.fetch(&resource);
        self.fill(container, "A", &resource, ask).await.unwrap();
    }

    /// Remembers an image as let run.
    pub(crate) fn show(&self, image: &str) {
        assert!(self.shown.note(super::shown::sample_record(image)).unwrap());
    }

    /// Takes a secret back.
    pub(crate) fn lose(&self, uri: &str) {
        self.held.take_back(&ResourceName::parse(uri).unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use zeroize::Zeroizing;

    const TEXT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";

    fn digest() -> Vec<u8> {
        InitData::parse("toml", TEXT.to_owned()).unwrap().digest()
    }

    #[test]
    fn initdata_that_the_processor_vouches_for_is_taken() {
        assert!(vouched(TEXT.into(), &digest()).unwrap().is_some());
        assert!(vouched(Vec::new(), &[0; 32]).unwrap().is_none());
    }

    #[test]
    fn initdata_that_was_changed_or_kept_back_is_refused() {
        let changed = vouched(format!("{TEXT}\n").into(), &digest());
        assert!(matches!(changed, Err(AttestError::InitDataDiffers { .. })));
        assert!(matches!(vouched(Vec::new(), &digest()), Err(AttestError::InitDataDiffers { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verifier_that_does_not_answer_is_tried_for_as_long_as_was_asked() {
        let tries = AtomicU32::new(0);
        let attempt = || async {
            tries.fetch_add(1, Ordering::Relaxed);
            let (verifier, reason) = ("v".to_owned(), "down".to_owned());
            Err::<(), _>(AttestError::Unreachable { verifier, reason })
        };
        let at_once = patiently(Duration::ZERO, attempt).await.unwrap_err();
        assert_eq!((tries.swap(0, Ordering::Relaxed), at_once.to_string().contains("tried")), (1, false));
        let later = patiently(Duration::from_secs(3), attempt).await.unwrap_err();
        assert_eq!(tries.load(Ordering::Relaxed), 4);
        assert!(later.to_string().contains("tried for 3 s"), "{later}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_tried_again() {
        let tries = AtomicU32::new(0);
        let attempt = || async {
            tries.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(AttestError::Refused { what: "x".to_owned(), status: 403, reason: "no".to_owned() })
        };
        assert!(patiently(Duration::from_secs(30), attempt).await.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }

    fn without_verifier(unsigned: bool) -> Attested {
        let wishes = Wishes { unsigned, ..Wishes::of_nobody() };
        Attested::new(wishes, Arc::default(), unbounded_channel().0)
    }

    fn sealed() -> Vec<String> {
        let payload = r#"{"version":"0.1.0","type":"vault","provider":"kbs","name":"kbs:///a/b/c"}"#;
        let payload = <base64ct::Base64UrlUnpadded as base64ct::Encoding>::encode_string(payload.as_bytes());
        vec!["A=1".to_owned(), format!("B=sealed.fakejwsheader.{payload}.fakesignature")]
    }

    #[tokio::test]
    async fn a_string_without_a_signature_is_refused_unless_the_initdata_takes_it() {
        let error = without_verifier(false).unseal("c", &mut sealed()).await.unwrap_err();
        assert!(crate::chain::Chain(&error).to_string().contains("it is not signed"), "{error}");
        let error = without_verifier(true).unseal("c", &mut sealed()).await.unwrap_err();
        assert!(error.to_string().contains("token_configs.kbs"), "{error}");
    }

    #[tokio::test]
    async fn a_secret_that_was_on_its_way_while_another_image_was_let_run_is_asked_for_again() {
        let attested = without_verifier(true);
        let resource = ResourceName::parse("kbs:///a/b/c").unwrap();
        let asked = AtomicU32::new(0);
        let ask = || async {
            // As the token of the request has it; the image comes while the answer is on its way.
            let changes = attested.shown.changes();
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => attested.show("other"),
                _ => {
                    return Err(AttestError::Refused {
                        what: "it".to_owned(),
                        status: 403,
                        reason: "no".to_owned(),
                    });
                }
            }
            Ok(Fetched { value: Zeroizing::new(b"secret".to_vec()), changes })
        };
        let error = attested.fill("c", "B", &resource, ask).await.unwrap_err();
        assert!(matches!(error, AttestError::Refused { status: 403, .. }), "{error}");
        assert!(asked.load(Ordering::Relaxed) == 2 && attested.held.all().is_empty());
        attested.held.take_back(&resource);
        assert!(attested.check_container("c").is_ok());
        let ask = || async { Ok(Fetched { value: Zeroizing::new(b"secret".to_vec()), changes: 1 }) };
        assert_eq!(attested.fill("c", "B", &resource, ask).await.unwrap(), "B=secret");
    }

    #[tokio::test]
    async fn other_variables_are_left_alone() {
        let mut environment = vec!["A=1".to_owned(), "B".to_owned(), "C=unsealed.x".to_owned()];
        without_verifier(false).unseal("c", &mut environment).await.unwrap();
        assert_eq!(environment, ["A=1", "B", "C=unsealed.x"]);
    }
}
