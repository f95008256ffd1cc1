//! Why the verifier says no, and how that is written on the wire.

use coffer_attestation::handshake::{AttestationError, JsonError, RequestError, TokenError};
use serde::Serialize;

use crate::appraisal::{JudgeError, NotSigned, ReferenceError};
use crate::audit::LogError;
use crate::chain::short_line_of;
use crate::challenge::{ChallengeError, IssueError, SpentError};
use crate::collateral::Absent;
use crate::database::DatabaseError;
use crate::operators::NotPermitted;
use crate::policy::PolicyError;
use crate::secrets::StoreError;

/// An answer that gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a message of the protocol.
    #[error("{reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A message that is too long.
    #[error("{reason}")]
    TooLarge {
        /// What is wrong.
        reason: String,
    },
    /// No token or challenge that is good: attest, or attest again.
    #[error("{reason}")]
    Unauthenticated {
        /// What is wrong.
        reason: String,
    },
    /// A challenge that was answered before.
    #[error("the challenge was answered before: ask for another one")]
    Replayed,
    /// Evidence that is not genuine, or not for this challenge and key.
    #[error("the evidence does not verify: {checks}")]
    Evidence {
        /// Names of the checks that failed.
        checks: String,
    },
    /// Genuine, and not allowed.
    #[error("{reason}")]
    Denied {
        /// Which rule says so.
        reason: &'static str,
    },
    /// Genuine, and it runs images of others than the secret is for.
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
    /// It was good, and its owner took that back: what it was given is to be dropped.
    #[error("the {what} was revoked")]
    Revoked {
        /// What was: sandbox, measurement, signer or token.
        what: &'static str,
    },
    /// Somebody was faster.
    #[error("the newest version is {newest}: look at it first")]
    Conflict {
        /// The newest version.
        newest: u64,
    },
    /// Nothing there.
    #[error("there is nothing of that name")]
    NotFound,
    /// Not now.
    #[error("{reason}")]
    Unavailable {
        /// What is missing, as far as strangers may know.
        reason: &'static str,
    },
}

/// What is told while the database that replicas share is away.
const DATABASE: Refusal = Refusal::Unavailable { reason: "the database does not answer now" };

/// The body of an answer that gives nothing: `{"type", "detail"}`, in the order in which clients know it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    r#type: String,
    detail: String,
}

impl Told {
    /// `kind` is of a fixed set.
    pub fn new(kind: &str, detail: impl std::fmt::Display) -> Self {
        Self { r#type: format!("https://coffer.example/errors/{kind}"), detail: detail.to_string() }
    }
}

impl Refusal {
    /// HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Malformed { .. } => 400,
            Refusal::Unauthenticated { .. } => 401,
            Refusal::Evidence { .. }
            | Refusal::Denied { .. }
            | Refusal::NotSigned(_)
            | Refusal::Revoked { .. } => 403,
            Refusal::NotFound => 404,
            Refusal::Replayed | Refusal::Conflict { .. } => 409,
            Refusal::TooLarge { .. } => 413,
            Refusal::Unavailable { .. } => 503,
        }
    }

    /// The body.
    pub fn told(&self) -> Told {
        Told::new(self.kind(), self)
    }

    /// A name for logs and metrics, of a fixed set.
    pub fn kind(&self) -> &'static str {
        match self {
            Refusal::Malformed { .. } => "Malformed",
            Refusal::TooLarge { .. } => "TooLarge",
            Refusal::Unauthenticated { .. } => "Unauthenticated",
            Refusal::Replayed => "ChallengeReplayed",
            Refusal::Evidence { .. } => "EvidenceInvalid",
            Refusal::Denied { .. } | Refusal::NotSigned(_) => "PolicyDeny",
            Refusal::Revoked { .. } => "Revoked",
            Refusal::Conflict { .. } => "Conflict",
            Refusal::NotFound => "NotFound",
            Refusal::Unavailable { .. } => "Unavailable",
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        let reason = short_line_of(&error);
        match error {
            RequestError::Json(JsonError::TooLong { .. }) => Refusal::TooLarge { reason },
            _ => Refusal::Malformed { reason },
        }
    }
}

impl From<AttestationError> for Refusal {
    fn from(error: AttestationError) -> Self {
        let reason = short_line_of(&error);
        match error {
            AttestationError::Json(JsonError::TooLong { .. }) | AttestationError::Additional { .. } => {
                Refusal::TooLarge { reason }
            }
            _ => Refusal::Malformed { reason },
        }
    }
}

impl From<IssueError> for Refusal {
    fn from(_: IssueError) -> Self {
        Refusal::Unavailable { reason: "no challenge can be made now" }
    }
}

impl From<ChallengeError> for Refusal {
    fn from(error: ChallengeError) -> Self {
        match error {
            ChallengeError::Spent(SpentError::Replayed) => Refusal::Replayed,
            ChallengeError::Spent(SpentError::Unknown) => DATABASE,
            ChallengeError::Spent(SpentError::Full { .. } | SpentError::SharedFull) => {
                Refusal::Unavailable { reason: "too many challenges were answered: try again later" }
            }
            other => Refusal::Unauthenticated { reason: other.to_string() },
        }
    }
}

impl From<JudgeError> for Refusal {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Absent(Absent::Later { .. }) => Refusal::Unavailable {
                reason: "the certificate of the evidence's key is being fetched: try again in a few seconds",
            },
            JudgeError::Sample => Refusal::Denied { reason: "sample evidence is not taken here" },
            other => Refusal::Malformed { reason: short_line_of(&other) },
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Refusal::Unauthenticated { reason: short_line_of(&error) }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } | StoreError::Expired { .. } => Refusal::NotFound,
            StoreError::Version { found } => Refusal::Conflict { newest: found },
            StoreError::TooLong { .. } => Refusal::TooLarge { reason: error.to_string() },
            StoreError::Token { .. } => {
                Refusal::Unavailable { reason: "the token that holds the keys does not answer now" }
            }
            StoreError::Database(
                DatabaseError::Unreachable { .. }
                | DatabaseError::Slow { .. }
                | DatabaseError::Refused { .. },
            ) => DATABASE,
            _ => Refusal::Unavailable { reason: "the secret store cannot answer now" },
        }
    }
}

impl From<NotPermitted> for Refusal {
    fn from(error: NotPermitted) -> Self {
        match error {
            NotPermitted::Unknown => Refusal::Unauthenticated { reason: error.to_string() },
            NotPermitted::Role => Refusal::Denied { reason: "the operator's role does not allow this" },
            NotPermitted::Tenant => Refusal::Denied {
                reason: "the operator may not administer this tenant, or what belongs to none",
            },
        }
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        Refusal::Malformed { reason: error.to_string() }
    }
}

impl From<ReferenceError> for Refusal {
    fn from(error: ReferenceError) -> Self {
        Refusal::Malformed { reason: error.to_string() }
    }
}

impl From<LogError> for Refusal {
    fn from(_: LogError) -> Self {
        Refusal::Unavailable { reason: "the audit log cannot be written now" }
    }
}
