//! Who is asked: the services of a signing configuration, or those that were named one by one. Never anybody else.

use std::cmp::Reverse;

use anyhow::{Context, bail, ensure};
use coffer_attestation::handshake::{Limits, read_json};
use coffer_attestation::time::UnixTime;
use coffer_image::signing::whole_seconds;
use hyper::Uri;
use serde::Deserialize;

const LIMITS: Limits = Limits { bytes: 256 << 10, depth: 8 };
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.signingconfig.v0.2+json";
/// The most logs, and the most clocks: a bundle that has more is not judged.
const MAX_SERVICES: usize = 4;

/// Addresses; those that a path is put behind are without a slash at their end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Services {
    pub(super) fulcio: String,
    pub(super) logs: Vec<Log>,
    pub(super) clocks: Vec<String>,
}

/// A transparency log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) address: String,
    pub(super) version: Version,
}

/// Of Rekor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Promises, and says when.
    V1,
    /// Proves, and says no time.
    V2,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
    #[serde(default)]
    ca_urls: Vec<Service>,
    #[serde(default)]
    rekor_tlog_urls: Vec<Service>,
    rekor_tlog_config: Option<Choice>,
    #[serde(default)]
    tsa_urls: Vec<Service>,
    tsa_config: Option<Choice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    url: String,
    major_api_version: u32,
    #[serde(default)]
    valid_for: Window,
    #[serde(default)]
    operator: String,
}

#[derive(Default, Deserialize)]
struct Window {
    start: Option<String>,
    end: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    selector: Selector,
    count: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Selector {
    Any,
    Exact,
    All,
}

impl Services {
    /// What can be asked with: a log of the second version says no time, so a clock has to.
    pub(super) fn new(fulcio: &str, logs: Vec<Log>, clocks: Vec<String>) -> anyhow::Result<Self> {
        ensure!(
            !logs.is_empty(),
            "no transparency log is named: verifiers want an entry of one (--rekor URL)"
        );
        let silent = logs.iter().find(|log| log.version == Version::V2).filter(|_| clocks.is_empty());
        if let Some(log) = silent {
            bail!(
                "the log {} (Rekor 2) says no times: name an authority that stamps them too (--tsa URL)",
                log.address
            );
        }
        Ok(Self { fulcio: base(fulcio)?, logs, clocks })
    }

    /// Chooses from a signing configuration, as of `now`.
    pub(super) fn of_config(text: &[u8], now: UnixTime) -> anyhow::Result<Self> {
        let config: Config = read_json(text, LIMITS).context("this is no signing configuration")?;
        ensure!(
            config.media_type == MEDIA_TYPE,
            "the signing configuration says that it is {:?}: {MEDIA_TYPE} is understood",
            config.media_type.chars().take(128).collect::<String>()
        );
        let one = Choice { selector: Selector::Any, count: None };
        let fulcio = chosen("caUrls", &config.ca_urls, &[1], Some(&one), now)?;
        let fulcio = fulcio
            .first()
            .context("the signing configuration names no authority that counts now (caUrls)")?;
        let logs = chosen(
            "rekorTlogUrls",
            &config.rekor_tlog_urls,
            &[2, 1],
            config.rekor_tlog_config.as_ref(),
            now,
        )?;
        let logs = logs.into_iter().map(|service| {
            let version = if service.major_api_version == 2 { Version::V2 } else { Version::V1 };
            Log::new(&service.url, version)
        });
        let clocks = chosen("tsaUrls", &config.tsa_urls, &[1], config.tsa_config.as_ref(), now)?;
        let clocks = clocks.into_iter().map(|service| address(&service.url));
        Self::new(&fulcio.url, logs.collect::<Result<_, _>>()?, clocks.collect::<Result<_, _>>()?)
    }
}

impl Log {
    pub(super) fn new(text: &str, version: Version) -> anyhow::Result<Self> {
        Ok(Self { address: base(text)?, version })
    }
}

/// Of the highest version that is understood and of which one counts now: one of each operator, the latest to begin first. Of them
/// one, so many, or all, as is asked (protobuf-specs, sigstore_trustroot.proto, SigningConfig).
fn chosen<'a>(
    member: &str,
    all: &'a [Service],
    versions: &[u32],
    choice: Option<&Choice>,
    now: UnixTime,
) -> anyhow::Result<Vec<&'a Service>> {
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let choice = choice.with_context(|| {
        format!("the signing configuration does not say how many of its {member} to ask (selector)")
    })?;
    let mut counting = Vec::new();
    for service in all {
        let window = &service.valid_for;
        let start = window.start().with_context(|| format!("{member} of the signing configuration"))?;
        if window.holds(start, now).with_context(|| format!("{member} of the signing configuration"))? {
            counting.push((start, service));
        }
    }
    counting.sort_by_key(|(start, _)| Reverse(*start));
    let mut found: Vec<&Service> = Vec::new();
    let of = |version: &&u32| counting.iter().any(|(_, service)| service.major_api_version == **version);
    let highest = versions.iter().find(of);
    for (_, service) in counting.iter().filter(|(_, service)| Some(&service.major_api_version) == highest) {
        if !found.iter().any(|known| known.operator == service.operator) {
            found.push(service);
        }
    }
    let wanted = match choice.selector {
        Selector::Any => found.len().min(1),
        Selector::All => found.len(),
        Selector::Exact => choice.count.filter(|count| *count > 0).context("EXACT needs a count")?,
    };
    ensure!(
        wanted <= found.len() && wanted <= MAX_SERVICES,
        "{member} of the signing configuration asks for {wanted} services: {} count now and are understood, and at most \
         {MAX_SERVICES} are asked",
        found.len()
    );
    found.truncate(wanted);
    Ok(found)
}

impl Window {
    /// Without one it began with the epoch.
    fn start(&self) -> anyhow::Result<UnixTime> {
        self.start.as_deref().map_or(Ok(UnixTime(0)), |text| time(text, false))
    }

    fn holds(&self, start: UnixTime, now: UnixTime) -> anyhow::Result<bool> {
        let end = self.end.as_deref().map(|text| time(text, true)).transpose()?;
        Ok(start <= now && end.is_none_or(|end| now <= end))
    }
}

fn time(text: &str, ends: bool) -> anyhow::Result<UnixTime> {
    let shown = || format!("{:?} is no time", text.chars().take(64).collect::<String>());
    whole_seconds(text, ends).with_context(shown)
}

/// The address of a service that a path is put behind.
fn base(text: &str) -> anyhow::Result<String> {
    Ok(address(text)?.trim_end_matches('/').to_owned())
}

/// An address whose holder shows a certificate: the token opens doors, and answers are believed as far as they go.
pub(super) fn address(text: &str) -> anyhow::Result<String> {
    let uri: Uri = text.parse().with_context(|| format!("{text:?} is no address"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let is_bare = !authority.is_empty() && !authority.contains('@') && !text.contains(['?', '#']);
    ensure!(
        uri.scheme_str() == Some("https") && is_bare,
        "{text:?} is no address of a service: write https://HOST, with a path if it has one; without TLS none is asked"
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: UnixTime = UnixTime(1_780_000_000);

    fn service(url: &str, version: u32, operator: &str) -> Value {
        json!({"url": url, "majorApiVersion": version, "operator": operator,
            "validFor": {"start": "2025-01-01T00:00:00.5Z"}})
    }

    fn config(change: impl FnOnce(&mut Value)) -> anyhow::Result<Services> {
        let mut config = json!({
            "mediaType": MEDIA_TYPE,
            "caUrls": [service("https://ca.example.com/", 1, "a")],
            "rekorTlogUrls": [service("https://log1.example.com", 1, "a"), service("https://log2.example.com", 2, "a")],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [service("https://clock.example.com/api/v1/timestamp", 1, "a")],
            "tsaConfig": {"selector": "ANY"},
        });
        change(&mut config);
        Services::of_config(config.to_string().as_bytes(), NOW)
    }

    #[test]
    fn the_newest_version_that_counts_now_is_chosen() {
        let services = config(|_| {}).expect("services");
        assert_eq!(services.fulcio, "https://ca.example.com");
        assert_eq!(
            services.logs,
            [Log { address: "https://log2.example.com".to_owned(), version: Version::V2 }]
        );
        let over =
            config(|config| config["rekorTlogUrls"][1]["validFor"]["end"] = json!("2025-02-01T00:00:00Z"));
        assert_eq!(over.expect("services").logs[0].version, Version::V1);
    }

    #[test]
    fn all_of_them_is_one_of_each_operator() {
        let services = config(|config| {
            config["rekorTlogConfig"] = json!({"selector": "ALL"});
            config["rekorTlogUrls"] = json!([
                service("https://a.example.com", 2, "a"),
                service("https://b.example.com", 2, "b"),
                service("https://also-a.example.com", 2, "a"),
            ]);
        });
        let addresses: Vec<_> = services.expect("services").logs.into_iter().map(|log| log.address).collect();
        assert_eq!(addresses, ["https://a.example.com", "https://b.example.com"]);
    }

    #[test]
    fn versions_are_not_mixed() {
        let services = config(|config| {
            config["rekorTlogConfig"] = json!({"selector": "ALL"});
            config["rekorTlogUrls"][0]["operator"] = json!("b");
        });
        let versions: Vec<_> = services.expect("services").logs.into_iter().map(|log| log.version).collect();
        assert_eq!(versions, [Version::V2]);
    }

    #[test]
    fn who_began_last_is_asked_wherever_it_stands() {
        let services = config(|config| {
            config["caUrls"] = json!([
                service("https://old.example.com", 1, "a"),
                service("https://new.example.com", 1, "a")
            ]);
            config["caUrls"][1]["validFor"]["start"] = json!("2025-06-01T00:00:00Z");
        });
        assert_eq!(services.expect("services").fulcio, "https://new.example.com");
    }

    #[test]
    fn a_configuration_that_does_not_say_how_many_is_refused() {
        let error = config(|config| config["tsaConfig"] = json!(null)).expect_err("refused").to_string();
        assert!(error.contains("how many of its tsaUrls"), "{error}");
    }

    #[test]
    fn a_time_with_something_behind_it_is_refused() {
        let start = |text: &str| config(|config| config["caUrls"][0]["validFor"]["start"] = json!(text));
        assert!(start("2025-01-01T00:00:00.garbage").is_err());
        assert!(start("2025-01-01T00:00:00.5+02:00").is_err());
    }

    #[test]
    fn more_than_there_are_is_refused() {
        let error = config(|config| config["tsaConfig"] = json!({"selector": "EXACT", "count": 2}));
        assert!(error.expect_err("refused").to_string().contains("asks for 2 services: 1 count now"));
    }

    #[test]
    fn a_log_without_times_needs_a_clock() {
        let error = config(|config| config["tsaUrls"] = json!([])).expect_err("refused").to_string();
        assert!(error.contains("says no times"), "{error}");
    }

    #[test]
    fn an_older_configuration_is_refused_by_its_name() {
        let error =
            config(|config| config["mediaType"] = json!("x.v0.1+json")).expect_err("refused").to_string();
        assert!(error.contains("x.v0.1+json"), "{error}");
    }

    #[test]
    fn nobody_is_asked_without_tls() {
        assert!(address("http://ca.example.com").is_err());
        assert!(address("https://user@ca.example.com").is_err());
        assert!(address("ca.example.com").is_err());
    }

    #[test]
    fn a_path_can_be_put_behind_an_address() {
        assert!(base("https://ca.example.com#part").is_err());
        assert!(base("https://ca.example.com/?q").is_err());
        assert_eq!(base("https://ca.example.com/a/").expect("an address"), "https://ca.example.com/a");
        assert_eq!(address("https://clock.example.com/tsa/").expect("one"), "https://clock.example.com/tsa/");
    }
}
