//! Verifies a statement of Intel's: who signed it, over which bytes, for which time.

use std::fmt::Display;

use super::chain::{BelowRoot, QE_IDENTITY_SIGNER, TCB_INFO_SIGNER, Terms, not_named};
use super::collateral::{UnverifiedCollateral, UnverifiedStatement};
use super::qe_identity::QeIdentity;
use super::tcb_info::TcbInfo;
use crate::time::UnixTime;
use crate::verdict::Checks;
use crate::x509::RevocationList;

/// Under which names a statement is checked.
struct Names {
    signer: &'static BelowRoot,
    revoked: &'static str,
    signature: &'static str,
    format: &'static str,
    dates: &'static str,
}

const TCB_INFO: Names = Names {
    signer: &TCB_INFO_SIGNER,
    revoked: "tcb-info-signer-revoked",
    signature: "tcb-info-signature",
    format: "tcb-info-format",
    dates: "tcb-info-dates",
};
const QE_IDENTITY: Names = Names {
    signer: &QE_IDENTITY_SIGNER,
    revoked: "qe-identity-signer-revoked",
    signature: "qe-identity-signature",
    format: "qe-identity-format",
    dates: "qe-identity-dates",
};

impl Terms<'_> {
    /// TCB info, if Intel signed it; its dates are recorded only.
    pub(super) fn tcb_info(&self, checks: &mut Checks, collateral: &UnverifiedCollateral) -> Option<TcbInfo> {
        let text = self.signed(checks, &TCB_INFO, &collateral.tcb_info, &collateral.root_crl)?;
        let info = checks.settle(TCB_INFO.format, "TCB info of version 3 for TDX", TcbInfo::parse(text))?;
        self.dated(checks, TCB_INFO.dates, info.issue_date, info.next_update);
        Some(info)
    }

    /// QE identity, if Intel signed it; its dates are recorded only.
    pub(super) fn qe_identity(
        &self,
        checks: &mut Checks,
        collateral: &UnverifiedCollateral,
    ) -> Option<QeIdentity> {
        let text = self.signed(checks, &QE_IDENTITY, &collateral.qe_identity, &collateral.root_crl)?;
        let format = "QE identity of version 2 for TDX";
        let identity = checks.settle(QE_IDENTITY.format, format, QeIdentity::parse(text))?;
        self.dated(checks, QE_IDENTITY.dates, identity.issue_date, identity.next_update);
        Some(identity)
    }

    fn signed<'s>(
        &self,
        checks: &mut Checks,
        names: &Names,
        statement: &'s UnverifiedStatement,
        root_crl: &RevocationList,
    ) -> Option<&'s [u8]> {
        let signer = self.below_root(checks, names.signer, &statement.issuers)?;
        not_named(checks, names.revoked, root_crl, signer.certificate);
        let text = statement.text.as_bytes();
        let verified = signer.certificate.key().verify_raw_ecdsa(text, &statement.signature);
        let by = format!("signed by {}", signer.certificate.subject());
        checks.settle(names.signature, by, verified).map(|()| text)
    }

    fn dated(&self, checks: &mut Checks, name: &'static str, issued: UnixTime, next: UnixTime) {
        let holds = (issued..=next).contains(&self.at);
        checks.require(name, holds, format!("good at {}", self.at), period(issued, next));
    }
}

fn period(issued: impl Display, next: impl Display) -> String {
    format!("good from {issued} to {next}")
}
