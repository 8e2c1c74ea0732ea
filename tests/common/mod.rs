//! What the tests of checkpoints share.

// Not every test binary uses all of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// A tensor's name, type and shape in a safetensors header.
pub type Described = (String, &'static str, Vec<usize>);

/// Writes the header and as many bytes of values as it names: zeros, which the
/// file system need not store.
pub fn write_sparse(path: &Path, tensors: &[Described]) {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, dtype, shape) in tensors {
        let size = if *dtype == "F32" { 4 } else { 2 };
        let end = at + shape.iter().product::<usize>() * size;
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        header.insert(name.clone(), info);
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let start = write_header(path, &header);
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(start + at as u64).unwrap();
}

/// Writes a header alone and gives the file's length.
pub fn write_header(path: &Path, header: &str) -> u64 {
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    8 + header.len() as u64
}
