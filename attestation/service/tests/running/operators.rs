//! Operators of every service here: an authority that signs their certificates, and one of each role.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Name, role and tenant.
pub(crate) const OPERATORS: [(&str, &str, &str); 5] = [
    ("alice", "admin", "*"),
    ("oscar", "operator", "*"),
    ("dora", "developer", "acme"),
    ("audrey", "auditor", "*"),
    ("rita", "releaser", "acme"),
];

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
pub(crate) type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate for `name`.
    pub(crate) fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        (certificate.der().clone(), key)
    }

    pub(crate) fn write(&self, to: &Path) {
        std::fs::write(to, &self.pem).expect("written");
    }
}

/// The tables of the configuration that name them.
pub(crate) fn tables() -> String {
    let one = |(name, role, tenant): &(&str, &str, &str)| {
        format!("[[operator]]\nname = \"{name}\"\nrole = \"{role}\"\ntenants = [\"{tenant}\"]\n")
    };
    let role =
        "[[role]]\nname = \"releaser\"\nmay = [{ verbs = [\"put\", \"test\"], kinds = [\"policy\"] }]\n";
    OPERATORS.iter().map(one).collect::<String>() + role
}

/// A certificate for `name` that another authority signed.
pub(crate) fn stranger(name: &str) -> Identity {
    Authority::new("strangers").sign(name)
}
