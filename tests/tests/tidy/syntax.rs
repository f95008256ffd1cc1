//! Rules that look at the parsed code.

use std::collections::{BTreeMap, BTreeSet};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Block, Expr, ExprMethodCall, ExprUnsafe, FnArg, ImplItemFn, Item, ItemEnum, ItemFn, ItemImpl,
    ItemMod, Macro, Signature, Type, UsePath,
};

use crate::source::Source;

const LONGEST_FUNCTION: usize = 80;
const LONGEST_ON_FRONT_PAGE: usize = 12;
const MOST_PARAMETERS: usize = 5;
const MOST_VARIANTS: usize = 12;

/// A function found: its signature, its body, and where it ends.
struct Function<'a> {
    signature: &'a Signature,
    body: &'a Block,
    of_a_trait: bool,
}

#[derive(Default)]
struct Functions<'a> {
    found: Vec<Function<'a>>,
    in_trait: bool,
}

impl<'a> Visit<'a> for Functions<'a> {
    fn visit_item_fn(&mut self, item: &'a ItemFn) {
        if !has_test(&item.attrs) {
            self.found.push(Function { signature: &item.sig, body: &item.block, of_a_trait: false });
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        self.in_trait = item.trait_.is_some();
        visit::visit_item_impl(self, item);
        self.in_trait = false;
    }

    fn visit_impl_item_fn(&mut self, item: &'a ImplItemFn) {
        self.found.push(Function { signature: &item.sig, body: &item.block, of_a_trait: self.in_trait });
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !has_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn functions(source: &Source) -> Vec<Function<'_>> {
    let mut functions = Functions::default();
    source.items.iter().for_each(|item| functions.visit_item(item));
    functions.found
}

fn lines(function: &Function<'_>) -> usize {
    function.body.span().end().line + 1 - function.signature.span().start().line
}

pub(crate) fn long_functions(source: &Source) -> Vec<String> {
    let findings = functions(source).into_iter().filter_map(|function| {
        let start = function.signature.span().start().line;
        let length = lines(&function);
        let name = &function.signature.ident;
        (length > LONGEST_FUNCTION).then(|| {
            format!("{} {name} has {length} lines, the wall is {LONGEST_FUNCTION}", source.at(start))
        })
    });
    findings.collect()
}

pub(crate) fn many_parameters(source: &Source) -> Vec<String> {
    let findings =
        functions(source).into_iter().filter(|function| !function.of_a_trait).filter_map(|function| {
            let typed: Vec<&Type> = function
                .signature
                .inputs
                .iter()
                .filter_map(|input| match input {
                    FnArg::Typed(typed) => Some(&*typed.ty),
                    FnArg::Receiver(_) => None,
                })
                .collect();
            let bools = typed
                .iter()
                .filter(|kind| matches!(kind, Type::Path(path) if path.path.is_ident("bool")))
                .count();
            let start = function.signature.span().start().line;
            let name = &function.signature.ident;
            (typed.len() > MOST_PARAMETERS || bools > 1).then(|| {
                format!("{} {name} takes {} parameters, {bools} of them bool", source.at(start), typed.len())
            })
        });
    findings.collect()
}

pub(crate) fn logic_on_front_pages(source: &Source) -> Vec<String> {
    if source.path.file_name().is_none_or(|name| name != "mod.rs") {
        return Vec::new();
    }
    let free = source.items.iter().filter(|item| matches!(item, Item::Fn(_) | Item::Macro(_)));
    let free = free.map(|item| source.at(item.span().start().line));
    // A type of the front page may say its name and hand out its parts.
    let long = functions(source).into_iter().filter(|function| lines(function) > LONGEST_ON_FRONT_PAGE);
    let long = long.map(|function| source.at(function.signature.span().start().line));
    free.chain(long).collect()
}

/// Collects what is unsafe, and what can panic.
#[derive(Default)]
struct Dangers {
    unsafe_lines: Vec<usize>,
    panics: Vec<(usize, String)>,
}

impl<'a> Visit<'a> for Dangers {
    fn visit_expr_unsafe(&mut self, expression: &'a ExprUnsafe) {
        self.unsafe_lines.push(expression.span().start().line);
        visit::visit_expr_unsafe(self, expression);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if item.unsafety.is_some() {
            self.unsafe_lines.push(item.span().start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_expr_method_call(&mut self, call: &'a ExprMethodCall) {
        let name = call.method.to_string();
        // A parser may have its own `expect`, which takes something else than a text.
        let text = matches!(call.args.first(), None | Some(Expr::Lit(_)));
        if text && ["unwrap", "expect", "unwrap_err", "expect_err"].contains(&name.as_str()) {
            self.panics.push((call.method.span().start().line, name));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, found: &'a Macro) {
        let name = found.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        if ["panic", "unreachable"].contains(&name.as_str()) {
            self.panics.push((found.span().start().line, name));
        }
        visit::visit_macro(self, found);
    }

    fn visit_item_fn(&mut self, item: &'a ItemFn) {
        if !has_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !has_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn dangers(source: &Source) -> Dangers {
    let mut dangers = Dangers::default();
    source.items.iter().for_each(|item| dangers.visit_item(item));
    dangers
}

pub(crate) fn unargued_unsafe(source: &Source) -> Vec<String> {
    let unsafe_lines = dangers(source).unsafe_lines;
    unsafe_lines.into_iter().filter(|line| !is_argued(source, *line)).map(|line| source.at(line)).collect()
}

/// Whether the comment directly above the statement that holds `line` begins with its proof.
fn is_argued(source: &Source, line: usize) -> bool {
    let above = source.lines[..line - 1].iter().rev();
    // A statement may be broken over a few lines before its unsafe block begins.
    let mut code = 0;
    for text in above.map(|text| text.trim()) {
        if text.starts_with("// SAFETY:") {
            return true;
        }
        if !text.starts_with("//") {
            code += 1;
        }
        if code > 4 {
            return false;
        }
    }
    false
}

pub(crate) fn unsafe_module_without_reason(source: &Source) -> Option<String> {
    if dangers(source).unsafe_lines.is_empty() {
        return None;
    }
    let switch = source.lines.iter().position(|line| {
        line.starts_with("#![allow(unsafe_code)") || line.starts_with("#![expect(unsafe_code")
    });
    match switch {
        // The reason stands in the attribute's own lines, or in a comment beside it.
        Some(at) => {
            let from = at.saturating_sub(2);
            let around = &source.lines[from..(at + 2).min(source.lines.len())];
            let says = around
                .iter()
                .any(|line| line.starts_with("//") || line.contains("//") || line.contains("reason"));
            (!says).then(|| format!("{} does not say why it needs unsafe code", source.path.display()))
        }
        None => Some(format!(
            "{} has unsafe code and does not begin with #![allow(unsafe_code)]",
            source.path.display()
        )),
    }
}

pub(crate) fn may_panic(source: &Source) -> Vec<String> {
    let panics = dangers(source).panics;
    panics.into_iter().map(|(line, name)| format!("{} {name}", source.at(line))).collect()
}

pub(crate) fn vague_errors(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for item in &source.items {
        let Item::Enum(found) = item else { continue };
        if !derives(&found.attrs, "Error") {
            continue;
        }
        let at = source.at(found.span().start().line);
        if found.variants.len() > MOST_VARIANTS {
            findings.push(format!(
                "{at} {} has {} variants, the most are {MOST_VARIANTS}",
                found.ident,
                found.variants.len()
            ));
        }
        if has_other(found) {
            findings.push(format!("{at} {} has a variant for everything else", found.ident));
        }
    }
    findings
}

fn has_other(found: &ItemEnum) -> bool {
    found.variants.iter().any(|variant| {
        ["Other", "Others", "Generic"].contains(&variant.ident.to_string().as_str()) && is_one_string(variant)
    })
}

fn is_one_string(variant: &syn::Variant) -> bool {
    let mut fields = variant.fields.iter();
    let first = fields
        .next()
        .is_some_and(|field| matches!(&field.ty, Type::Path(path) if path.path.is_ident("String")));
    first && fields.next().is_none()
}

pub(crate) fn shown_secrets(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for item in &source.items {
        let (name, attributes) = match item {
            Item::Struct(found) => (found.ident.to_string(), &found.attrs),
            Item::Enum(found) => (found.ident.to_string(), &found.attrs),
            _ => continue,
        };
        let shows = ["Debug", "Display", "Serialize"].iter().any(|shown| derives(attributes, shown));
        // An error, a request or a name about secrets is not a secret.
        if (name == "Secret" || name.ends_with("Secret")) && shows {
            findings.push(format!("{} {name} can be shown", source.at(item.span().start().line)));
        }
    }
    findings
}

fn derives(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("derive")).any(|attribute| {
        let mut found = false;
        let read = attribute.parse_nested_meta(|meta| {
            found |= meta.path.segments.last().is_some_and(|segment| segment.ident == name);
            Ok(())
        });
        read.is_ok() && found
    })
}

fn has_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let of_tests = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| meta.path().is_ident("test"));
        of_tests || attribute.path().is_ident("test")
    })
}

/// Collects the areas of its own crate that a file imports from.
#[derive(Default)]
struct Imports {
    areas: BTreeSet<String>,
}

impl<'a> Visit<'a> for Imports {
    fn visit_use_path(&mut self, path: &'a UsePath) {
        if path.ident == "crate" {
            self.areas.extend(first_names(&path.tree));
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate") {
            self.areas.extend(segments.next().map(|second| second.ident.to_string()));
        }
        visit::visit_path(self, path);
    }
}

fn first_names(tree: &syn::UseTree) -> Vec<String> {
    match tree {
        syn::UseTree::Path(path) => vec![path.ident.to_string()],
        syn::UseTree::Name(name) => vec![name.ident.to_string()],
        syn::UseTree::Rename(rename) => vec![rename.ident.to_string()],
        syn::UseTree::Group(group) => group.items.iter().flat_map(first_names).collect(),
        syn::UseTree::Glob(_) => Vec::new(),
    }
}

/// Pairs of areas of one crate of which each imports from the other.
pub(crate) fn circles(sources: &[Source]) -> Vec<String> {
    let mut imports: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let Some(area) = source.area() else { continue };
        if ["lib", "main", "bin"].contains(&area.1.as_str()) {
            continue;
        }
        let mut found = Imports::default();
        source.items.iter().for_each(|item| found.visit_item(item));
        imports.entry(area).or_default().extend(found.areas);
    }
    let mut findings = Vec::new();
    for ((in_crate, area), areas) in &imports {
        for other in areas.iter().filter(|other| *other > area) {
            let back = imports.get(&(in_crate.clone(), other.clone()));
            if back.is_some_and(|back| back.contains(area)) {
                findings.push(format!("{in_crate}: {area} and {other} import each other"));
            }
        }
    }
    findings
}
