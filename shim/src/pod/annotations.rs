//! What a pod's author may ask of its machine by annotations, when the operator allows it.

use std::collections::HashMap;

use super::error::PodError;

/// Prefix of every annotation that is ours.
const PREFIX: &str = "io.coffer.";

/// Virtual CPUs of the pod's machine.
const VCPUS: &str = "io.coffer.vcpus";

/// Memory in MiB that the pod's containers get together, in place of the sum of their limits.
const MEMORY: &str = "io.coffer.memory_mib";

/// What the guest is told at launch and its processor vouches for; read in `tee`.
const INITDATA: &str = "io.coffer.initdata";

/// The annotations, typed; bounds are the machine sizes' business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Virtual CPUs.
    pub(super) vcpus: Option<u8>,
    /// Memory in MiB.
    pub(super) memory_mib: Option<u32>,
}

impl Wishes {
    /// Reads the annotations; one that is unknown, not allowed or not understood is refused.
    pub(super) fn parse(annotations: &HashMap<String, String>, allowed: &[String]) -> Result<Self, PodError> {
        let mut wishes = Self::default();
        for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            match key.as_str() {
                VCPUS | MEMORY if !allowed.contains(key) => {
                    return Err(refused(format!(
                        "annotation {key} is not allowed on this node: the operator may add it to allowed_annotations"
                    )));
                }
                VCPUS => wishes.vcpus = Some(number(key, value)?),
                MEMORY => wishes.memory_mib = Some(number(key, value)?),
                // Measured, and of no consequence to the node.
                INITDATA => {}
                _ => {
                    return Err(refused(format!(
                        "annotation {key} is unknown; {VCPUS}, {MEMORY} and {INITDATA} are known"
                    )));
                }
            }
        }
        Ok(wishes)
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, PodError> {
    value
        .parse()
        .map_err(|_| refused(format!("annotation {key} is {value:?}, which is not a number in its range")))
}

fn refused(what: String) -> PodError {
    PodError::Refused { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str, allowed: &[&str]) -> Result<Wishes, PodError> {
        let allowed: Vec<String> = allowed.iter().map(|key| (*key).to_owned()).collect();
        Wishes::parse(&HashMap::from([(key.to_owned(), value.to_owned())]), &allowed)
    }

    #[test]
    fn an_allowed_annotation_is_taken() {
        assert_eq!(parse(VCPUS, "3", &[VCPUS]).unwrap().vcpus, Some(3));
    }

    #[test]
    fn an_annotation_that_the_operator_did_not_allow_is_refused() {
        assert!(parse(MEMORY, "3", &[VCPUS]).unwrap_err().to_string().contains("not allowed"));
    }

    #[test]
    fn an_unknown_annotation_of_ours_is_refused() {
        assert!(parse("io.coffer.kernel_params", "x", &["io.coffer.kernel_params"]).is_err());
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        assert!(parse(VCPUS, "256", &[VCPUS]).is_err());
    }

    #[test]
    fn a_flag_smuggled_behind_a_number_is_refused() {
        assert!(parse(MEMORY, "512 -device x", &[MEMORY]).is_err());
    }

    #[test]
    fn annotations_of_others_are_not_our_business() {
        assert_eq!(parse("example.org/x", "y", &[]).unwrap(), Wishes::default());
    }
}
