//! Where NVIDIA's libraries are.

use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// File name of cuBLASLt.
const CUBLAS_LT: &str = "libcublasLt.so.12";

/// Folders to look in beside the loader's own: `NPC_CUDA_LIBS`, Python environments, the toolkit.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(list) = std::env::var_os("NPC_CUDA_LIBS") {
        folders.extend(std::env::split_paths(&list));
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    for prefix in environments.chain(["/usr/local", "/usr"].map(PathBuf::from)) {
        for python in children(&prefix.join("lib")).into_iter().filter(|p| is_python(p)) {
            for packages in ["site-packages", "dist-packages"] {
                folders.push(python.join(packages).join("nvidia/cublas/lib"));
            }
        }
    }
    folders.push("/usr/local/cuda/lib64".into());
    folders
}

fn is_python(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"))
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

/// Loads cuBLASLt from the first folder that has it, so that it is found by its name afterwards. Where the loader finds it by
/// itself nothing is done.
pub fn load_cublas() {
    static LOADED: OnceLock<Option<Library>> = OnceLock::new();
    LOADED.get_or_init(|| {
        // SAFETY: the library has no initialisers that ask anything of their caller.
        if unsafe { Library::new(CUBLAS_LT) }.is_ok() {
            return None;
        }
        let file = folders().into_iter().map(|folder| folder.join(CUBLAS_LT)).find(|file| file.is_file())?;
        // SAFETY: as above.
        unsafe { Library::new(file) }.ok()
    });
}
