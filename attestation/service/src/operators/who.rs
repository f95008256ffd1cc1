//! Who asks: somebody with a certificate that TLS has checked, or with a token whose signature was.

/// Somebody who is known by name; what that one may do is [`super::Directory`]'s business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A certificate was shown.
    Certificate {
        /// Its common name.
        name: String,
        /// Its serial number in hexadecimal.
        serial: String,
    },
    /// A token of the operators' identity provider was shown.
    Token {
        /// `oidc:` and whom it names.
        name: String,
        /// What it says that one belongs to.
        groups: Vec<String>,
    },
}

impl Who {
    /// A name for the audit log; those of tokens have a prefix that no certificate's can be taken for.
    pub fn name(&self) -> &str {
        match self {
            Who::Certificate { name, .. } | Who::Token { name, .. } => name,
        }
    }
}
