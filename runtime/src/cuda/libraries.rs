//! Where NVIDIA's libraries are.

use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// File name of cuBLASLt.
const CUBLAS_LT: &str = "libcublasLt.so.12";

/// File names of cuDNN 9, in the order in which they depend on each other. Whatever else it consists of it finds beside them.
const CUDNN: [&str; 6] = [
    "libcudnn_graph.so.9",
    "libcudnn_ops.so.9",
    "libcudnn_cnn.so.9",
    "libcudnn_adv.so.9",
    "libcudnn_heuristic.so.9",
    "libcudnn.so.9",
];

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
                let nvidia = python.join(packages).join("nvidia");
                folders.extend(["cublas", "cudnn"].map(|library| nvidia.join(library).join("lib")));
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

/// Loads a library's files from the first folder that has the last of them, so that it is found by its name afterwards. Where
/// the loader finds it by itself nothing is done.
fn load(files: &[&str]) -> Vec<Library> {
    let Some(&main) = files.last() else { return Vec::new() };
    // SAFETY: these libraries have no initialisers that ask anything of their caller.
    if unsafe { Library::new(main) }.is_ok() {
        return Vec::new();
    }
    let Some(folder) = folders().into_iter().find(|folder| folder.join(main).is_file()) else { return Vec::new() };
    // SAFETY: as above.
    files.iter().filter_map(|name| unsafe { Library::new(folder.join(name)) }.ok()).collect()
}

/// Makes cuBLASLt known.
pub fn load_cublas() {
    static LOADED: OnceLock<Vec<Library>> = OnceLock::new();
    LOADED.get_or_init(|| load(&[CUBLAS_LT]));
}

/// Makes cuDNN known, and cuBLASLt, which it uses.
pub fn load_cudnn() {
    static LOADED: OnceLock<Vec<Library>> = OnceLock::new();
    LOADED.get_or_init(|| {
        load_cublas();
        load(&CUDNN)
    });
}
