//! What a stdio path means: a fifo, a log file, or a program that logs.

use std::path::PathBuf;

/// Where a descriptor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Nowhere.
    Nothing,
    /// A fifo that containerd or its client made.
    Fifo(PathBuf),
    /// A file that output is appended to.
    File(PathBuf),
    /// A program that gets the output on descriptors 3 and 4.
    Logger {
        /// The program.
        program: PathBuf,
        /// Its arguments: the query's keys and values.
        args: Vec<String>,
    },
}

/// A path of a kind that is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("stdio path {uri:?} is not understood: a path, fifo://, file:// and binary:// are")]
pub(crate) struct UnknownScheme {
    /// As given.
    uri: String,
}

/// Parses what containerd gave.
pub(super) fn parse(uri: &str) -> Result<Target, UnknownScheme> {
    if uri.is_empty() {
        return Ok(Target::Nothing);
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(Target::Fifo(PathBuf::from(uri)));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(decode(path));
    match scheme {
        "fifo" => Ok(Target::Fifo(path)),
        "file" => Ok(Target::File(path)),
        "binary" => Ok(Target::Logger { program: path, args: arguments(query) }),
        _ => Err(UnknownScheme { uri: uri.to_owned() }),
    }
}

/// `a=b&c` becomes the words a, b, c, as containerd's own shim does it.
fn arguments(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .flat_map(|pair| match pair.split_once('=') {
            Some((key, "")) => vec![decode(key)],
            Some((key, value)) => vec![decode(key), decode(value)],
            None => vec![decode(pair)],
        })
        .collect()
}

/// Undoes percent encoding; a percent sign that encodes nothing stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (other, _) => {
                bytes.push(*other);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_path_is_a_fifo() {
        assert_eq!(parse("/run/f"), Ok(Target::Fifo(PathBuf::from("/run/f"))));
    }

    #[test]
    fn an_empty_path_goes_nowhere() {
        assert_eq!(parse(""), Ok(Target::Nothing));
    }

    #[test]
    fn a_logger_gets_keys_and_values_as_words() {
        let target = parse("binary:///usr/bin/log?dir=%2Fvar%2Flog&v");
        let args = vec!["dir".to_owned(), "/var/log".to_owned(), "v".to_owned()];
        assert_eq!(target, Ok(Target::Logger { program: PathBuf::from("/usr/bin/log"), args }));
    }

    #[test]
    fn a_file_is_appended_to() {
        assert_eq!(parse("file:///var/log/c"), Ok(Target::File(PathBuf::from("/var/log/c"))));
    }

    #[test]
    fn an_unknown_scheme_is_refused() {
        assert!(parse("tcp://1.2.3.4").is_err());
    }

    #[test]
    fn a_lone_percent_sign_stays() {
        assert_eq!(decode("100%"), "100%");
    }
}
