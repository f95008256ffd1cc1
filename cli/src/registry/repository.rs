//! One repository of a registry.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use coffer_image::artefact::media_type::INDEX;
use coffer_image::artefact::{Descriptor, Digest, Document, MAX_MANIFEST_BYTES};
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::credentials::Holder;
use super::exchange::{Answer, Asked, Authority, Transport, absolute};
use crate::verifier::escaped;

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
/// The longest answer that is no manifest and no blob.
const MAX_WORDS: usize = 1 << 20;

/// How long a program that knows credentials may take.
const HELP: Duration = Duration::from_secs(10);

/// A repository, and what opened its door last.
pub(crate) struct Repository<'a> {
    transport: &'a Transport,
    holder: Holder<'a>,
    host: String,
    path: String,
    shown: RefCell<Option<Zeroizing<String>>>,
}

/// A manifest or an index, as the registry has it.
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl<'a> Repository<'a> {
    pub(super) fn new(transport: &'a Transport, holder: Holder<'a>, host: &str, path: &str) -> Self {
        Self { transport, holder, host: host.to_owned(), path: path.to_owned(), shown: RefCell::default() }
    }

    /// The manifest under a tag or digest; a digest is checked. `None` if there is none.
    pub(crate) fn manifest(&self, reference: &str) -> anyhow::Result<Option<Fetched>> {
        self.bounded_manifest(reference, MAX_MANIFEST_BYTES)
    }

    /// The same, of at most `limit` bytes.
    pub(crate) fn bounded_manifest(&self, reference: &str, limit: usize) -> anyhow::Result<Option<Fetched>> {
        let wanted = [(ACCEPT, MANIFESTS)];
        let answer = self.ask_bounded(Method::GET, &format!("manifests/{reference}"), &wanted, limit)?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.expect(&answer, &[200], "a manifest")?;
        let digest = Digest::of(&answer.body);
        if let Ok(asked) = reference.parse::<Digest>() {
            ensure!(asked == digest, "{} gives a manifest {digest} for {asked}", self.host);
        }
        Ok(Some(Fetched { digest, media_type: answer.media_type().to_owned(), bytes: answer.body }))
    }

    /// The blob with this digest, which is checked; at most `limit` bytes.
    pub(crate) fn blob(&self, digest: &Digest, limit: usize) -> anyhow::Result<Vec<u8>> {
        let asked = Asked {
            method: Method::GET,
            address: self.address(&format!("blobs/{digest}")),
            headers: Vec::new(),
            body: &[],
        };
        let answer = self.authorized(asked, limit)?;
        self.expect(&answer, &[200], "a blob")?;
        let found = Digest::of(&answer.body);
        ensure!(found == *digest, "{} gives a blob {found} for {digest}", self.host);
        Ok(answer.body)
    }

    /// What refers to `digest`: the registry's word, or the tag that stands for it where a registry does not know. Only one
    /// that has no such list (404), or shows something else in its place, does not know.
    pub(crate) fn referrers(&self, digest: &Digest) -> anyhow::Result<Vec<Descriptor>> {
        let answer = self.ask(Method::GET, &format!("referrers/{digest}"), &[(ACCEPT, INDEX)])?;
        self.expect(&answer, &[200, 404], "what refers to the image")?;
        if answer.status == 200 && answer.media_type() == INDEX {
            return listed(&answer.body);
        }
        self.tagged_referrers(digest)?.map_or(Ok(Vec::new()), |index| listed(&index.bytes))
    }

    /// Puts a blob, unless it is there.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let digest = Digest::of(bytes);
        if self.ask(Method::HEAD, &format!("blobs/{digest}"), &[])?.status == 200 {
            return Ok(());
        }
        let begun = self.ask(Method::POST, "blobs/uploads/", &[])?;
        self.expect(&begun, &[202], "an upload")?;
        let place = begun.header("location").context("the registry does not say where a blob goes")?;
        let place = absolute(&self.address("").parse()?, place);
        let sign = if place.contains('?') { '&' } else { '?' };
        let asked = Asked {
            method: Method::PUT,
            address: format!("{place}{sign}digest={}", escaped(&digest.to_string())),
            headers: vec![(CONTENT_TYPE, Zeroizing::new("application/octet-stream".to_owned()))],
            body: bytes,
        };
        self.expect(&self.authorized(asked, MAX_WORDS)?, &[201], "a blob")
    }

    /// Puts a manifest under a tag or its digest. Answers whether the registry itself remembers what it refers to.
    pub(crate) fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> anyhow::Result<bool> {
        let asked = Asked {
            method: Method::PUT,
            address: self.address(&format!("manifests/{reference}")),
            headers: vec![(CONTENT_TYPE, Zeroizing::new(media_type.to_owned()))],
            body: bytes,
        };
        let answer = self.authorized(asked, MAX_WORDS)?;
        self.expect(&answer, &[201], "a manifest")?;
        Ok(answer.header("oci-subject").is_some())
    }

    /// Writes `entry` into the tag that stands for the referrers of `digest`, where the registry remembers none.
    pub(crate) fn refer_by_tag(&self, digest: &Digest, entry: &Value) -> anyhow::Result<()> {
        let mut index: Value = match self.tagged_referrers(digest)? {
            Some(found) => {
                serde_json::from_slice(&found.bytes).context("reading the referrers that are there")?
            }
            None => json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
        };
        let manifests = index
            .get_mut("manifests")
            .and_then(Value::as_array_mut)
            .context("the referrers that are there are no index")?;
        manifests.retain(|other| other.get("digest") != entry.get("digest"));
        manifests.push(entry.clone());
        self.put_manifest(&digest.referrers_tag(), INDEX, index.to_string().as_bytes())?;
        Ok(())
    }

    fn tagged_referrers(&self, digest: &Digest) -> anyhow::Result<Option<Fetched>> {
        self.manifest(&digest.referrers_tag())
    }

    fn address(&self, rest: &str) -> String {
        format!("{}://{}/v2/{}/{rest}", self.transport.scheme(&self.host), self.host, self.path)
    }

    fn ask(&self, method: Method, rest: &str, headers: &[(HeaderName, &str)]) -> anyhow::Result<Answer> {
        self.ask_bounded(method, rest, headers, MAX_MANIFEST_BYTES)
    }

    fn ask_bounded(
        &self,
        method: Method,
        rest: &str,
        headers: &[(HeaderName, &str)],
        limit: usize,
    ) -> anyhow::Result<Answer> {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), Zeroizing::new((*value).to_owned()))).collect();
        self.authorized(Asked { method, address: self.address(rest), headers, body: &[] }, limit)
    }

    /// Asks; shows what the registry wants to see if it wants to see something. Nobody else is shown it, wherever the registry
    /// sends us, and nobody else's wish to see something is heard.
    fn authorized(&self, asked: Asked<'_>, limit: usize) -> anyhow::Result<Answer> {
        let ours = Authority::of(&self.address("").parse()?)?;
        let is_ours = Authority::of(&asked.address.parse()?)? == ours;
        let send = |shown: Option<&Zeroizing<String>>| {
            let mut headers = asked.headers.clone();
            headers.extend(shown.filter(|_| is_ours).map(|shown| (AUTHORIZATION, shown.clone())));
            let (method, address) = (asked.method.clone(), asked.address.clone());
            self.transport.send(Asked { method, address, headers, body: asked.body }, limit)
        };
        let first = send(self.shown.borrow().as_ref())?;
        if first.status != 401 || first.by != ours {
            return Ok(first);
        }
        let wanted = first.header("www-authenticate").context("the registry does not say whom it lets in")?;
        let shown = self.answer_to(wanted)?;
        let second = send(Some(&shown))?;
        *self.shown.borrow_mut() = Some(shown);
        Ok(second)
    }

    /// The header that a challenge asks for (RFC 6750, and the token protocol of registries).
    fn answer_to(&self, wanted: &str) -> anyhow::Result<Zeroizing<String>> {
        let basic = self.holder.basic(self.transport.patience(HELP)?)?;
        let (kind, rest) = wanted.split_once(' ').unwrap_or((wanted, ""));
        if kind.eq_ignore_ascii_case("basic") {
            let basic = basic
                .with_context(|| format!("Docker's configuration has no credentials of {}", self.host))?;
            return Ok(basic_header(&basic));
        }
        ensure!(kind.eq_ignore_ascii_case("bearer"), "the registry wants {kind:?}, which is not supported");
        let realm = parameter(rest, "realm").context("the registry does not say where tokens are")?;
        let query: Vec<String> = ["service", "scope"]
            .iter()
            .filter_map(|name| Some(format!("{name}={}", escaped(&parameter(rest, name)?))))
            .collect();
        let sign = if realm.contains('?') { '&' } else { '?' };
        let headers = basic.map(|basic| (AUTHORIZATION, basic_header(&basic))).into_iter().collect();
        let address = format!("{realm}{sign}{}", query.join("&"));
        let answer =
            self.transport.send(Asked { method: Method::GET, address, headers, body: &[] }, MAX_WORDS)?;
        self.expect(&answer, &[200], "a token")?;
        let body = Zeroizing::new(answer.body);
        let said: Token = serde_json::from_slice(&body).context("reading the token")?;
        let token = said.token.or(said.access_token).context("the answer has no token")?;
        Ok(Zeroizing::new(format!("Bearer {}", *token)))
    }

    fn expect(&self, answer: &Answer, good: &[u16], what: &str) -> anyhow::Result<()> {
        if good.contains(&answer.status) {
            return Ok(());
        }
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let why = said.pointer("/errors/0/message").and_then(Value::as_str).unwrap_or("it does not say why");
        let why = coffer_attestation::verdict::printable(why);
        bail!("{} answers {} for {what} of {}: {why}", self.host, answer.status, self.path)
    }
}

/// What a server of tokens answers.
#[derive(Deserialize)]
struct Token {
    token: Option<Zeroizing<String>>,
    access_token: Option<Zeroizing<String>>,
}

fn basic_header(basic: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("Basic {basic}"))
}

fn listed(index: &[u8]) -> anyhow::Result<Vec<Descriptor>> {
    let Document::Index(index) = Document::parse(index).context("reading the referrers")? else {
        bail!("the referrers are no index");
    };
    Ok(index.manifests)
}

/// A parameter of a challenge, in quotes.
pub(super) fn parameter(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}
