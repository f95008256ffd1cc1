//! Kinds of signatures by what can be wrong with them: each cell is a case of this matrix, or why there can be none.

use crate::cases;
use crate::gpg;
use crate::world::{Case, World};

/// What can be right or wrong, and whether an image is admitted then.
const COLUMNS: [(&str, bool); 16] = [
    ("good", true),
    ("wrong key", false),
    ("wrong digest", false),
    ("wrong identity", false),
    ("expired", false),
    ("not yet valid", false),
    ("revoked", false),
    ("missing proof", false),
    ("missing time stamp", false),
    ("k of n short", false),
    ("mirror remap", true),
    ("tag moved", false),
    ("manifest list", true),
    ("unsigned", false),
    ("policy missing", false),
    ("policy malformed", false),
];

/// A case by its name, or why there is none.
enum Cell {
    Is(&'static str),
    /// There is nothing to be wrong.
    No(&'static str),
}
use Cell::{Is, No};

const NO_NAME: Cell = No("the signature says no name: the digest counts, and a moved tag is a wrong digest");
const NO_DATES: Cell = No("keys have no dates: notBefore of a policy needs a log");
const NO_LIST: Cell = No("a key is taken back by leaving it out of the policy: wrong key");
const NO_CLOCK: Cell = No("no time follows from a signature with a key but by a log");

const KINDS: [(&str, [Cell; 16]); 7] = [
    (
        "cosign bundle, key",
        [
            Is("bundle-good"),
            Is("bundle-wrong-key"),
            Is("bundle-other-image"),
            No("the key is who signed: wrong key"),
            NO_DATES,
            Is("log-not-before-its-day"),
            NO_LIST,
            Is("log-missing"),
            NO_CLOCK,
            Is("two-of-three-short"),
            NO_NAME,
            NO_NAME,
            Is("list-signed"),
            Is("bundle-none"),
            Is("bundle-policy-missing"),
            Is("bundle-policy-malformed"),
        ],
    ),
    (
        "cosign .sig, key",
        [
            Is("payload-good"),
            Is("payload-wrong-key"),
            Is("payload-other-image"),
            Is("payload-other-repository"),
            NO_DATES,
            NO_DATES,
            NO_LIST,
            Is("payload-log-missing"),
            NO_CLOCK,
            Is("payload-two-of-two-short"),
            Is("payload-mirrored"),
            Is("payload-tag-moved"),
            Is("payload-manifest-list"),
            Is("payload-none"),
            Is("payload-policy-missing"),
            Is("payload-policy-malformed"),
        ],
    ),
    (
        "keyless, Rekor v1",
        [
            Is("keyless-good"),
            Is("certificate-of-another-key"),
            Is("keyless-other-image"),
            Is("keyless-wrong-identity"),
            Is("time-after-the-certificates"),
            Is("time-before-the-certificates"),
            Is("time-authority-over"),
            Is("missing-promise-and-proof"),
            No("the log's promise has the time: admitted, as the case keyless-without-stamp is"),
            Is("keyless-two-of-two-short"),
            Is("keyless-payload-mirrored"),
            Is("keyless-payload-tag-moved"),
            Is("keyless-manifest-list"),
            Is("keyless-none"),
            Is("keyless-policy-missing"),
            Is("keyless-policy-malformed"),
        ],
    ),
    (
        "keyless, Rekor v2 and clock",
        [
            Is("second-log-good"),
            Is("second-log-another-key"),
            Is("second-log-other-image"),
            Is("second-log-wrong-identity"),
            Is("second-log-after-the-certificate"),
            Is("second-log-before-the-certificate"),
            Is("second-log-authority-over"),
            Is("second-log-missing-proof"),
            Is("second-log-without-stamp"),
            Is("second-log-two-of-two-short"),
            NO_NAME,
            NO_NAME,
            Is("second-log-manifest-list"),
            Is("keyless-none"),
            Is("keyless-policy-missing"),
            Is("keyless-policy-malformed"),
        ],
    ),
    (
        "Notation JWS",
        [
            Is("jws-good"),
            Is("jws-wrong-key"),
            Is("jws-wrong-digest"),
            Is("jws-wrong-identity"),
            Is("jws-expired"),
            Is("jws-not-yet-valid"),
            Is("jws-revoked"),
            No("Notation has no log"),
            Is("jws-stamp-missing"),
            Is("jws-k-of-n-short"),
            NO_NAME,
            NO_NAME,
            Is("jws-manifest-list"),
            Is("jws-unsigned"),
            Is("jws-policy-missing"),
            Is("jws-policy-malformed"),
        ],
    ),
    (
        "Notation COSE",
        [
            Is("cose-good"),
            Is("cose-wrong-key"),
            Is("cose-wrong-digest"),
            Is("cose-wrong-identity"),
            Is("cose-expired"),
            Is("cose-not-yet-valid"),
            Is("cose-revoked"),
            No("Notation has no log"),
            Is("cose-stamp-missing"),
            Is("cose-k-of-n-short"),
            NO_NAME,
            NO_NAME,
            Is("cose-manifest-list"),
            Is("cose-unsigned"),
            Is("cose-policy-missing"),
            Is("cose-policy-malformed"),
        ],
    ),
    (
        "GPG simple signing",
        [
            Is("gpg-good"),
            Is("gpg-wrong-key"),
            Is("gpg-wrong-digest"),
            Is("gpg-wrong-identity"),
            Is("gpg-expired"),
            Is("gpg-not-yet-valid"),
            Is("gpg-revoked"),
            No("simple signing has no log"),
            No("simple signing has no clock: its time is the signer's own word"),
            Is("gpg-k-of-n-short"),
            Is("gpg-mirrored"),
            Is("gpg-tag-moved"),
            Is("gpg-manifest-list"),
            Is("gpg-unsigned"),
            Is("gpg-policy-missing"),
            Is("gpg-policy-malformed"),
        ],
    ),
];

#[test]
fn every_kind_has_a_case_of_everything_that_can_be_wrong() {
    let world = World::new();
    let all = cases(&world);
    let all = all.iter().map(|case| (case.name, case.expected.is_ok(), beside(case)));
    let all: Vec<_> = all.chain(gpg::names()).collect();
    let mut faults = Vec::new();
    for (kind, cells) in &KINDS {
        println!("{kind}");
        for ((column, admitted), cell) in COLUMNS.iter().zip(cells) {
            match cell {
                No(why) => println!("  {column:<20} -  ({why})"),
                Is(name) => match all.iter().find(|(found, ..)| found == name) {
                    Some((_, expected, beside)) if expected == admitted => {
                        println!("  {column:<20} {name} ({beside})");
                    }
                    Some(_) => faults.push(format!("{kind}, {column}: {name} expects the other verdict")),
                    None => faults.push(format!("{kind}, {column}: no case is called {name}")),
                },
            }
        }
    }
    crate::settle(faults);
}

/// Who else is asked.
fn beside(case: &Case) -> &'static str {
    match (&case.cosign, &case.notation) {
        (Some(_), _) => "cosign says the same",
        (None, Some(_)) => "notation says the same",
        (None, None) => "nobody else can express it",
    }
}
