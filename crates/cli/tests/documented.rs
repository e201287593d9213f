//! What `docs/cli.md` shows as the output of each command is what the command prints.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use support::World;

const PAGE: &str = include_str!("../../../docs/cli.md");

/// The examples in the section of each command, in order.
fn examples() -> BTreeMap<&'static str, Vec<Value>> {
    let mut sections = BTreeMap::new();
    for section in PAGE.split("\n## `").skip(1) {
        let (command, text) = section.split_once("`\n").unwrap();
        let examples = text.split("```json\n").skip(1).map(|rest| {
            let (example, _) = rest.split_once("```").unwrap();
            serde_json::from_str(example).unwrap_or_else(|error| panic!("the example of {command}: {error}"))
        });
        assert!(sections.insert(command, examples.collect()).is_none(), "two sections on {command}");
    }
    sections
}

/// Where two values differ in their fields. Nothing is said below null and below an empty array.
fn differences(path: &str, shown: &Value, printed: &Value) -> Vec<String> {
    match (shown, printed) {
        (Value::Object(shown), Value::Object(printed)) => {
            let names: BTreeSet<&String> = shown.keys().chain(printed.keys()).collect();
            let differ = |name: &String| {
                let path = format!("{path}.{name}");
                match (shown.get(name), printed.get(name)) {
                    (Some(shown), Some(printed)) => differences(&path, shown, printed),
                    (None, _) => vec![format!("{path} is printed and not shown")],
                    (_, None) => vec![format!("{path} is shown and not printed")],
                }
            };
            names.into_iter().flat_map(differ).collect()
        }
        (Value::Array(shown), Value::Array(printed)) => match (merged(shown), merged(printed)) {
            (Some(shown), Some(printed)) => differences(&format!("{path}[]"), &shown, &printed),
            _ => Vec::new(),
        },
        (Value::Null, _) | (_, Value::Null) => Vec::new(),
        _ if std::mem::discriminant(shown) == std::mem::discriminant(printed) => Vec::new(),
        _ => vec![format!("{path} is shown as {shown} and printed as {printed}")],
    }
}

/// One element with the fields of all.
fn merged(elements: &[Value]) -> Option<Value> {
    let all = elements.iter().filter_map(Value::as_object).flatten();
    let mut fields = Map::new();
    for (name, value) in all {
        if fields.get(name).is_none_or(Value::is_null) {
            fields.insert(name.clone(), value.clone());
        }
    }
    if fields.is_empty() { elements.first().cloned() } else { Some(fields.into()) }
}

/// Each line is the command whose section has the example, the example's place there, and the arguments that print it.
const RUNS: &[(&str, usize, &[&str])] = &[
    ("ls", 0, &["ls"]),
    ("ls", 1, &["ls", "-d", "test.db"]),
    ("info", 0, &["info", "-d", "test.db"]),
    ("verify", 0, &["verify", "-d", "test.db"]),
    ("diff", 0, &["diff", "-d", "test.db", "0000000000000001"]),
    ("restore", 0, &["restore", "-d", "test.db", "-o", "restored.db"]),
    ("branch", 0, &["branch", "test.db", "experiment.db"]),
    ("import", 0, &["import", "imported.db"]),
    ("compact", 0, &["compact", "-d", "test.db"]),
    ("convert", 0, &["convert", "-d", "paged.db", "--to", "pages"]),
    ("info", 0, &["info", "-d", "paged.db"]),
    ("compact", 1, &["compact", "-d", "paged.db"]),
    ("rm", 1, &["rm", "-d", "test.db", "--older-than", "30d"]),
    ("rm", 0, &["rm", "-d", "test.db"]),
    ("doctor", 0, &["doctor"]),
    ("create-bucket", 0, &["create-bucket"]),
];

#[test]
fn every_example_has_the_fields_that_are_printed() {
    let world = World::new();
    world.three_transactions();
    // Something to say for verify.
    world.put_bytes("test.db/foreign", vec![1]);
    world.put("paged.db", 0, (1, 1), &[], &support::pages(&[1, 2]));
    world.put_bytes("lost.db-000000000001", vec![1]);
    std::fs::write(world.path("imported.db"), support::sqlite(&[1, 2])).unwrap();
    let mut unchecked: BTreeMap<_, BTreeSet<usize>> =
        examples().iter().map(|(command, examples)| (*command, (0..examples.len()).collect())).collect();
    for (command, place, arguments) in RUNS {
        let shown = &examples()[command][*place];
        let ran = world.command(arguments).arg("--json").current_dir(world.folder.path()).output().unwrap();
        let printed = support::Ran(ran).json();
        assert_eq!(differences("", shown, &printed), [""; 0], "{command}: {arguments:?} prints {printed}");
        unchecked.get_mut(command).unwrap().remove(place);
    }
    unchecked.retain(|_, places| !places.is_empty());
    assert!(unchecked.is_empty(), "examples that no run is held against: {unchecked:?}");
}
