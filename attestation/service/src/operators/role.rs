//! Roles: which verb is allowed on which kind of thing.

use serde::Deserialize;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Read one, as a whole.
    Get,
    /// See which there are.
    List,
    /// Make or replace one.
    Put,
    /// Remove one.
    Delete,
    /// Try one out without any effect.
    Test,
}

/// What it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Secrets of a tenant. Nobody gets one but a guest.
    Secret,
    /// Reference values.
    Reference,
    /// Policies, for the release of a tenant's secrets or for appraisal.
    Policy,
    /// What was revoked.
    Revocation,
    /// Entries of the audit log, proofs, checkpoints.
    Audit,
    /// Counters.
    Metrics,
}

/// A role that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything that there is a call for.
    Admin,
    /// Keeps guests running: secrets, reference values, revocations.
    Operator,
    /// Brings secrets of its tenants, and tries policies out.
    Developer,
    /// Reads what happened and by which rules, and changes nothing.
    Auditor,
}

/// A role that the configuration defines.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomRole {
    /// What operators name it by.
    pub name: String,
    /// Everything that it allows.
    pub may: Vec<Rule>,
}

/// Each of these verbs on each of these kinds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What may be done.
    pub verbs: Vec<Verb>,
    /// To what.
    pub kinds: Vec<Kind>,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Verb; 5] = [Verb::Get, Verb::List, Verb::Put, Verb::Delete, Verb::Test];

    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Put => "put",
            Verb::Delete => "delete",
            Verb::Test => "test",
        }
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] =
        [Kind::Secret, Kind::Reference, Kind::Policy, Kind::Revocation, Kind::Audit, Kind::Metrics];

    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::Reference => "reference",
            Kind::Policy => "policy",
            Kind::Revocation => "revocation",
            Kind::Audit => "audit",
            Kind::Metrics => "metrics",
        }
    }
}

impl Role {
    /// Every role that is always there.
    pub const ALL: [Role; 4] = [Role::Admin, Role::Operator, Role::Developer, Role::Auditor];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Developer => "developer",
            Role::Auditor => "auditor",
        }
    }

    /// Whether it allows `verb` on `kind`.
    pub fn allows(self, verb: Verb, kind: Kind) -> bool {
        let changes = matches!(verb, Verb::Put | Verb::Delete);
        match (self, kind) {
            (_, Kind::Secret) if matches!(verb, Verb::Get | Verb::Test) => false,
            (Role::Admin, _) => true,
            (Role::Operator, Kind::Secret | Kind::Reference) => verb != Verb::Test,
            (Role::Operator, Kind::Revocation) => matches!(verb, Verb::Get | Verb::List | Verb::Put),
            (Role::Operator, Kind::Policy) => !changes,
            (Role::Operator, Kind::Metrics) => matches!(verb, Verb::Get | Verb::List),
            (Role::Operator, Kind::Audit) => false,
            (Role::Developer, Kind::Secret) => matches!(verb, Verb::List | Verb::Put),
            (Role::Developer, Kind::Policy) => !changes,
            (Role::Developer, Kind::Reference) => matches!(verb, Verb::Get | Verb::List),
            (Role::Developer, Kind::Revocation | Kind::Audit | Kind::Metrics) => false,
            (Role::Auditor, _) => matches!(verb, Verb::Get | Verb::List),
        }
    }
}

impl CustomRole {
    /// Whether it allows `verb` on `kind`.
    pub fn allows(&self, verb: Verb, kind: Kind) -> bool {
        self.may.iter().any(|rule| rule.verbs.contains(&verb) && rule.kinds.contains(&kind))
    }
}
