//! Which operators there are, and the one place where they are told yes or no.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::role::{CustomRole, Kind, Role, Verb};
use super::who::Who;

/// A tenant's name that stands for all of them, and for what belongs to none.
const EVERY: &str = "*";

/// Somebody who may administer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Common name of the certificate, or a group that tokens name.
    pub name: String,
    /// `admin`, `operator`, `developer`, `auditor`, or a role of the configuration.
    pub role: String,
    /// Whose things; `*` for everything.
    pub tenants: Vec<String>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    operators: BTreeMap<String, (Allowed, Vec<String>)>,
    /// What tokens say that somebody belongs to.
    groups: BTreeMap<String, (Allowed, Vec<String>)>,
}

#[derive(Debug, Clone)]
enum Allowed {
    Builtin(Role),
    Custom(CustomRole),
}

/// Leave for one thing. Only [`Directory::permit`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    operator: String,
    verb: Verb,
    kind: Kind,
    tenant: Option<String>,
}

/// No leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// Nobody is known by that name, or no certificate was shown.
    #[error("a certificate or token of an operator is needed")]
    Unknown,
    /// Not this verb on this kind.
    #[error("the operator's role does not allow this")]
    Role,
    /// Not of this tenant.
    #[error("the operator may not administer this tenant, or what belongs to none")]
    Tenant,
}

/// Why a configuration names no directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// A role that is not there.
    #[error("operator {operator:?} has the role {role:?}, which is not defined")]
    Role {
        /// The operator.
        operator: String,
        /// The role.
        role: String,
    },
    /// A name that is there twice, or is that of a role that is always there.
    #[error("{name:?} is defined twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A role that promises what nobody may.
    #[error("role {role:?} allows reading secrets, which nobody may")]
    Secrets {
        /// The role.
        role: String,
    },
}

impl Directory {
    /// Puts one together.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub fn new(operators: &[Operator], roles: &[CustomRole]) -> Result<Self, DirectoryError> {
        Self::with_groups(operators, &[], roles)
    }

    /// Puts one together that knows groups too.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub fn with_groups(
        operators: &[Operator],
        groups: &[Operator],
        roles: &[CustomRole],
    ) -> Result<Self, DirectoryError> {
        let mut known: BTreeMap<&str, Allowed> =
            Role::ALL.iter().map(|role| (role.name(), Allowed::Builtin(*role))).collect();
        for role in roles {
            if role.allows(Verb::Get, Kind::Secret) {
                return Err(DirectoryError::Secrets { role: role.name.clone() });
            }
            if known.insert(&role.name, Allowed::Custom(role.clone())).is_some() {
                return Err(DirectoryError::Twice { name: role.name.clone() });
            }
        }
        Ok(Self { operators: named(operators, &known)?, groups: named(groups, &known)? })
    }

    /// Asks whether `operator` may do `verb` to a thing of `kind`, of `tenant` or of none.
    ///
    /// # Errors
    /// [`NotPermitted`]
    pub fn permit(
        &self,
        operator: Option<&Who>,
        verb: Verb,
        kind: Kind,
        tenant: Option<&str>,
    ) -> Result<Permit, NotPermitted> {
        let operator = operator.ok_or(NotPermitted::Unknown)?;
        let roles: Vec<_> = match operator {
            Who::Certificate { name, .. } => self.operators.get(name).into_iter().collect(),
            Who::Token { groups, .. } => groups.iter().filter_map(|group| self.groups.get(group)).collect(),
        };
        if roles.is_empty() {
            return Err(NotPermitted::Unknown);
        }
        let mut allowing = roles.iter().filter(|(allowed, _)| allowed.allows(verb, kind)).peekable();
        if allowing.peek().is_none() {
            return Err(NotPermitted::Role);
        }
        // One role that allows it must be for this tenant: two halves make no whole.
        let of_tenant = |known: &String| known == EVERY || Some(known.as_str()) == tenant;
        if !allowing.any(|(_, tenants)| tenants.iter().any(of_tenant)) {
            return Err(NotPermitted::Tenant);
        }
        let (operator, tenant) = (operator.name().to_owned(), tenant.map(str::to_owned));
        Ok(Permit { operator, verb, kind, tenant })
    }
}

impl Allowed {
    fn allows(&self, verb: Verb, kind: Kind) -> bool {
        match self {
            Allowed::Builtin(role) => role.allows(verb, kind),
            Allowed::Custom(role) => role.allows(verb, kind),
        }
    }
}

/// By name, each with what its role allows.
fn named(
    all: &[Operator],
    roles: &BTreeMap<&str, Allowed>,
) -> Result<BTreeMap<String, (Allowed, Vec<String>)>, DirectoryError> {
    let mut found = BTreeMap::new();
    for Operator { name, role, tenants } in all {
        let allowed = roles
            .get(role.as_str())
            .cloned()
            .ok_or_else(|| DirectoryError::Role { operator: name.clone(), role: role.clone() })?;
        if found.insert(name.clone(), (allowed, tenants.clone())).is_some() {
            return Err(DirectoryError::Twice { name: name.clone() });
        }
    }
    Ok(found)
}

impl Permit {
    /// Who has it.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// What for.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// On what.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Of whom.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are verbs get, list, put, delete, test; columns secret, reference, policy, revocation, audit, metrics.
    const TABLE: [(&str, [&str; 5]); 5] = [
        ("admin", [".yyyyy", "yyyyyy", "yyyyyy", "yyyyyy", ".yyyyy"]),
        ("operator", [".yyy.y", "yyyy.y", "yy.y..", "yy....", "..y..."]),
        ("developer", [".yy...", "yyy...", "y.....", "......", "..y..."]),
        ("auditor", [".yyyyy", "yyyyyy", "......", "......", "......"]),
        ("releaser", ["......", "y.....", "y.y...", "......", "......"]),
    ];

    fn directory() -> Directory {
        let operators: Vec<Operator> = TABLE
            .iter()
            .map(|(role, _)| Operator {
                name: format!("{role} of acme"),
                role: (*role).to_owned(),
                tenants: vec!["acme".to_owned()],
            })
            .collect();
        let releaser: CustomRole = toml::from_str(
            "name = \"releaser\"\nmay = [{ verbs = [\"put\"], kinds = [\"secret\", \"policy\"] }, { verbs = [\"list\"], kinds = [\"secret\"] }]",
        )
        .expect("a role");
        Directory::new(&operators, &[releaser]).expect("a directory")
    }

    fn shown(name: &str) -> Who {
        Who::Certificate { name: name.to_owned(), serial: "01".to_owned() }
    }

    #[test]
    fn a_token_has_what_one_of_its_groups_allows_for_that_groups_tenants() {
        let group = |name: &str, role: &str, tenant: &str| Operator {
            name: name.to_owned(),
            role: role.to_owned(),
            tenants: vec![tenant.to_owned()],
        };
        let groups = [group("writers", "operator", "acme"), group("readers", "auditor", "*")];
        let directory = Directory::with_groups(&[group("alice", "admin", "*")], &groups, &[]);
        let directory = directory.expect("a directory");
        let ask = |groups: &[&str], verb, tenant| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let who = Who::Token { name: "oidc:alice".to_owned(), groups };
            directory.permit(Some(&who), verb, Kind::Secret, Some(tenant)).map(|permit| permit.operator)
        };
        let both = ["writers", "readers"];
        assert_eq!(ask(&both, Verb::Put, "acme"), Ok("oidc:alice".to_owned()));
        assert_eq!(ask(&both, Verb::Put, "umbrella"), Err(NotPermitted::Tenant));
        assert!(ask(&both, Verb::List, "umbrella").is_ok());
        assert_eq!(ask(&["readers"], Verb::Put, "acme"), Err(NotPermitted::Role));
        // No group is a certificate's name, and no name a group.
        assert_eq!(ask(&["alice"], Verb::List, "acme"), Err(NotPermitted::Unknown));
        let named = directory.permit(Some(&shown("readers")), Verb::List, Kind::Secret, Some("acme"));
        assert_eq!(named, Err(NotPermitted::Unknown));
    }

    #[test]
    fn every_role_may_do_exactly_what_the_table_says_with_every_verb_on_every_kind_of_every_tenant() {
        let directory = directory();
        let mut asked = 0;
        for (role, rows) in TABLE {
            for (verb, row) in Verb::ALL.into_iter().zip(rows) {
                for (kind, cell) in Kind::ALL.into_iter().zip(row.bytes()) {
                    let name = format!("{role} of acme");
                    let ask = |tenant| directory.permit(Some(&shown(&name)), verb, kind, tenant).map(|_| ());
                    let (role_says, others) = match cell {
                        b'y' => (Ok(()), Err(NotPermitted::Tenant)),
                        _ => (Err(NotPermitted::Role), Err(NotPermitted::Role)),
                    };
                    let case = format!("{role} {} {}", verb.name(), kind.name());
                    assert_eq!(ask(Some("acme")), role_says, "{case} of its tenant");
                    assert_eq!(ask(Some("umbrella")), others, "{case} of another tenant");
                    assert_eq!(ask(None), others, "{case} of no tenant");
                    asked += 3;
                }
            }
        }
        assert_eq!(asked, 5 * 5 * 6 * 3);
    }

    #[test]
    fn an_operator_of_every_tenant_may_also_do_what_belongs_to_none() {
        let all = Operator { name: "a".into(), role: "auditor".into(), tenants: vec!["*".into()] };
        let directory = Directory::new(&[all], &[]).expect("a directory");
        assert!(directory.permit(Some(&shown("a")), Verb::Get, Kind::Audit, None).is_ok());
        assert!(directory.permit(Some(&shown("a")), Verb::List, Kind::Secret, Some("acme")).is_ok());
    }

    #[test]
    fn who_is_not_known_may_do_nothing() {
        let directory = directory();
        for name in [None, Some("mallory"), Some("")] {
            let asked = directory.permit(name.map(shown).as_ref(), Verb::List, Kind::Secret, Some("acme"));
            assert_eq!(asked, Err(NotPermitted::Unknown));
        }
    }

    #[test]
    fn a_role_that_reads_secrets_or_is_defined_twice_or_not_at_all_is_refused() {
        let role = |name: &str, verbs| CustomRole {
            name: name.to_owned(),
            may: vec![Rule { verbs, kinds: vec![Kind::Secret] }],
        };
        let operator = Operator { name: "a".into(), role: "none".into(), tenants: Vec::new() };
        let reads = Directory::new(&[], &[role("reader", vec![Verb::Get])]);
        assert!(matches!(reads, Err(DirectoryError::Secrets { .. })));
        let twice = Directory::new(&[], &[role("admin", vec![Verb::Put])]);
        assert!(matches!(twice, Err(DirectoryError::Twice { .. })));
        assert!(matches!(Directory::new(&[operator], &[]), Err(DirectoryError::Role { .. })));
    }

    use super::super::role::Rule;
}
