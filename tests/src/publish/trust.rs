//! Whose images a pod takes: keys of the tests, and policies that name them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::run::Run;

/// A key file of the tests on attestation: `p256.pem` signs and `p256.pub.pem` verifies, as `p384…` do.
pub fn key(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../attestation/testdata/dsse").join(name)
}

/// A policy that takes the images below `scope` which the owner of `public` signed, and no others.
pub fn policy(scope: &str, public: &Path) -> Result<Value> {
    policy_of(&[(scope, public)])
}

/// A policy that takes the images below each scope which the owner of its public key signed, and no others.
pub fn policy_of(scopes: &[(&str, &Path)]) -> Result<Value> {
    let mut docker = Map::new();
    for (scope, public) in scopes {
        let key = Run::new("base64").arg("-w0").input(fs::read(public)?).text()?;
        let identity = json!({"type": "matchDigest"});
        let signed = json!([{"type": "sigstoreSigned", "keyData": key, "signedIdentity": identity}]);
        docker.insert((*scope).to_owned(), signed);
    }
    Ok(json!({"default": [{"type": "reject"}], "transports": {"docker": docker}}))
}
