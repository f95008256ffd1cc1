//! Command lines of pairs, `--name value`: what a process of the machine is started with.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// Why a command line is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The last name has no value.
    #[error("{name} lacks its value")]
    Lacking {
        /// The name.
        name: String,
    },
    /// A name that is given once at most was given again.
    #[error("{name} is given twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A name that must be given is not.
    #[error("{name} is missing")]
    Missing {
        /// The name.
        name: String,
    },
    /// A value is none of its kind.
    #[error("{name} {value:?} is not understood: {reason}")]
    Value {
        /// The name.
        name: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody asked for this name.
    #[error("{name} is not known here")]
    Unknown {
        /// The name.
        name: String,
    },
}

/// The pairs that nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Options(BTreeMap<String, Vec<String>>);

impl Options {
    /// Takes the words apart into pairs.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, OptionError> {
        let mut options: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(name) = words.next() {
            let Some(value) = words.next() else { return Err(OptionError::Lacking { name }) };
            options.entry(name).or_default().push(value);
        }
        Ok(Options(options))
    }

    /// The value of `name`, which must be there once.
    pub fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<T, OptionError> {
        self.take_if(name)?.ok_or_else(|| OptionError::Missing { name: name.to_owned() })
    }

    /// The value of `name`, if it is there, once.
    pub fn take_if<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, OptionError> {
        let mut values = self.take_all(name)?;
        match (values.pop(), values.is_empty()) {
            (value, true) => Ok(value),
            (_, false) => Err(OptionError::Twice { name: name.to_owned() }),
        }
    }

    /// Every value of `name`, in their order.
    pub fn take_all<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Vec<T>, OptionError> {
        let values = self.0.remove(name).unwrap_or_default().into_iter();
        let parse = |value: String| {
            value.parse().map_err(|reason: T::Err| OptionError::Value {
                name: name.to_owned(),
                value,
                reason: reason.to_string(),
            })
        };
        values.map(parse).collect()
    }

    /// Refuses what nobody has asked for.
    pub fn finish(self) -> Result<(), OptionError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(OptionError::Unknown { name }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Options {
        Options::parse(words.iter().map(|word| (*word).to_owned())).unwrap()
    }

    #[test]
    fn a_repeated_name_gives_its_values_in_order() {
        assert_eq!(options(&["--d", "1", "--d", "2"]).take_all("--d"), Ok(vec![1, 2]));
    }

    #[test]
    fn a_name_that_is_taken_once_is_refused_twice() {
        let error = options(&["--d", "1", "--d", "2"]).take::<u8>("--d").unwrap_err();
        assert_eq!(error.to_string(), "--d is given twice");
    }

    #[test]
    fn a_value_of_another_kind_is_named() {
        let error = options(&["--d", "x"]).take::<u8>("--d").unwrap_err();
        assert_eq!(error.to_string(), "--d \"x\" is not understood: invalid digit found in string");
    }

    #[test]
    fn what_nobody_asks_for_is_refused() {
        assert_eq!(options(&["--x", "1"]).finish(), Err(OptionError::Unknown { name: "--x".to_owned() }));
    }

    #[test]
    fn a_name_without_value_is_refused() {
        let words = ["--x".to_owned()].into_iter();
        assert_eq!(Options::parse(words).unwrap_err(), OptionError::Lacking { name: "--x".to_owned() });
    }
}
