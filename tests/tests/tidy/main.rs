//! Rules of the house that no compiler checks. A failure names each place; `exceptions.rs` is the only way round, with a reason.

mod documents;
mod exceptions;
mod floors;
mod source;
mod syntax;
mod tree;

use source::Source;

/// Fails with one line per finding, after the exceptions are taken out.
fn settle(rule: &str, findings: Vec<String>) {
    let left: Vec<String> =
        findings.into_iter().filter(|finding| !exceptions::allows(rule, finding)).collect();
    assert!(left.is_empty(), "{rule}: {} found\n  {}\n", left.len(), left.join("\n  "));
}

#[test]
fn crates_use_only_lower_floors() {
    settle("floors", floors::findings());
}

#[test]
fn a_file_is_one_idea() {
    settle("long file", tree::sources().iter().filter_map(Source::too_long).collect());
}

#[test]
fn a_function_fits_on_a_page() {
    settle("long function", tree::sources().iter().flat_map(syntax::long_functions).collect());
}

#[test]
fn a_function_takes_few_parameters() {
    settle("many parameters", tree::sources().iter().flat_map(syntax::many_parameters).collect());
}

#[test]
fn a_front_page_has_no_logic() {
    settle("logic in mod.rs", tree::sources().iter().flat_map(syntax::logic_on_front_pages).collect());
}

#[test]
fn a_module_says_what_it_is_for() {
    settle("no first line", tree::sources().iter().filter_map(Source::without_first_line).collect());
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    settle("unfinished", tree::sources().iter().flat_map(Source::unfinished).collect());
}

#[test]
fn folders_are_no_deeper_than_area_and_file() {
    settle("depth", tree::sources().iter().filter_map(Source::too_deep).collect());
}

#[test]
fn names_say_what_a_thing_does() {
    settle("empty name", tree::sources().iter().filter_map(Source::empty_name).collect());
}

#[test]
fn areas_do_not_import_each_other() {
    settle("circle", syntax::circles(&tree::sources()));
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
    settle("unargued unsafe", tree::sources().iter().flat_map(syntax::unargued_unsafe).collect());
}

#[test]
fn a_module_with_unsafe_code_says_why() {
    settle(
        "unsafe module",
        tree::sources().iter().filter_map(syntax::unsafe_module_without_reason).collect(),
    );
}

#[test]
fn errors_can_be_acted_on() {
    settle("error type", tree::sources().iter().flat_map(syntax::vague_errors).collect());
}

#[test]
fn what_comes_over_a_border_cannot_panic() {
    settle(
        "may panic",
        tree::sources().iter().filter(|source| source.is_product()).flat_map(syntax::may_panic).collect(),
    );
}

#[test]
fn secrets_cannot_be_shown() {
    settle("shown secret", tree::sources().iter().flat_map(syntax::shown_secrets).collect());
}

#[test]
fn every_exception_is_still_needed() {
    let stale = exceptions::stale();
    assert!(stale.is_empty(), "these exceptions name files that are gone: {stale:?}");
}
