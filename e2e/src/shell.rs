//! The stock `sqlite3` shell.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::{World, tools};

/// Runs a script in Debian's shell, in the world's folder, with the extension loaded by its path without `.so`.
///
/// # Panics
/// If the shell can't be run.
pub fn run(world: &World, script: &str) -> Output {
    let extension = tools::extension();
    let script = format!(".load {}\n{script}", extension.with_extension("").display());
    run_stock(world, &script)
}

/// The same without the extension.
///
/// # Panics
/// If the shell can't be run.
pub fn run_stock(world: &World, script: &str) -> Output {
    let mut child = Command::new("/usr/bin/sqlite3")
        .args(["-batch", "-init", "/dev/null"])
        .env_clear()
        .envs(&world.environment)
        .current_dir(world.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the shell");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(script.as_bytes()).expect("the script");
    drop(input);
    child.wait_with_output().expect("the shell's output")
}

/// Standard output as text.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
