//! Where the things under test and the tools are.

use std::path::{Path, PathBuf};

/// The folder of the whole repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("e2e/ is inside the repository").to_path_buf()
}

/// The extension: `BOTTOMLESS_EXTENSION`, else what `make` builds.
///
/// # Panics
/// If there is none: every test needs it, and a skipped test shows nothing.
pub fn extension() -> PathBuf {
    let path = std::env::var_os("BOTTOMLESS_EXTENSION")
        .map_or_else(|| repository().join("target/debug/bottomless.so"), PathBuf::from);
    assert!(path.is_file(), "no extension at {}: run make first", path.display());
    path.canonicalize().expect("the path of the extension")
}

/// A program that `tools/install-test-tools.sh` installed.
///
/// # Panics
/// If it isn't there.
pub fn tool(name: &str) -> PathBuf {
    let path = repository().join(".tools/bin").join(name);
    assert!(path.exists(), "no {}: run tools/install-test-tools.sh first", path.display());
    path
}

/// The loadable extension of the PyPI package `litestream-vfs`.
///
/// # Panics
/// If it isn't installed.
pub fn litestream_vfs() -> PathBuf {
    let output = std::process::Command::new(tool("python3"))
        .args(["-c", "import litestream_vfs; print(litestream_vfs.loadable_path())"])
        .output()
        .expect("run the Python of the test tools");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(path.is_file(), "no litestream-vfs: {}", String::from_utf8_lossy(&output.stderr));
    path
}
