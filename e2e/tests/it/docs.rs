//! `docs/invariants.md` and `docs/guarantees.md` name only tests and modules that exist.

use std::collections::{BTreeMap, BTreeSet};

use bottomless_e2e::tools::repository;

/// One line of the register: a testable part of a promise.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// `P1.1`.
    number: String,
    /// `engine::commit::settle`.
    modules: Vec<String>,
    /// File and test.
    tests: Vec<(String, String)>,
}

/// Reads the register: `### P1.1 …` begins an entry, `- Enforced:` names modules and `- Tested:` files and the tests in
/// them, all in backticks; a line that is indented goes on with the one before it.
fn register(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut field = "";
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let number = heading.split(' ').next().unwrap_or_default().to_owned();
            entries.push(Entry { number, modules: Vec::new(), tests: Vec::new() });
            field = "";
            continue;
        }
        if !line.starts_with("  ") {
            let fields = ["- Enforced:", "- Tested:"];
            field = fields.into_iter().find(|field| line.starts_with(field)).unwrap_or_default();
        }
        let Some(entry) = entries.last_mut().filter(|_| !field.is_empty()) else { continue };
        for word in line.split('`').skip(1).step_by(2) {
            if field == "- Enforced:" {
                entry.modules.push(word.to_owned());
            } else if word.ends_with(".rs") {
                entry.tests.push((word.to_owned(), String::new()));
            } else {
                let last =
                    entry.tests.last_mut().unwrap_or_else(|| panic!("{}: a test without a file: {word}", entry.number));
                if last.1.is_empty() {
                    word.clone_into(&mut last.1);
                } else {
                    let file = last.0.clone();
                    entry.tests.push((file, word.to_owned()));
                }
            }
        }
    }
    entries
}

/// The tests that a source file defines: functions with an attribute that makes them one.
fn tests_in(source: &str) -> BTreeSet<&str> {
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")
            && std::mem::take(&mut is_test)
        {
            tests.extend(rest.split(['(', '<']).next());
        }
    }
    tests
}

/// The tests that paragraphs which begin with `Shown by:` name: files, and the tests in them, all in backticks.
fn shown(text: &str) -> Vec<(&str, &str)> {
    let mut named = Vec::new();
    for paragraph in text.split("\n\n").filter_map(|paragraph| paragraph.strip_prefix("Shown by:")) {
        let mut file = "";
        for word in paragraph.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                file = word;
            } else if !word.starts_with("make ") {
                named.push((file, word));
            }
        }
    }
    named
}

/// What is wrong with a register.
fn complaints(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let entries = register(text);
    let mut numbers = BTreeSet::new();
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for Entry { number, modules, tests } in &entries {
        if !numbers.insert(number) {
            complaints.push(format!("{number}: twice"));
        }
        if modules.is_empty() {
            complaints.push(format!("{number}: enforced nowhere"));
        }
        for module in modules {
            let (crate_name, path) = module.split_once("::").unwrap_or((module, "lib"));
            let path = format!("crates/{crate_name}/src/{}", path.replace("::", "/"));
            if ![format!("{path}.rs"), format!("{path}/mod.rs")].iter().any(|p| repository().join(p).is_file()) {
                complaints.push(format!("{number}: no module {module}"));
            }
        }
        if tests.is_empty() {
            complaints.push(format!("{number}: tested nowhere"));
        }
        for (file, test) in tests {
            let source = sources
                .entry(file)
                .or_insert_with(|| std::fs::read_to_string(repository().join(file)).unwrap_or_default());
            if !tests_in(source).contains(test.as_str()) {
                complaints.push(format!("{number}: no test {test:?} in {file}"));
            }
        }
    }
    for promise in 1..=6 {
        if !entries.iter().any(|e| e.number.starts_with(&format!("P{promise}."))) {
            complaints.push(format!("P{promise}: nothing"));
        }
    }
    complaints
}

#[test]
fn every_test_that_the_register_names_exists() {
    let text = std::fs::read_to_string(repository().join("docs/invariants.md")).unwrap();
    let complaints = complaints(&text);
    assert!(complaints.is_empty(), "docs/invariants.md:\n{}", complaints.join("\n"));
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let text = std::fs::read_to_string(repository().join("docs/guarantees.md")).unwrap();
    let named = shown(&text);
    let missing: Vec<_> = named
        .iter()
        .filter(|(file, test)| {
            let source = std::fs::read_to_string(repository().join(file)).unwrap_or_default();
            !tests_in(&source).contains(test)
        })
        .collect();
    assert!(missing.is_empty(), "docs/guarantees.md names what is not there: {missing:?}");
    assert!(named.len() > 50, "only {} tests were found in docs/guarantees.md", named.len());
}

#[test]
fn a_paragraph_names_files_and_tests() {
    let text =
        "**A promise.** With `words`.\n\nShown by: `a.rs`: `one`, `two`; `b.rs`:\n`three` (in `make soak`)\n\n`four`";
    assert_eq!(shown(text), [("a.rs", "one"), ("a.rs", "two"), ("b.rs", "three")]);
}

#[test]
fn a_register_that_names_what_is_not_there_is_found_out() {
    let text = "\
### P1.1 Fine
- Enforced: `vfs::connection`, `engine::commit`
- Tested: `e2e/tests/it/docs.rs`: `every_test_that_the_register_names_exists`,
  `a_register_that_names_what_is_not_there_is_found_out`
- Not tested yet: `anything`
### P2.1 Everything is wrong
- Enforced: `engine::nowhere`
- Tested: `e2e/tests/it/docs.rs`: `no_such_test`, `complaints`; `e2e/tests/it/no_such_file.rs`: `a_test`;
  `e2e/tests/it/docs.rs`
### P2.1 And again
### P3.1
### P4.1
### P5.1
";
    let expected = [
        "P2.1: no module engine::nowhere",
        "P2.1: no test \"no_such_test\" in e2e/tests/it/docs.rs",
        "P2.1: no test \"complaints\" in e2e/tests/it/docs.rs",
        "P2.1: no test \"a_test\" in e2e/tests/it/no_such_file.rs",
        "P2.1: no test \"\" in e2e/tests/it/docs.rs",
        "P2.1: twice",
        "P2.1: enforced nowhere",
        "P2.1: tested nowhere",
        "P3.1: enforced nowhere",
        "P3.1: tested nowhere",
        "P4.1: enforced nowhere",
        "P4.1: tested nowhere",
        "P5.1: enforced nowhere",
        "P5.1: tested nowhere",
        "P6: nothing",
    ];
    assert_eq!(complaints(text), expected);
}
