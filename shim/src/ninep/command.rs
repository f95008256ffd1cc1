//! The command line `share`: what the shim starts as a file server.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use coffer_vmm::inherited::{InheritError, Inherited};

use super::jail::{self, Inside, JailError, Terms};
use super::serve::{ServeError, serve};
use super::session::Session;
use super::tree::Tree;

/// Descriptors that a handle of the guest's may need: itself, its directory, and what is open.
const FILES_PER_FID: u64 = 3;

/// Descriptors of the server's own.
const OWN_FILES: u64 = 32;

/// The most handles of a guest.
const MAX_FIDS: u64 = 16 << 10;

/// The word by which the shim starts itself as this process.
pub(crate) const WORD: &str = "share";

/// Why the server did not start, or ended before its stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// The command line.
    #[error("usage: share --root-fd N --stream-fd N [--read-only] [--recursive]; {word:?} does not fit")]
    Usage {
        /// What does not fit.
        word: OsString,
    },
    /// A descriptor.
    #[error("a descriptor was not passed on")]
    Descriptor {
        /// Which, and why.
        source: InheritError,
    },
    /// The jail.
    #[error("the file server is not locked in")]
    Jail {
        /// Which step failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is shared.
    #[error("what is shared is neither a directory nor a regular file")]
    Kind {
        /// The system's answer.
        source: std::io::Error,
    },
    /// The session.
    #[error("the file server ended")]
    Serve {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Runs the server until its stream ends; `args` are those after `share`. Call it before anything opens a descriptor
/// or starts a thread.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), ShareError> {
    let given = parse(args)?;
    let mut inherited = Inherited::default();
    let mut take = |number| inherited.take(number).map_err(|source| ShareError::Descriptor { source });
    let (root, stream) = (take(given.root)?, UnixStream::from(take(given.stream)?));
    stream.set_nonblocking(false).map_err(|error| served(ServeError::Stream { source: error }))?;
    let Inside { root, descriptors, most_files } = jail::enter(root, given.terms).map_err(jailed)?;
    let tree = Tree::new(root, descriptors, given.terms.read_only)
        .map_err(|error| ShareError::Kind { source: error.into() })?;
    let fids = (most_files.saturating_sub(OWN_FILES) / FILES_PER_FID).min(MAX_FIDS);
    let session = Session::new(tree, usize::try_from(fids).unwrap_or_default());
    jail::lock().map_err(jailed)?;
    serve(session, stream).map_err(served)
}

fn jailed(error: JailError) -> ShareError {
    ShareError::Jail { source: Box::new(error) }
}

fn served(error: ServeError) -> ShareError {
    ShareError::Serve { source: Box::new(error) }
}

#[derive(Debug, Clone, Copy)]
struct Given {
    root: RawFd,
    stream: RawFd,
    terms: Terms,
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Given, ShareError> {
    let mut args = args.into_iter();
    let (mut root, mut stream) = (None, None);
    let mut terms = Terms { read_only: false, recursive: false };
    while let Some(word) = args.next() {
        let mut number = || args.next().and_then(|value| value.to_str()?.parse::<RawFd>().ok());
        let taken = match word.to_str() {
            Some("--root-fd") => {
                root = number();
                root.is_some()
            }
            Some("--stream-fd") => {
                stream = number();
                stream.is_some()
            }
            Some("--read-only") => {
                terms.read_only = true;
                true
            }
            Some("--recursive") => {
                terms.recursive = true;
                true
            }
            _ => false,
        };
        if !taken {
            return Err(ShareError::Usage { word });
        }
    }
    match (root, stream) {
        (Some(root), Some(stream)) => Ok(Given { root, stream, terms }),
        (None, _) => Err(ShareError::Usage { word: OsString::from("--root-fd") }),
        (_, None) => Err(ShareError::Usage { word: OsString::from("--stream-fd") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Given, ShareError> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn a_command_line_is_read() {
        let given = parsed("--root-fd 3 --stream-fd 4 --read-only").unwrap();
        assert_eq!(
            (given.root, given.stream, given.terms.read_only, given.terms.recursive),
            (3, 4, true, false)
        );
    }

    #[test]
    fn a_command_line_without_a_stream_is_refused() {
        assert!(matches!(parsed("--root-fd 3"), Err(ShareError::Usage { word }) if word == "--stream-fd"));
    }

    #[test]
    fn a_descriptor_that_is_no_number_is_refused() {
        assert!(matches!(parsed("--root-fd x --stream-fd 4"), Err(ShareError::Usage { .. })));
    }

    #[test]
    fn an_unknown_word_is_refused() {
        assert!(matches!(parsed("--root-fd 3 --stream-fd 4 --writable"), Err(ShareError::Usage { .. })));
    }
}
