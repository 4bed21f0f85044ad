//! Where NVIDIA's libraries are.

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use libloading::Library;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// File names of cuBLASLt, of CUDA 13 and 12.
const CUBLAS_LT: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];

/// File names of cuDNN 9, in the order in which they depend on each other. Whatever else it consists of it finds beside them.
const CUDNN: [&str; 6] = [
    "libcudnn_graph.so.9",
    "libcudnn_ops.so.9",
    "libcudnn_cnn.so.9",
    "libcudnn_adv.so.9",
    "libcudnn_heuristic.so.9",
    "libcudnn.so.9",
];

/// Folders to look in beside the loader's own: `NPC_CUDA_LIBS`, Python environments (the active one, those of the Pythons on
/// the path, the user's, the system's), the toolkit.
fn folders(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let split = |list: Option<OsString>| list.map_or_else(Vec::new, |l| std::env::split_paths(&l).collect());
    let mut folders: Vec<PathBuf> = split(variable("NPC_CUDA_LIBS"));
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(&variable).map(PathBuf::from).collect();
    let pythons = split(variable("PATH")).into_iter().filter(|folder| folder.join("python3").exists());
    prefixes.extend(pythons.filter_map(|folder| folder.parent().map(Path::to_path_buf)));
    prefixes.extend(variable("HOME").map(|home| PathBuf::from(home).join(".local")));
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    for prefix in prefixes {
        for python in children(&prefix.join("lib")).into_iter().filter(|p| is_python(p)) {
            for packages in ["site-packages", "dist-packages"] {
                let nvidia = python.join(packages).join("nvidia");
                folders.extend(["cu13", "cublas", "cudnn"].map(|library| nvidia.join(library).join("lib")));
            }
        }
    }
    folders.push("/usr/local/cuda/lib64".into());
    folders
}

/// Whether the driver and every GPU take libraries of CUDA 13: driver 580 or newer, and nothing older than Turing.
fn takes_cuda_13() -> bool {
    use cudarc::driver::{result, sys};
    if !super::probe::has_driver() {
        return true;
    }
    let mut version = 0;
    // SAFETY: the driver is there, and the number has room.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    let capability = |ordinal: i32| {
        let device = result::device::get(ordinal)?;
        // SAFETY: the device is there.
        let ask = |which| unsafe { result::device::get_attribute(device, which) };
        Ok((
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    };
    let gpus = || {
        result::init()?;
        let count = result::device::get_count()?;
        (0..count).map(capability).collect::<Result<Vec<(i32, i32)>, cudarc::driver::DriverError>>()
    };
    asked.is_ok() && version >= 13_000 && gpus().is_ok_and(|all| all.iter().all(|found| *found >= (7, 5)))
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
/// the loader finds it by itself nothing is done. `None` where it is nowhere.
fn load(files: &[&str]) -> Option<Vec<Library>> {
    let &main = files.last()?;
    // SAFETY: these libraries have no initialisers that ask anything of their caller.
    if let Ok(library) = unsafe { Library::new(main) } {
        return Some(vec![library]);
    }
    let folder = folders(|name| std::env::var_os(name)).into_iter().find(|folder| folder.join(main).is_file())?;
    // SAFETY: as above.
    Some(files.iter().filter_map(|name| unsafe { Library::new(folder.join(name)) }.ok()).collect())
}

/// Makes cuBLASLt known: that of CUDA 13 where the machine takes it, otherwise that of CUDA 12.
pub fn load_cublas() {
    static LOADED: OnceLock<Option<Vec<Library>>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let names = if takes_cuda_13() { &CUBLAS_LT[..] } else { &CUBLAS_LT[1..] };
        names.iter().find_map(|name| load(&[name]))
    });
}

/// Makes cuDNN known, and cuBLASLt, which it uses.
pub fn load_cudnn() {
    static LOADED: OnceLock<Option<Vec<Library>>> = OnceLock::new();
    LOADED.get_or_init(|| {
        load_cublas();
        load(&CUDNN)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_looked_for_in_every_python_environment() {
        let root = tempfile::tempdir().unwrap();
        let packages = |prefix: &str| root.path().join(prefix).join("lib/python3.12/site-packages/nvidia");
        for prefix in ["active", "on-path", "home/.local"] {
            std::fs::create_dir_all(packages(prefix)).unwrap();
        }
        std::fs::create_dir_all(root.path().join("on-path/bin")).unwrap();
        std::fs::write(root.path().join("on-path/bin/python3"), "").unwrap();
        let given = root.path().join("given");
        let found = folders(|name| match name {
            "NPC_CUDA_LIBS" => Some(given.clone().into()),
            "VIRTUAL_ENV" => Some(root.path().join("active").into()),
            "PATH" => std::env::join_paths([root.path().join("nothing"), root.path().join("on-path/bin")]).ok(),
            "HOME" => Some(root.path().join("home").into()),
            _ => None,
        });
        let is_own = |folder: &&PathBuf| folder.starts_with(root.path()) && !folder.to_string_lossy().contains("dist-");
        let own: Vec<&PathBuf> = found.iter().filter(is_own).collect();
        let wheels = ["active", "on-path", "home/.local"]
            .into_iter()
            .flat_map(|prefix| ["cu13/lib", "cublas/lib", "cudnn/lib"].map(|library| packages(prefix).join(library)));
        let wanted: Vec<PathBuf> = std::iter::once(given.clone()).chain(wheels).collect();
        assert!(own.into_iter().eq(&wanted), "{found:?}");
        assert_eq!(found.last(), Some(&PathBuf::from("/usr/local/cuda/lib64")));
    }
}
