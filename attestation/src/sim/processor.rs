//! The processor: keys that follow from a seed, a chain of certificates, and reports.

use std::sync::OnceLock;

use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha384};

use super::certificate::Recipe;
use super::list::revocation_list;
use crate::snp::{REPORT_BYTES, ReportBytes, SIGNED_BYTES, Tcb};
use crate::x509::{Certificate, CertificateError};

/// Length of a seed in bytes.
pub const SEED_BYTES: usize = 32;

/// Firmware that a processor has unless it is told otherwise.
pub const FIRMWARE: Tcb = Tcb { fmc: Some(3), boot_loader: 1, tee: 2, snp: 7, microcode: 71 };

const SIGNATURE_NUMBER_BYTES: usize = 72;

/// Policy of every guest: ABI 0.31 at least, SMT allowed, and bit 17, which is always one.
const POLICY: u64 = 0x0003_001f;
const DEBUG_ALLOWED: u64 = 1 << 19;

/// A processor. Whoever has one makes any report below its root.
pub struct Processor {
    ark: SigningKey,
    ask: SigningKey,
    vcek: SigningKey,
    chip: [u8; 8],
    tcb: Tcb,
    name: String,
    /// Made once: they are the same for every report.
    certificates: OnceLock<[(&'static str, Vec<u8>); 3]>,
}

/// Whether the host may read the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debug {
    /// It may not, as it should be.
    Off,
    /// It may.
    Allowed,
}

/// What the processor was told when the guest was launched. The guest has no say in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Launch digest.
    pub measurement: [u8; 48],
    /// 32 bytes of the host's choice.
    pub host_data: [u8; 32],
    /// Whether the guest may be debugged.
    pub debug: Debug,
    /// The processor's name for this launch, unlike any other's: REPORT_ID.
    pub instance: [u8; 32],
}

/// A signed report and who signed it: certificates in DER, by the names that evidence has for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// The report.
    pub report: ReportBytes,
    /// VCEK, ASK, ARK.
    pub certificates: [(&'static str, Vec<u8>); 3],
}

impl Processor {
    /// The processor that `seed` always makes, with this firmware; like a real one's, its VCEK changes with the firmware.
    pub fn new(seed: &[u8; SEED_BYTES], tcb: Tcb) -> Self {
        let mut chip = [0; 8];
        chip.iter_mut().zip(digest(seed, b"chip", 0)).for_each(|(to, from)| *to = from);
        let vcek = [b"VCEK".as_slice(), &tcb.to_bytes()].concat();
        Self {
            ark: key(seed, b"ARK"),
            ask: key(seed, b"ASK"),
            vcek: key(seed, &vcek),
            name: format!("Simulated-{}", hex::encode(chip)),
            chip,
            tcb,
            certificates: OnceLock::new(),
        }
    }

    /// Its root, which a verifier must be told of.
    ///
    /// # Errors
    /// Never: what is written here can be read.
    pub fn root(&self) -> Result<Certificate, CertificateError> {
        self.ark_recipe().certificate()
    }

    /// A report for `launch` with `report_data`, which is all that the guest chooses.
    pub fn report(&self, launch: &Launch, report_data: &[u8; 64]) -> Vouched {
        let mut report = self.unsigned(launch, report_data);
        sign_report(&mut report, &self.vcek);
        Vouched { report, certificates: self.certificates() }
    }

    /// A revocation list of its root in DER, good between two dates such as `261101000000Z`. Its intermediate has serial
    /// number 1.
    pub fn revocation_list(&self, serials: &[u8], dates: [&str; 2]) -> Vec<u8> {
        revocation_list(&self.ark_name(), &self.ark, serials, dates)
    }

    /// The same before it is signed.
    pub fn unsigned(&self, launch: &Launch, report_data: &[u8; 64]) -> ReportBytes {
        let mut report = [0; REPORT_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| write(&mut report, offset, bytes);
        let debug = if launch.debug == Debug::Allowed { DEBUG_ALLOWED } else { 0 };
        put(0x000, &5_u32.to_le_bytes());
        put(0x008, &(POLICY | debug).to_le_bytes());
        // ECDSA on P-384 with SHA-384.
        put(0x034, &1_u32.to_le_bytes());
        // SMT is on, and memory was checked for aliases.
        put(0x040, &0x21_u64.to_le_bytes());
        put(0x050, report_data);
        put(0x090, &launch.measurement);
        put(0x0c0, &launch.host_data);
        put(0x140, &launch.instance);
        // No migration agent.
        put(0x160, &[0xff; 32]);
        for offset in [0x038, 0x180, 0x1e0, 0x1f0] {
            put(offset, &self.tcb.to_bytes());
        }
        // Family 26, model 2, stepping 1: a Turin.
        put(0x188, &[0x1a, 0x02, 0x01]);
        put(0x1a0, &self.chip);
        // Firmware 1.58.40, current and committed.
        put(0x1e8, &[40, 58, 1, 0, 40, 58, 1, 0]);
        report
    }

    /// Signs a report that was made elsewhere.
    pub fn vouch(&self, mut report: ReportBytes) -> Vouched {
        sign_report(&mut report, &self.vcek);
        Vouched { report, certificates: self.certificates() }
    }

    fn certificates(&self) -> [(&'static str, Vec<u8>); 3] {
        self.certificates.get_or_init(|| self.sign_certificates()).clone()
    }

    fn sign_certificates(&self) -> [(&'static str, Vec<u8>); 3] {
        let ask = Recipe::authority(&self.ask_name(), self.ask.clone(), (&self.ark_name(), self.ark.clone()));
        let issuer = self.ask_name();
        let vcek = Recipe::vcek(self.tcb, &self.chip, self.vcek.clone(), (&issuer, self.ask.clone()));
        [("VCEK", vcek.der()), ("ASK", ask.der()), ("ARK", self.ark_recipe().der())]
    }

    fn ark_recipe(&self) -> Recipe {
        let name = self.ark_name();
        Recipe::authority(&name, self.ark.clone(), (&name, self.ark.clone()))
    }

    fn ark_name(&self) -> String {
        format!("ARK-{}", self.name)
    }

    fn ask_name(&self) -> String {
        format!("SEV-{}", self.name)
    }
}

impl Vouched {
    /// The certificates in the table that a host hands to a guest beside a report.
    pub fn table(&self) -> Vec<u8> {
        crate::snp::table::write(&self.certificates)
    }
}

/// Signs a report as the firmware does: R and S little endian, 72 bytes each.
pub fn sign_report(report: &mut ReportBytes, key: &SigningKey) {
    let (signed, _) = report.split_at(SIGNED_BYTES.min(REPORT_BYTES));
    let signature: Signature = key.sign(signed);
    let (r, s) = signature.split_bytes();
    for (offset, number) in [(SIGNED_BYTES, r), (SIGNED_BYTES + SIGNATURE_NUMBER_BYTES, s)] {
        let reversed: Vec<u8> = number.iter().rev().copied().collect();
        write(report, offset, &reversed);
    }
}

fn write(report: &mut ReportBytes, offset: usize, bytes: &[u8]) {
    report.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn digest(seed: &[u8], label: &[u8], count: u8) -> [u8; 48] {
    let mut hash = Sha384::new();
    hash.update(b"coffer simulated processor 1");
    hash.update([count]);
    hash.update(seed);
    hash.update(label);
    hash.finalize().into()
}

/// The key that `label` names. One digest in 2^190 is no scalar of the curve; then the next one is taken.
fn key(seed: &[u8; SEED_BYTES], label: &[u8]) -> SigningKey {
    let mut count = 0_u8;
    loop {
        if let Ok(key) = SigningKey::from_slice(&digest(seed, label, count)) {
            return key;
        }
        count = count.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::{Evidence, Expectations, TrustedRoots, appraise};
    use crate::time::UnixTime;
    use crate::verdict::Verdict;

    fn launch(debug: Debug) -> Launch {
        Launch { measurement: [1; 48], host_data: [2; 32], debug, instance: [4; 32] }
    }

    fn judge(vouched: &Vouched, roots: &TrustedRoots) -> crate::verdict::Appraisal {
        let [vcek, ask, ark] = &vouched.certificates;
        let read = |der: &[u8]| Certificate::from_der(der).expect("a certificate");
        let evidence = Evidence {
            report: vouched.report.to_vec(),
            vek: read(&vcek.1),
            authorities: vec![read(&ask.1), read(&ark.1)],
            revocation: Vec::new(),
        };
        let expected = Expectations { report_data: Some([3; 64]), ..Expectations::default() };
        appraise(&evidence, &expected, roots, UnixTime(1_790_000_000))
    }

    fn trusting(processor: &Processor) -> TrustedRoots {
        TrustedRoots::amd().and_simulated(processor.root().expect("a root"))
    }

    #[test]
    fn a_report_is_affirmed_by_whoever_was_told_of_the_root_and_called_simulated() {
        let processor = Processor::new(&[7; 32], FIRMWARE);
        let seen = judge(&processor.report(&launch(Debug::Off), &[3; 64]), &trusting(&processor));
        assert_eq!(seen.verdict(), Verdict::Affirming, "{:?}", seen.reasons().collect::<Vec<_>>());
        assert_eq!(seen.claims().get("simulated"), Some(&serde_json::json!(true)));
    }

    #[test]
    fn nobody_else_believes_it() {
        let processor = Processor::new(&[7; 32], FIRMWARE);
        let report = processor.report(&launch(Debug::Off), &[3; 64]);
        assert_eq!(judge(&report, &TrustedRoots::amd()).verdict(), Verdict::Invalid);
        let other = Processor::new(&[8; 32], FIRMWARE);
        assert_eq!(judge(&report, &trusting(&other)).verdict(), Verdict::Invalid);
    }

    #[test]
    fn a_guest_that_may_be_debugged_is_contraindicated() {
        let processor = Processor::new(&[7; 32], FIRMWARE);
        let seen = judge(&processor.report(&launch(Debug::Allowed), &[3; 64]), &trusting(&processor));
        assert_eq!(seen.verdict(), Verdict::Contraindicated);
    }

    #[test]
    fn other_firmware_has_another_key_below_the_same_root() {
        let old = Processor::new(&[7; 32], Tcb { microcode: 70, ..FIRMWARE });
        let new = Processor::new(&[7; 32], FIRMWARE);
        assert_eq!(old.root().expect("a root").der(), new.root().expect("a root").der());
        let report = old.report(&launch(Debug::Off), &[3; 64]);
        assert_eq!(judge(&report, &trusting(&new)).verdict(), Verdict::Affirming);
        assert_ne!(old.certificates().map(|one| one.1), new.certificates().map(|one| one.1));
    }

    #[test]
    fn everybody_who_looks_at_a_certificate_sees_that_it_is_simulated() {
        let processor = Processor::new(&[7; 32], FIRMWARE);
        let subjects = processor
            .certificates()
            .map(|(_, der)| Certificate::from_der(&der).expect("a certificate").subject());
        assert!(subjects.iter().all(|subject| subject.contains("SIMULATED")), "{subjects:?}");
    }
}
