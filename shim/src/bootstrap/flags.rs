//! The flags that containerd passes: Go's `flag` package, one or two dashes, value after `=` or as the next word.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Print the version.
    Version,
    /// Print `RuntimeInfo`.
    Info,
    /// Start, or find, the shim of a container.
    Start,
    /// Clean up after a shim that died.
    Delete,
    /// Be the shim: the child of `start`, with the listening socket as its standard input.
    Serve,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flags {
    /// What to do.
    pub(crate) action: Action,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// Container id; for [`Action::Serve`] the pod's id.
    pub(crate) id: String,
    /// containerd's gRPC address.
    pub(crate) address: String,
    /// Bundle directory; the working directory when it is absent.
    pub(crate) bundle: Option<PathBuf>,
    /// Whether to log debug events.
    pub(crate) debug: bool,
}

/// Why a command line was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagsError {
    /// A word that is not UTF-8.
    #[error("argument {word:?} is not UTF-8")]
    NotText {
        /// The word, lossily.
        word: String,
    },
    /// A flag without its value.
    #[error("flag -{flag} needs a value")]
    NoValue {
        /// The flag.
        flag: String,
    },
    /// A flag that the runtime v2 contract does not have.
    #[error("flag -{flag} is unknown")]
    Unknown {
        /// The flag.
        flag: String,
    },
    /// A word that is none of `start` and `delete`.
    #[error("action {action:?} is unknown: start and delete are the actions")]
    UnknownAction {
        /// The word.
        action: String,
    },
    /// A namespace or id that cannot name a directory.
    #[error("{value:?} cannot be a {what}: letters, digits, '.', '_' and '-' are allowed, 1 to 128 of them")]
    BadName {
        /// Which one.
        what: &'static str,
        /// What was given.
        value: String,
    },
}

impl Flags {
    /// Parses the words after the program's name.
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, FlagsError> {
        let mut flags = Flags {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            debug: false,
        };
        let mut words = args.map(|word| {
            word.into_string().map_err(|word| FlagsError::NotText { word: word.to_string_lossy().into() })
        });
        while let Some(word) = words.next() {
            let word = word?;
            match word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
                Some(flag) => flags.set(flag, &mut words)?,
                None => flags.act(&word)?,
            }
        }
        flags.checked()
    }

    fn set(
        &mut self,
        flag: &str,
        words: &mut impl Iterator<Item = Result<String, FlagsError>>,
    ) -> Result<(), FlagsError> {
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "v" | "version" => self.action = Action::Version,
            "info" => self.action = Action::Info,
            "debug" => self.debug = inline.as_deref() != Some("false"),
            "namespace" | "id" | "address" | "bundle" | "publish-binary" | "socket" => {
                let value = match inline {
                    Some(value) => value,
                    None => {
                        words.next().unwrap_or_else(|| Err(FlagsError::NoValue { flag: name.to_owned() }))?
                    }
                };
                self.set_value(name, value);
            }
            unknown => return Err(FlagsError::Unknown { flag: unknown.to_owned() }),
        }
        Ok(())
    }

    fn set_value(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = (!value.is_empty()).then(|| PathBuf::from(value)),
            // The events go over ttrpc, and the socket comes as a descriptor: neither flag is of use.
            _ => {}
        }
    }

    fn act(&mut self, word: &str) -> Result<(), FlagsError> {
        self.action = match word {
            "start" => Action::Start,
            "delete" => Action::Delete,
            unknown => return Err(FlagsError::UnknownAction { action: unknown.to_owned() }),
        };
        Ok(())
    }

    fn checked(self) -> Result<Self, FlagsError> {
        if matches!(self.action, Action::Start | Action::Delete | Action::Serve) {
            check_name("namespace", &self.namespace)?;
            check_name("container id", &self.id)?;
        }
        Ok(self)
    }
}

/// Refuses a name that could leave the directory it names.
fn check_name(what: &'static str, value: &str) -> Result<(), FlagsError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = (1..=128).contains(&value.len()) && !value.starts_with('.') && value.bytes().all(allowed);
    if good { Ok(()) } else { Err(FlagsError::BadName { what, value: value.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Flags, FlagsError> {
        Flags::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_start_call_of_containerd_1_6_is_understood() {
        let flags = parse(&[
            "-namespace",
            "k8s.io",
            "-address",
            "/run/c.sock",
            "-publish-binary",
            "/x",
            "-id",
            "a",
            "start",
        ]);
        assert_eq!(
            flags,
            Ok(Flags {
                action: Action::Start,
                namespace: "k8s.io".to_owned(),
                id: "a".to_owned(),
                address: "/run/c.sock".to_owned(),
                bundle: None,
                debug: false,
            })
        );
    }

    #[test]
    fn a_value_may_follow_an_equals_sign() {
        let flags = parse(&["--namespace=n", "-id=a", "-bundle=/b", "-debug", "delete"]).unwrap();
        assert_eq!(flags.bundle, Some(PathBuf::from("/b")));
        assert!(flags.debug);
    }

    #[test]
    fn no_action_word_means_the_daemon() {
        assert_eq!(parse(&["-namespace", "n", "-id", "a"]).unwrap().action, Action::Serve);
    }

    #[test]
    fn info_needs_no_id() {
        assert_eq!(parse(&["-info"]).unwrap().action, Action::Info);
    }

    #[test]
    fn an_id_that_climbs_out_of_its_directory_is_refused() {
        assert!(matches!(
            parse(&["-namespace", "n", "-id", "../x", "start"]),
            Err(FlagsError::BadName { .. })
        ));
    }

    #[test]
    fn a_missing_value_is_refused() {
        assert_eq!(parse(&["-id"]), Err(FlagsError::NoValue { flag: "id".to_owned() }));
    }

    #[test]
    fn an_unknown_action_is_refused() {
        assert!(matches!(
            parse(&["-namespace", "n", "-id", "a", "stop"]),
            Err(FlagsError::UnknownAction { .. })
        ));
    }
}
