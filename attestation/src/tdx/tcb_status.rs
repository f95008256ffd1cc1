//! How up to date a platform is, in Intel's words, and how several such judgements become one.
//!
//! Source: Intel's quote verification library, sections 4.1.2.4.15 and 4.1.2.4.17, as far as it is about TDX.

use std::fmt::{self, Display};

use serde::Deserialize;

/// What Intel says of a platform, a TDX module or a quoting enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum TcbStatus {
    /// All known holes are closed.
    UpToDate,
    /// Software inside the guest must close a hole itself.
    #[serde(rename = "SWHardeningNeeded")]
    SwHardeningNeeded,
    /// The platform's configuration must be changed to close a hole.
    ConfigurationNeeded,
    /// Both of these.
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSwHardeningNeeded,
    /// The platform is up to date now and was not when the trust domain started.
    #[serde(skip)]
    TdRelaunchAdvised,
    /// That, and the platform's configuration must be changed.
    #[serde(skip)]
    TdRelaunchAdvisedConfigurationNeeded,
    /// Holes are open.
    OutOfDate,
    /// Holes are open, and the platform's configuration must be changed too.
    OutOfDateConfigurationNeeded,
    /// Not to be trusted any more.
    Revoked,
    /// Below everything that Intel has a word for.
    #[serde(skip)]
    NotSupported,
    /// A word that is not known here.
    #[serde(other)]
    Unrecognised,
}

use TcbStatus::{
    ConfigurationAndSwHardeningNeeded, ConfigurationNeeded, NotSupported, OutOfDate,
    OutOfDateConfigurationNeeded, Revoked, SwHardeningNeeded, TdRelaunchAdvised,
    TdRelaunchAdvisedConfigurationNeeded, Unrecognised, UpToDate,
};

impl TcbStatus {
    /// What becomes of this, a platform's status, beside the status of a TDX module or a quoting enclave, which is only
    /// ever up to date, out of date or revoked.
    pub fn beside(self, part: TcbStatus) -> TcbStatus {
        match (part, self) {
            (_, Revoked) | (Revoked, _) => Revoked,
            (NotSupported, _) => NotSupported,
            (UpToDate, status) => status,
            (OutOfDate, UpToDate | SwHardeningNeeded) => OutOfDate,
            (OutOfDate, ConfigurationNeeded | ConfigurationAndSwHardeningNeeded) => {
                OutOfDateConfigurationNeeded
            }
            (OutOfDate, status) => status,
            _ => Unrecognised,
        }
    }

    /// Whether holes are open because the platform is old.
    pub(super) fn out_of_date(self) -> bool {
        matches!(self, OutOfDate | OutOfDateConfigurationNeeded)
    }

    /// Whether the platform's configuration must be changed.
    pub(super) fn configuration_needed(self) -> bool {
        matches!(
            self,
            ConfigurationNeeded
                | ConfigurationAndSwHardeningNeeded
                | OutOfDateConfigurationNeeded
                | TdRelaunchAdvisedConfigurationNeeded
        )
    }

    /// Whether every hole that an update can close is closed.
    pub(super) fn current(self) -> bool {
        matches!(self, UpToDate | SwHardeningNeeded | ConfigurationNeeded | ConfigurationAndSwHardeningNeeded)
    }

    /// Intel's word.
    pub fn word(self) -> &'static str {
        match self {
            UpToDate => "UpToDate",
            SwHardeningNeeded => "SWHardeningNeeded",
            ConfigurationNeeded => "ConfigurationNeeded",
            ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            TdRelaunchAdvised => "TDRelaunchAdvised",
            TdRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            OutOfDate => "OutOfDate",
            OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Revoked => "Revoked",
            NotSupported => "NotSupported",
            Unrecognised => "Unrecognised",
        }
    }
}

impl Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_part_makes_a_current_platform_out_of_date() {
        assert_eq!(UpToDate.beside(OutOfDate), OutOfDate);
        assert_eq!(SwHardeningNeeded.beside(OutOfDate), OutOfDate);
        assert_eq!(ConfigurationNeeded.beside(OutOfDate), OutOfDateConfigurationNeeded);
        assert_eq!(ConfigurationAndSwHardeningNeeded.beside(OutOfDate), OutOfDateConfigurationNeeded);
    }

    #[test]
    fn an_old_part_changes_nothing_about_an_old_platform() {
        assert_eq!(OutOfDate.beside(OutOfDate), OutOfDate);
        assert_eq!(OutOfDateConfigurationNeeded.beside(OutOfDate), OutOfDateConfigurationNeeded);
        assert_eq!(TdRelaunchAdvised.beside(OutOfDate), TdRelaunchAdvised);
    }

    #[test]
    fn a_part_that_is_up_to_date_changes_nothing() {
        let all = [UpToDate, SwHardeningNeeded, OutOfDate, TdRelaunchAdvised, Unrecognised];
        assert_eq!(all.map(|status| status.beside(UpToDate)), all);
    }

    #[test]
    fn a_revoked_part_revokes_the_whole() {
        assert_eq!(UpToDate.beside(Revoked), Revoked);
        assert_eq!(Revoked.beside(NotSupported), Revoked);
    }

    #[test]
    fn a_part_with_a_word_that_is_unknown_makes_the_whole_unknown() {
        assert_eq!(UpToDate.beside(Unrecognised), Unrecognised);
        assert_eq!(UpToDate.beside(ConfigurationNeeded), Unrecognised);
    }

    #[test]
    fn words_that_only_arise_here_are_not_read_from_collateral() {
        let read = |word: &str| serde_json::from_value::<TcbStatus>(word.into()).expect("a status");
        assert_eq!(read("SWHardeningNeeded"), SwHardeningNeeded);
        assert_eq!(read("TDRelaunchAdvised"), Unrecognised);
        assert_eq!(read("Splendid"), Unrecognised);
    }
}
