//! Scripts through the real shell, and what it printed when they were written.
//! `BOTTOMLESS_GOLDEN=write` writes the expectations anew: look at the difference before committing it.

use bottomless_e2e::{World, shell, tools};

#[test]
fn the_shell_prints_what_it_printed() {
    let folder = tools::repository().join("e2e/golden");
    let mut scripts: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "sql"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let write = std::env::var("BOTTOMLESS_GOLDEN").is_ok_and(|v| v == "write");
    let mut differing = Vec::new();
    for path in scripts {
        let script = std::fs::read_to_string(&path).unwrap();
        let mut world = World::with_own_bucket("golden");
        // Lines of the log carry the time.
        world.set("RUST_LOG", "off");
        // Two machines, one after the other: what `-- elsewhere` follows runs where nothing is but the bucket.
        let mut got = String::new();
        for (n, part) in script.split("-- elsewhere\n").enumerate() {
            if n > 0 {
                got.push_str("-- elsewhere\n");
                for entry in std::fs::read_dir(world.folder()).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        std::fs::remove_file(path).unwrap();
                    }
                }
            }
            let output = shell::run(&world, part);
            got.push_str(&shell::text(&output));
            for line in shell::errors(&output).lines() {
                got.push_str("stderr: ");
                got.push_str(line);
                got.push('\n');
            }
        }
        let got = got.replace(&world.proxy.endpoint(), "ENDPOINT").replace(world.bucket.name(), "BUCKET");
        let expected = path.with_extension("out");
        if write {
            std::fs::write(&expected, got).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != got {
            differing.push(format!("{}:\n{got}", path.display()));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
