//! How registries are reached: the options that every command has which goes to one.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::bail;
use clap::Args;
use coffer_image::artefact::Reference;
use hyper::Method;

use super::credentials::Credentials;
use super::exchange::{Asked, Transport};
use super::repository::Repository;

/// Where Docker's own registry answers.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

#[derive(Args)]
pub(crate) struct RegistryArguments {
    /// Certificates, in PEM, that may have signed a registry's or a signing service's, beside the system's
    #[arg(long, value_name = "FILE", env = "COFFER_REGISTRY_CA")]
    ca: Option<PathBuf>,
    /// Read what begins with FROM from TO first, as in docker.io=mirror.example.com/hub; may be repeated
    #[arg(long, value_name = "FROM=TO", value_parser = mirror, env = "COFFER_REGISTRY_MIRRORS", value_delimiter = ',')]
    mirror: Vec<(String, String)>,
    /// Speak to this host without TLS, on any port if none is named: anybody on the way can read passwords and change what
    /// nobody signed; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", value_parser = plain_host, env = "COFFER_REGISTRY_PLAIN_HTTP", value_delimiter = ',')]
    insecure_plain_http: Vec<String>,
}

/// Registries, reached as the arguments say.
pub(crate) struct Registry {
    transport: Transport,
    credentials: Credentials,
    mirrors: Vec<(String, String)>,
}

impl RegistryArguments {
    /// Reads certificates alone, to ask somebody who is no registry.
    pub(crate) fn transport(&self, until: Option<Instant>) -> anyhow::Result<Transport> {
        Transport::new(self.ca.as_deref(), self.insecure_plain_http.clone(), until)
    }

    /// Reads certificates and credentials. Nothing is asked after `until`.
    pub(crate) fn open(&self, until: Option<Instant>) -> anyhow::Result<Registry> {
        Ok(Registry {
            transport: self.transport(until)?,
            credentials: Credentials::read()?,
            mirrors: self.mirror.clone(),
        })
    }
}

impl Registry {
    /// The repository of `name` itself.
    pub(crate) fn repository(&self, name: &Reference) -> Repository<'_> {
        self.at(name.domain(), name.path())
    }

    /// Where `name` is read from: its mirrors in their order, and last the repository itself.
    pub(crate) fn sources(&self, name: &Reference) -> anyhow::Result<Vec<Repository<'_>>> {
        let whole = name.name();
        let mut all = Vec::new();
        for (from, to) in &self.mirrors {
            let rest = whole.strip_prefix(from.as_str());
            let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else { continue };
            let there = format!("{to}{rest}");
            match there.split_once('/') {
                Some((host, path)) => all.push(self.at(host, path)),
                None => bail!("the mirror of {whole} would be {there}, which names no repository"),
            }
        }
        all.push(self.repository(name));
        Ok(all)
    }

    /// What is at an address that is no registry's; `None` if nothing is.
    pub(crate) fn file(&self, address: &str, limit: usize) -> anyhow::Result<Option<Vec<u8>>> {
        let asked =
            Asked { method: Method::GET, address: address.to_owned(), headers: Vec::new(), body: &[] };
        let answer = self.transport.send(asked, limit)?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            other => bail!("{address} answers {other}"),
        }
    }

    fn at(&self, host: &str, path: &str) -> Repository<'_> {
        let address = if host == DOCKER.0 { DOCKER.1 } else { host };
        Repository::new(&self.transport, self.credentials.of(host), address, path)
    }
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let (from, to) = text.split_once('=').ok_or("write FROM=TO")?;
    let bad = |part: &str| part.is_empty() || part.ends_with('/') || part.contains([' ', '@', '?', '#']);
    if bad(from) || bad(to) {
        Err("write two beginnings of names".to_owned())
    } else {
        Ok((from.to_owned(), to.to_owned()))
    }
}

fn plain_host(text: &str) -> Result<String, String> {
    let bad = text.is_empty()
        || text.contains(['/', '@', '?', '#', '*', ' '])
        || matches!(text, "true" | "1" | "yes");
    if bad {
        Err("write a host, or a host and a port, as in 127.0.0.1:5000".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
