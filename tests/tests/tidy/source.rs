//! One Rust file: its text, and where its tests begin.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_tests::artefacts::workspace;
use syn::Item;

const LONGEST: usize = 600;

/// Crates whose code runs on a node or in a guest.
const PRODUCT: &[&str] = &["agent/", "attestation/", "cli/", "guest-image/", "shim/", "vmm/"];

/// A parsed file.
pub(crate) struct Source {
    /// Its path in the workspace.
    pub(crate) path: PathBuf,
    /// Its lines.
    pub(crate) lines: Vec<String>,
    /// What it declares, without tests.
    pub(crate) items: Vec<Item>,
    /// How many lines its tests have.
    test_lines: usize,
    /// Whether all of it is tests: its parent declares it so.
    pub(crate) all_tests: bool,
    /// Paths that modules declared here as tests may have.
    pub(crate) test_modules: Vec<PathBuf>,
}

impl Source {
    /// Reads and parses the file at `path` in the workspace.
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(workspace().join(path)).expect("a file of the workspace");
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (tests, items): (Vec<Item>, Vec<Item>) = file.items.into_iter().partition(is_test);
        let test_lines = tests.iter().map(lines_of).sum();
        let test_modules = tests.iter().flat_map(|item| module_files(path, item)).collect();
        let lines = text.lines().map(str::to_owned).collect();
        Self { path: path.to_owned(), lines, items, test_lines, all_tests: false, test_modules }
    }

    /// The finding's beginning for `line`, from 1.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// Whether it runs on a node or in a guest, and not only while it is built or tested.
    pub(crate) fn is_product(&self) -> bool {
        let path = self.path.to_string_lossy();
        let built = path.ends_with("build.rs") || path.contains("/tests/") || path.contains("/benches/");
        PRODUCT.iter().any(|crate_path| path.starts_with(crate_path)) && !built && !self.all_tests
    }

    pub(crate) fn too_long(&self) -> Option<String> {
        let length = self.lines.len() - self.test_lines;
        (length > LONGEST)
            .then(|| format!("{} has {length} lines, the wall is {LONGEST}", self.path.display()))
    }

    pub(crate) fn without_first_line(&self) -> Option<String> {
        let first = self.lines.iter().find(|line| !line.trim().is_empty() && !line.starts_with("#!["))?;
        let says = first.starts_with("//!") || first.starts_with("// ") || first.starts_with("/*");
        (!says).then(|| format!("{} begins with {first:?}", self.path.display()))
    }

    pub(crate) fn unfinished(&self) -> Vec<String> {
        // Put together, so that this file is not found.
        let words = [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("XX", "X:"),
            concat!("to", "do!("),
            concat!("unimple", "mented!("),
            concat!("#[ig", "nore"),
            concat!("db", "g!("),
        ];
        let lines = self.lines.iter().enumerate();
        let bad = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        bad.map(|(number, line)| format!("{} {}", self.at(number + 1), line.trim())).collect()
    }

    pub(crate) fn too_deep(&self) -> Option<String> {
        let inside = self.path.to_string_lossy();
        let below = inside.split_once("src/")?.1.matches('/').count();
        (below > 1).then(|| format!("{} is deeper than src/area/file.rs", self.path.display()))
    }

    pub(crate) fn empty_name(&self) -> Option<String> {
        let bad = ["utils", "util", "common", "inner", "manager", "helpers", "misc", "helper"];
        let stem = self.path.file_stem()?.to_string_lossy();
        bad.contains(&stem.as_ref()).then(|| self.path.display().to_string())
    }

    /// The area that it belongs to: the folder or file below `src`.
    pub(crate) fn area(&self) -> Option<(String, String)> {
        let path = self.path.to_string_lossy();
        let (crate_path, inside) = path.split_once("/src/")?;
        let area = inside.split('/').next()?.trim_end_matches(".rs");
        Some((crate_path.to_owned(), area.to_owned()))
    }
}

fn is_test(item: &Item) -> bool {
    let attributes = match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        let of_tests = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| meta.path().is_ident("test"));
        of_tests || attribute.path().is_ident("test")
    })
}

/// Where the file of a module that is declared in the file at `path` may be.
fn module_files(path: &Path, item: &Item) -> Vec<PathBuf> {
    let Item::Mod(module) = item else { return Vec::new() };
    let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") | None => path.parent().unwrap_or(path).to_owned(),
        Some(_) => path.with_extension(""),
    };
    let name = module.ident.to_string();
    vec![folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]
}

fn lines_of(item: &Item) -> usize {
    use syn::spanned::Spanned;
    let span = item.span();
    span.end().line + 1 - span.start().line
}
