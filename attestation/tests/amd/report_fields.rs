//! One byte of a real report is changed and the report is not signed anew. Each case must name the signature, except where
//! the byte lies behind it, and every check that looks at the field.

use super::case::{Case, NOW, VECTORS, Vector, judge};

/// How a byte is changed.
#[derive(Clone, Copy)]
enum Change {
    Flip(u8),
    Set(u8),
}

use Change::{Flip, Set};

/// A field, the byte that is changed, and what is said of it besides the signature. Where evidence of one kind is told from
/// another's, `but` says how.
struct Row {
    field: &'static str,
    offset: usize,
    change: Change,
    says: &'static [&'static str],
    but: &'static [(&'static str, &'static [&'static str])],
}

const fn row(field: &'static str, offset: usize, change: Change, says: &'static [&'static str]) -> Row {
    Row { field, offset, change, says, but: &[] }
}

const fn but(row: Row, but: &'static [(&'static str, &'static [&'static str])]) -> Row {
    Row { but, ..row }
}

const FORMAT: &[&str] = &["report-format"];
const RESERVED: &[&str] = &["reserved-fields"];
const BEHIND: &[&str] = &["committed-tcb", "provisional-firmware"];
const PROVISIONAL: &[&str] = &["provisional-firmware"];
const FALLEN: &[&str] = &["committed-tcb", "reported-tcb", "provisional-firmware", "launch-tcb"];
const RAISED_BL: &[&str] = &["tcb-boot-loader", "reported-tcb", "provisional-firmware", "launch-tcb"];
const RAISED_TEE: &[&str] = &["tcb-tee", "reported-tcb", "provisional-firmware", "launch-tcb"];
const RAISED_SNP: &[&str] = &["tcb-snp", "reported-tcb", "provisional-firmware", "launch-tcb"];
const RAISED_FMC: &[&str] = &["tcb-fmc", "reported-tcb", "provisional-firmware", "launch-tcb"];
const RAISED_UCODE: &[&str] = &["tcb-microcode", "reported-tcb", "provisional-firmware", "launch-tcb"];

const ROWS: &[Row] = &[
    row("version", 0x000, Flip(0x08), FORMAT),
    row("version, highest byte", 0x003, Flip(1), FORMAT),
    row("guest_svn", 0x004, Flip(1), &[]),
    row("guest_svn, highest byte", 0x007, Flip(0x80), &[]),
    row("policy, abi minor", 0x008, Flip(0x80), &[]),
    row("policy, abi major", 0x009, Flip(0x02), &["abi-version"]),
    row("policy, smt", 0x00a, Flip(0x01), &["smt"]),
    row("policy, the bit that is one", 0x00a, Flip(0x02), &["policy-bits"]),
    row("policy, migration agent", 0x00a, Flip(0x04), &["migration-agent"]),
    row("policy, debug", 0x00a, Flip(0x08), &["debug"]),
    row("policy, single socket", 0x00a, Flip(0x10), &[]),
    row("policy, cxl", 0x00a, Flip(0x20), &[]),
    row("policy, aes-256-xts", 0x00a, Flip(0x40), &[]),
    row("policy, rapl", 0x00a, Flip(0x80), &["rapl"]),
    row("policy, ciphertext hiding", 0x00b, Flip(0x01), &["ciphertext-hiding"]),
    row("policy, page swap", 0x00b, Flip(0x02), &[]),
    row("policy, bit 26", 0x00b, Flip(0x04), &["policy-bits"]),
    row("policy, bit 63", 0x00f, Flip(0x80), &["policy-bits"]),
    row("family_id", 0x010, Flip(2), &["family-id"]),
    row("family_id, last byte", 0x01f, Flip(1), &["family-id"]),
    row("image_id", 0x020, Flip(4), &["image-id"]),
    row("image_id, last byte", 0x02f, Flip(1), &["image-id"]),
    row("vmpl 1", 0x030, Flip(1), &["vmpl"]),
    row("vmpl 4", 0x030, Flip(4), FORMAT),
    row("vmpl, highest byte", 0x033, Flip(1), FORMAT),
    row("signature_algo 0", 0x034, Flip(1), FORMAT),
    row("signature_algo 3", 0x034, Flip(2), FORMAT),
    row("current_tcb, first byte raised", 0x038, Set(255), PROVISIONAL),
    but(row("current_tcb, byte 2", 0x03a, Set(255), RESERVED), &[("turin-v5", PROVISIONAL)]),
    row("current_tcb, byte 4", 0x03c, Set(255), RESERVED),
    but(row("current_tcb, byte 6", 0x03e, Set(255), PROVISIONAL), &[("turin-v5", RESERVED)]),
    row("current_tcb, microcode raised", 0x03f, Set(255), PROVISIONAL),
    row("current_tcb, microcode lowered", 0x03f, Set(0), FALLEN),
    row("platform_info, smt", 0x040, Flip(0x01), &[]),
    row("platform_info, tsme", 0x040, Flip(0x02), &[]),
    row("platform_info, ecc", 0x040, Flip(0x04), &[]),
    row("platform_info, rapl", 0x040, Flip(0x08), &[]),
    row("platform_info, ciphertext hiding", 0x040, Flip(0x10), &[]),
    but(row("platform_info, alias check", 0x040, Flip(0x20), &["memory-aliases"]), &[("milan-v2", &[])]),
    row("platform_info, highest byte", 0x047, Flip(0x80), &[]),
    row("key_info, author key", 0x048, Flip(0x01), &["author-key"]),
    row("key_info, chip key masked", 0x048, Flip(0x02), &["chip-key"]),
    row("key_info, vlek", 0x048, Flip(0x04), &["signing-key"]),
    row("key_info, key 2", 0x048, Flip(0x08), FORMAT),
    row("key_info, no key", 0x048, Flip(0x1c), FORMAT),
    row("key_info, bit 5", 0x048, Flip(0x20), RESERVED),
    row("key_info, bit 31", 0x04b, Flip(0x80), RESERVED),
    row("0x04c", 0x04c, Flip(1), RESERVED),
    row("report_data", 0x050, Flip(1), &["report-data"]),
    row("report_data, last byte", 0x08f, Flip(1), &["report-data"]),
    row("measurement", 0x090, Flip(1), &["measurement"]),
    row("measurement, last byte", 0x0bf, Flip(1), &["measurement"]),
    row("host_data", 0x0c0, Flip(1), &["host-data"]),
    row("host_data, last byte", 0x0df, Flip(1), &["host-data"]),
    row("id_key_digest", 0x0e0, Flip(1), &["id-key-digest"]),
    row("id_key_digest, last byte", 0x10f, Flip(1), &["id-key-digest"]),
    row("author_key_digest", 0x110, Flip(1), &["author-key-digest", "author-key"]),
    row("author_key_digest, last byte", 0x13f, Flip(1), &["author-key-digest", "author-key"]),
    row("report_id", 0x140, Flip(1), &[]),
    row("report_id, last byte", 0x15f, Flip(1), &[]),
    row("report_id_ma", 0x160, Flip(1), &["migration-agent-id"]),
    row("report_id_ma, last byte", 0x17f, Flip(1), &["migration-agent-id"]),
    but(row("reported_tcb, first byte raised", 0x180, Set(255), RAISED_BL), &[("turin-v5", RAISED_FMC)]),
    but(row("reported_tcb, second byte raised", 0x181, Set(255), RAISED_TEE), &[("turin-v5", RAISED_BL)]),
    but(row("reported_tcb, byte 2", 0x182, Set(255), RESERVED), &[("turin-v5", RAISED_TEE)]),
    but(row("reported_tcb, byte 3", 0x183, Set(255), RESERVED), &[("turin-v5", RAISED_SNP)]),
    row("reported_tcb, byte 5", 0x185, Set(255), RESERVED),
    but(row("reported_tcb, byte 6 raised", 0x186, Set(255), RAISED_SNP), &[("turin-v5", RESERVED)]),
    row("reported_tcb, microcode raised", 0x187, Set(255), RAISED_UCODE),
    row("reported_tcb, microcode lowered", 0x187, Set(0), &["tcb-microcode", "minimum-tcb"]),
    but(row("cpuid, family", 0x188, Flip(0x10), FORMAT), &[("milan-v2", RESERVED)]),
    but(
        row("cpuid, model", 0x189, Flip(0x10), FORMAT),
        &[("milan-v2", RESERVED), ("milan-v3", &["generation"]), ("turin-v5", &[])],
    ),
    but(row("cpuid, stepping", 0x18a, Flip(1), &[]), &[("milan-v2", RESERVED)]),
    row("0x18b", 0x18b, Flip(1), RESERVED),
    row("0x19f", 0x19f, Flip(0x80), RESERVED),
    row("chip_id", 0x1a0, Flip(1), &["chip-id"]),
    row("chip_id, byte 8", 0x1a8, Flip(1), &["chip-id"]),
    row("chip_id, last byte", 0x1df, Flip(1), &["chip-id"]),
    row("committed_tcb, first byte raised", 0x1e0, Set(255), BEHIND),
    row("committed_tcb, byte 4", 0x1e4, Set(255), RESERVED),
    row("committed_tcb, microcode raised", 0x1e7, Set(255), BEHIND),
    row("committed_tcb, microcode lowered", 0x1e7, Set(0), PROVISIONAL),
    row("current build lowered", 0x1e8, Set(0), BEHIND),
    row("current minor raised", 0x1e9, Set(255), PROVISIONAL),
    row("current minor lowered", 0x1e9, Set(0), BEHIND),
    row("current major lowered", 0x1ea, Set(0), BEHIND),
    row("0x1eb", 0x1eb, Flip(1), RESERVED),
    row("committed build raised", 0x1ec, Set(255), BEHIND),
    row("committed minor lowered", 0x1ed, Set(0), PROVISIONAL),
    row("committed major raised", 0x1ee, Set(255), BEHIND),
    row("0x1ef", 0x1ef, Flip(1), RESERVED),
    row("launch_tcb, first byte raised", 0x1f0, Set(255), &["launch-tcb"]),
    row("launch_tcb, byte 5", 0x1f5, Set(255), RESERVED),
    row("launch_tcb, microcode lowered", 0x1f7, Set(0), &["launch-tcb", "minimum-launch-tcb"]),
    but(row("launch_mitigations", 0x1f8, Flip(1), RESERVED), &[("turin-v5", &[])]),
    but(row("current_mitigations", 0x200, Flip(1), RESERVED), &[("turin-v5", &[])]),
    row("0x208", 0x208, Flip(1), RESERVED),
    row("0x29f", 0x29f, Flip(0x80), RESERVED),
    row("R, lowest bit", 0x2a0, Flip(1), &[]),
    row("R, highest bit", 0x2cf, Flip(0x80), &[]),
    row("R, bit 384", 0x2d0, Flip(1), &[]),
    row("R, bit 575", 0x2e7, Flip(0x80), &[]),
    row("S, lowest bit", 0x2e8, Flip(1), &[]),
    row("S, highest bit", 0x317, Flip(0x80), &[]),
    row("S, bit 384", 0x318, Flip(1), &[]),
    row("S, bit 575", 0x32f, Flip(0x80), &[]),
    row("behind the signature", 0x330, Flip(1), RESERVED),
    row("the last byte", 0x49f, Flip(0x80), RESERVED),
];

/// Each change of each report.
pub(crate) fn cases() -> Vec<Case> {
    VECTORS.iter().flat_map(|vector| ROWS.iter().map(|row| case(vector, row))).chain(lengths()).collect()
}

fn case(vector: &Vector, row: &Row) -> Case {
    let mut evidence = vector.evidence();
    let byte = &mut evidence.report[row.offset];
    let before = *byte;
    *byte = match row.change {
        Flip(bits) => before ^ bits,
        Set(value) => value,
    };
    assert_ne!(*byte, before, "{} of {} is no change", row.field, vector.name);
    let says = row.but.iter().find(|(kind, _)| *kind == vector.name).map_or(row.says, |(_, says)| says);
    let signature: &[&str] = if row.offset < 0x330 { &["report-signature"] } else { &[] };
    Case {
        name: format!("{}: {}", vector.name, row.field),
        seen: judge(&evidence, &vector.expectations(), NOW),
        expected: vector.reasons(&[signature, says].concat()),
    }
}

/// Another length: nothing of such a report is looked at, neither padded nor cut.
fn lengths() -> impl Iterator<Item = Case> {
    let each = |vector: Vector| {
        [0, 1, 0x2a0, 1183, 1185, 1200, 2368].into_iter().map(move |length| {
            let mut evidence = vector.evidence();
            evidence.report.resize(length, 0);
            Case {
                name: format!("{}: {length} bytes", vector.name),
                seen: judge(&evidence, &vector.expectations(), NOW),
                expected: vector.reasons(FORMAT),
            }
        })
    };
    VECTORS.into_iter().flat_map(each)
}
