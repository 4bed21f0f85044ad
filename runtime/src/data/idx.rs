//! The IDX format of MNIST, plain or gzipped. Source: the format's description on the MNIST page.

use super::DataError;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest possible header: the magic number and 255 extents.
const HEADER: u64 = 4 + 4 * 255;

/// Unsigned bytes with their extents.
pub struct Array {
    /// Extents.
    pub dims: Vec<usize>,
    /// Elements, row-major.
    pub bytes: Vec<u8>,
}

/// The file in `folder` whose name starts with `stem`.
pub fn find(folder: &Path, stem: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.filter_map(|f| Some(f.ok()?.path())).collect();
    found.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(stem)));
    found.sort();
    found.into_iter().next()
}

/// Reads an array of unsigned bytes.
pub fn read(path: &Path) -> Result<Array, DataError> {
    let failed = |why: String| DataError::Read { path: path.to_path_buf(), why };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::GzDecoder::new(file))
    } else {
        Box::new(std::io::BufReader::new(file))
    };
    let mut bytes = Vec::new();
    reader.by_ref().take(HEADER).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    let (kind, rank) = match bytes.get(..4) {
        Some([0, 0, kind, rank]) => (*kind, usize::from(*rank)),
        _ => return Err(failed("it is not an IDX file".into())),
    };
    if kind != 8 {
        return Err(failed(format!(
            "its elements have the IDX type {kind}; only unsigned bytes (8) are images or labels"
        )));
    }
    let header = 4 + 4 * rank;
    let dims: Vec<usize> = bytes
        .get(4..header)
        .ok_or_else(|| failed("its header is cut off".into()))?
        .chunks_exact(4)
        .map(|b| b.iter().fold(0, |n, x| n << 8 | usize::from(*x)))
        .collect();
    let wanted = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    // One byte more than the header asks for tells a longer file, however much a hostile one unpacks to.
    let rest = wanted
        .and_then(|n| (n as u64).checked_add(header as u64 + 1))
        .map_or(0, |n| n.saturating_sub(bytes.len() as u64));
    reader.take(rest).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if wanted != Some(bytes.len() - header) {
        return Err(failed(format!(
            "it holds {} bytes where its header {dims:?} asks for {wanted:?}",
            bytes.len() - header
        )));
    }
    bytes.drain(..header);
    Ok(Array { dims, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (bytes, word) in [
            (&[0u8, 0, 8, 1, 0, 0, 0, 3, 1, 2][..], "asks for"),
            (&[0, 0, 13, 1, 0, 0, 0, 0], "type 13"),
            (&[1, 2, 3, 4], "not an IDX"),
            (&[0, 0, 8, 3, 0], "cut off"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read(&path).err().unwrap().to_string().contains(word), "{word}");
        }
        std::fs::write(&path, [0u8, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9]).unwrap();
        let array = read(&path).unwrap();
        assert_eq!((array.dims, array.bytes), (vec![1, 2], vec![7, 9]));
    }
}
