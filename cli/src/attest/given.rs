//! Which options stood on the command line: an expectation that the kind of evidence has no use for must not be passed over
//! in silence, because the verdict would look as though it had been met.

use anyhow::bail;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// A group of options, and the names of those that were given.
pub(crate) struct Given<T> {
    /// What was given.
    pub(crate) options: T,
    names: Vec<String>,
}

impl<T> Given<T> {
    /// Refuses every option of this group.
    pub(crate) fn refuse_all(&self, kind: &str) -> anyhow::Result<()> {
        self.refuse(kind, |_| true)
    }

    /// Refuses those options of this group that are among `useless`, without their dashes.
    pub(crate) fn refuse_some(&self, kind: &str, useless: &[&str]) -> anyhow::Result<()> {
        self.refuse(kind, |name| useless.contains(&name))
    }

    fn refuse(&self, kind: &str, useless: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        match self.names.iter().find(|name| useless(name)) {
            Some(name) => bail!("--{name} has no meaning for evidence of --tee {kind}: leave it out"),
            None => Ok(()),
        }
    }
}

impl<T: Args> Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Args> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self { names: names::<T>(matches), options: T::from_arg_matches(matches)? })
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        Ok(Self { names: names::<T>(matches), options: T::from_arg_matches_mut(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.names.extend(names::<T>(matches));
        self.options.update_from_arg_matches(matches)
    }
}

/// Options of `T` that stood on the command line, in the order of their declaration.
fn names<T: Args>(matches: &ArgMatches) -> Vec<String> {
    let group = T::augment_args(Command::new("group"));
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let options = group.get_arguments().filter(|option| given(option.get_id().as_str()));
    options.filter_map(|option| option.get_long().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Args)]
    struct Two {
        #[arg(long)]
        first_one: Option<u8>,
        #[arg(long)]
        second: Vec<u8>,
    }

    fn given(arguments: &[&str]) -> Given<Two> {
        let line = ["program"].iter().chain(arguments);
        let mut matches = Given::<Two>::augment_args(Command::new("program")).get_matches_from(line);
        Given::from_arg_matches_mut(&mut matches).expect("arguments")
    }

    #[test]
    fn an_option_that_was_given_is_named_as_it_is_written() {
        let refused = given(&["--first-one", "1"]).refuse_all("snp").expect_err("an option");
        let expected = "--first-one has no meaning for evidence of --tee snp: leave it out";
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn options_that_were_not_given_are_no_hindrance() {
        assert!(given(&[]).refuse_all("snp").is_ok());
    }

    #[test]
    fn only_the_options_that_are_useless_are_refused() {
        let two = given(&["--first-one", "1", "--second", "2"]);
        assert!(two.refuse_some("tdx", &["third"]).is_ok() && two.refuse_some("tdx", &["second"]).is_err());
        assert_eq!((two.options.first_one, two.options.second), (Some(1), vec![2]));
    }
}
