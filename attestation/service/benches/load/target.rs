//! Where guests go: our service, or another one that speaks the same protocol and that somebody has started beside it.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, RwLock};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::running::process::handshake;
use crate::running::{self, Place, Service, Tls};

/// A service that releases the secret.
pub(crate) struct Target {
    address: SocketAddr,
    /// Its process.
    pub(crate) process: u32,
    /// Guests that begin after a certificate was replaced know of it.
    client: RwLock<Arc<ClientConfig>>,
}

impl Target {
    /// Our service.
    pub(crate) fn ours(service: &Service, place: &Place) -> Self {
        let client = RwLock::new(place.client(None));
        Self { address: service.address(), process: service.id(), client }
    }

    /// Another one: `ADDRESS,PROCESS,CERTIFICATE`, where it listens, its process's number, and the file with its own
    /// certificate, for the name `localhost`.
    pub(crate) fn told(line: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("--beside {line}: {what}; wanted is ADDRESS,PROCESS,CERTIFICATE");
        let [address, process, file] =
            line.split(',').collect::<Vec<_>>().try_into().map_err(|_| wrong("these are not three parts"))?;
        let certificate = CertificateDer::from_pem_file(file).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self {
            address: address.parse().map_err(|_| wrong("no address and port"))?,
            process: process.parse().map_err(|_| wrong("no process"))?,
            client: RwLock::new(running::client(std::iter::once(&certificate), None)),
        })
    }

    /// Guests from now on believe what the place believes now.
    pub(crate) fn look_again(&self, place: &Place) {
        *self.client.write().expect("no thread died") = place.client(None);
    }

    pub(crate) fn connect(&self) -> std::io::Result<Tls> {
        let client = self.client.read().expect("no thread died").clone();
        handshake(TcpStream::connect(self.address)?, &client)
    }
}
