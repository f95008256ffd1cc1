//! Rules of the house that no compiler checks. A failure names each place; `exceptions.rs` is the only way round, with a reason.

mod documents;
mod exceptions;
mod floors;
mod source;
mod syntax;
mod tree;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use source::Source;

/// Fails with one line per finding, after the exceptions are taken out.
fn settle(rule: &str, findings: Vec<String>) {
    let left: Vec<String> =
        findings.into_iter().filter(|finding| !exceptions::allows(rule, finding)).collect();
    assert!(left.is_empty(), "{rule}: {} found\n  {}\n", left.len(), left.join("\n  "));
}

/// Settles a rule that looks at every source. All of them look once, together: parsing is what takes time.
fn settle_code(rule: &str) {
    static FINDINGS: OnceLock<BTreeMap<&str, Vec<String>>> = OnceLock::new();
    let findings = FINDINGS.get_or_init(look_at_code);
    settle(rule, findings.get(rule).expect("a rule that looks at code").clone());
}

fn look_at_code() -> BTreeMap<&'static str, Vec<String>> {
    let sources = tree::sources();
    let each = |rule: fn(&Source) -> Vec<String>| sources.iter().flat_map(rule).collect::<Vec<String>>();
    let one = |rule: fn(&Source) -> Option<String>| sources.iter().filter_map(rule).collect::<Vec<String>>();
    let product = sources.iter().filter(|source| source.is_product());
    BTreeMap::from([
        ("long file", one(Source::too_long)),
        ("long function", each(syntax::long_functions)),
        ("many parameters", each(syntax::many_parameters)),
        ("logic in mod.rs", each(syntax::logic_on_front_pages)),
        ("no first line", one(Source::without_first_line)),
        ("unfinished", each(Source::unfinished)),
        ("depth", one(Source::too_deep)),
        ("empty name", one(Source::empty_name)),
        ("circle", syntax::circles(&sources)),
        ("unargued unsafe", each(syntax::unargued_unsafe)),
        ("unsafe module", one(syntax::unsafe_module_without_reason)),
        ("error type", each(syntax::vague_errors)),
        ("may panic", product.flat_map(syntax::may_panic).collect()),
        ("shown secret", each(syntax::shown_secrets)),
    ])
}

#[test]
fn crates_use_only_lower_floors() {
    settle("floors", floors::findings());
}

#[test]
fn a_file_is_one_idea() {
    settle_code("long file");
}

#[test]
fn a_function_fits_on_a_page() {
    settle_code("long function");
}

#[test]
fn a_function_takes_few_parameters() {
    settle_code("many parameters");
}

#[test]
fn a_front_page_has_no_logic() {
    settle_code("logic in mod.rs");
}

#[test]
fn a_module_says_what_it_is_for() {
    settle_code("no first line");
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    settle_code("unfinished");
}

#[test]
fn folders_are_no_deeper_than_area_and_file() {
    settle_code("depth");
}

#[test]
fn names_say_what_a_thing_does() {
    settle_code("empty name");
}

#[test]
fn areas_do_not_import_each_other() {
    settle_code("circle");
}

#[test]
fn documents_name_only_what_is_there() {
    settle("missing path", documents::missing_paths());
}

#[test]
fn nothing_names_this_machine() {
    settle("machine", documents::machine_names());
}

#[test]
fn unsafe_code_is_argued() {
    settle_code("unargued unsafe");
}

#[test]
fn a_module_with_unsafe_code_says_why() {
    settle_code("unsafe module");
}

#[test]
fn errors_can_be_acted_on() {
    settle_code("error type");
}

#[test]
fn what_comes_over_a_border_cannot_panic() {
    settle_code("may panic");
}

#[test]
fn secrets_cannot_be_shown() {
    settle_code("shown secret");
}

#[test]
fn every_exception_is_still_needed() {
    let stale = exceptions::stale();
    assert!(stale.is_empty(), "these exceptions name files that are gone: {stale:?}");
}
