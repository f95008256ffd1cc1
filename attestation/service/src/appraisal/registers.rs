//! Registers that a guest's software is measured into where the launch measurement is that of firmware or of a paravisor alone:
//! RTMR0 to RTMR3 of TDX, and the PCRs of Azure's virtual TPM.

use std::collections::BTreeMap;

use coffer_attestation::handshake::Tee;
use coffer_attestation::verdict::Claims;
use serde_json::Value;

/// Values by name, as `rtmr1` or `pcr04`, in lower-case hexadecimal.
pub(super) type Registers = BTreeMap<String, String>;

/// RTMR0 is what the machine and its firmware are set to, RTMR1 the kernel, RTMR2 command line and initrd.
const DOMAIN: &[&str] = &["rtmr0", "rtmr1", "rtmr2"];
/// What the firmware starts, and what that says of kernel, initrd and command line (UEFI PC client profile, section 3.3.4, and
/// the Linux EFI stub's and systemd-stub's use of 9, 11 and 12).
const VIRTUAL_TPM: &[&str] = &["pcr04", "pcr09", "pcr11", "pcr12"];

/// Those without which a measurement says nothing of the guest's kernel.
pub(super) fn required(tee: Tee) -> &'static [&'static str] {
    match tee {
        Tee::Tdx => DOMAIN,
        Tee::AzSnpVtpm => VIRTUAL_TPM,
        // The launch digest covers firmware, kernel, initrd and command line.
        Tee::Snp | Tee::Sample => &[],
    }
}

/// How many bytes a register has; `None` for a name that is none of this kind of evidence.
pub(super) fn length(tee: &str, name: &str) -> Option<usize> {
    let number = |prefix| name.strip_prefix(prefix).and_then(|number: &str| number.parse::<u8>().ok());
    match tee {
        "tdx" if number("rtmr").is_some_and(|number| number < 4 && name.len() == 5) => Some(48),
        "az-snp-vtpm" if number("pcr").is_some_and(|number| number < 24 && name.len() == 5) => Some(32),
        _ => None,
    }
}

/// Those that verified evidence shows.
pub(super) fn seen(tee: Tee, claims: &Claims) -> Registers {
    let at = |outer: &str, inner: &str| claims.get(outer).and_then(|value| value.get(inner));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match tee {
        Tee::Tdx => {
            let values = at("report", "rtmr").and_then(Value::as_array).into_iter().flatten();
            values
                .enumerate()
                .filter_map(|(number, value)| Some((format!("rtmr{number}"), text(value)?)))
                .collect()
        }
        Tee::AzSnpVtpm => {
            let values = at("vtpm", "pcrs").and_then(Value::as_object).into_iter().flatten();
            values.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
        }
        Tee::Snp | Tee::Sample => Registers::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_has_the_name_and_the_length_that_its_kind_gives_it() {
        assert_eq!(length("tdx", "rtmr3"), Some(48));
        assert_eq!(length("az-snp-vtpm", "pcr23"), Some(32));
        for (tee, name) in [
            ("tdx", "rtmr4"),
            ("tdx", "rtmr+1"),
            ("tdx", "pcr04"),
            ("az-snp-vtpm", "pcr24"),
            ("az-snp-vtpm", "pcr4"),
            ("snp", "rtmr0"),
        ] {
            assert_eq!(length(tee, name), None, "{tee} {name}");
        }
    }

    #[test]
    fn every_register_that_is_required_is_one_of_its_kind() {
        for tee in [Tee::Tdx, Tee::AzSnpVtpm] {
            assert!(required(tee).iter().all(|name| length(tee.name(), name).is_some()));
        }
    }
}
