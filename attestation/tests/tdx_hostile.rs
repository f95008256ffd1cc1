//! Bytes that nobody made with good intentions: no parser may panic, and what it accepts stays within its bounds.

mod damage;

use coffer_attestation::tdx::{
    CcelTable, EventLog, Evidence, Expectations, Platform, QeIdentity, TcbInfo, TrustedRoots,
    UnverifiedCollateral, UnverifiedQuote, appraise, coco,
};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Verdict;
use damage::{Damage, damaged};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_ne, proptest};

const QUOTE: &[u8] = include_bytes!("../testdata/tdx/quote5-tdx15/quote.bin");
const COLLATERAL: &[u8] = include_bytes!("../testdata/tdx/quote4-uptodate-phala/collateral.json");
const LOG: &[u8] = include_bytes!("../testdata/tdx/misc/ccel-aael-alibaba.bin");
const TABLE: &[u8] = include_bytes!("../testdata/tdx/quote4-gcp-cos113/ccel_table.dat");

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in vec(any::<u8>(), 0..2048)) {
        let _ = UnverifiedQuote::parse(&bytes);
        let _ = EventLog::parse(&bytes);
        let _ = UnverifiedCollateral::parse(&bytes);
        let _ = TcbInfo::parse(&bytes);
        let _ = QeIdentity::parse(&bytes);
        let _ = Platform::parse(&bytes);
        let _ = CcelTable::parse(&bytes);
        let _ = coco::parse(&bytes);
    }

    #[test]
    fn a_damaged_quote_is_parsed_or_refused(damage: Damage) {
        let bytes = damaged(QUOTE, damage);
        if let Ok(quote) = UnverifiedQuote::parse(&bytes) {
            prop_assert!(bytes.starts_with(&quote.signed));
            prop_assert!(quote.certificates.len() < bytes.len());
        }
    }

    #[test]
    fn a_damaged_event_log_is_parsed_or_refused(damage: Damage) {
        let bytes = damaged(LOG, damage);
        if let Ok(log) = EventLog::parse(&bytes) {
            prop_assert!(log.used <= bytes.len());
            prop_assert!(log.events.iter().map(|event| event.data.len()).sum::<usize>() < bytes.len());
            let _ = log.replay();
        }
    }

    #[test]
    fn a_damaged_table_is_parsed_or_refused(damage: Damage) {
        let _ = CcelTable::parse(&damaged(TABLE, damage));
    }

    #[test]
    fn damaged_evidence_is_judged_without_harm(quote: Damage, collateral: Damage, log: Damage) {
        let (quote, collateral, log) =
            (damaged(QUOTE, quote), damaged(COLLATERAL, collateral), damaged(LOG, log));
        let evidence = Evidence { quote: &quote, collateral: Some(&collateral), event_log: Some(&log) };
        let at = UnixTime(1_750_330_800);
        let appraisal = appraise(&evidence, &Expectations::default(), &TrustedRoots::intel(), at);
        prop_assert_ne!(appraisal.verdict(), Verdict::Affirming);
    }
}
