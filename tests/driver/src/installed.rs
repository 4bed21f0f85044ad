//! Where the `cdylib` is.

use std::path::{Path, PathBuf};

/// The names under which NVIDIA's libraries are looked for.
const NAMES: [&str; 6] =
    ["libcuda.so", "libcuda.so.1", "libcublasLt.so", "libcublasLt.so.12", "libcudnn.so", "libcudnn.so.9"];

/// Links the libraries into `folder`. A child process that finds them there (`LD_LIBRARY_PATH`) runs on this driver.
///
/// # Panics
/// The library was not built beside the running test, or the folder cannot be written.
pub fn install(folder: &Path) {
    let library = library();
    for name in NAMES {
        std::os::unix::fs::symlink(&library, folder.join(name)).expect("a link");
    }
}

/// Cargo puts it beside the test's executable, or where that folder's parent's other results are.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the running test");
    let name = format!("{}npc_test_driver{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders: Vec<PathBuf> = test.ancestors().skip(1).take(2).map(Path::to_path_buf).collect();
    let found = folders.iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in {folders:?}"))
}
