//! Files that appear whole or not at all: a temporary file in the same folder,
//! flushed to the disk, then renamed.

use super::Format;
use crate::{Error, Result};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Where the pictures of one request go.
///
/// Without a name: `calotype-SEED.png` in the working folder, and where that is
/// taken `calotype-SEED-1.png` and so on; nothing is ever overwritten. With a
/// name: that file, replacing what was there, and for several pictures
/// `NAME-0.EXT`, `NAME-1.EXT`, ... Beside them lie, if asked for, a contact sheet
/// with `-grid` and a preview with `-preview` in its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    out: Option<PathBuf>,
    samples: usize,
    format: Format,
}

/// Beyond this many pictures of one seed in one folder something else is wrong.
const MOST_NAMES: usize = 100_000;

const CHOOSE: &str = "choose a folder that can be written to";
const FULL: &str = "make room on the disk, or choose another folder";

impl Destination {
    /// Checks, before any work, that the files can be written; leaves none behind.
    ///
    /// An extension that is no picture's is [`Error::Invalid`]; a folder that is
    /// missing or cannot be written to, or a folder in a file's place, is
    /// [`Error::File`].
    pub fn check(out: Option<&Path>, samples: usize) -> Result<Self> {
        let destination = Destination {
            out: out.map(Path::to_path_buf),
            samples,
            format: out.map_or(Ok(Format::Png), format_of)?,
        };
        match out {
            None => probe(Path::new("."))?,
            Some(_) => (0..samples).try_for_each(|i| check_file(&destination.named(i)))?,
        }
        Ok(destination)
    }

    /// How the pictures are to be encoded.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes the encoded picture `index`, drawn with `seed`, and says where.
    pub fn write(&self, index: usize, seed: u64, bytes: &[u8]) -> Result<PathBuf> {
        if self.out.is_none() {
            return write_new(&format!("calotype-{seed}"), bytes);
        }
        let path = self.named(index);
        write_file(&path, bytes)?;
        Ok(path)
    }

    /// Checks, as [`Destination::check`] does, the names of the contact sheet and of
    /// the preview, where they are asked for.
    pub fn check_beside(&self, grid: bool, preview: bool) -> Result<()> {
        if self.out.is_none() {
            return Ok(());
        }
        let names = [
            (grid, self.beside("-grid")),
            (preview, self.preview_path(0)),
        ];
        names
            .iter()
            .filter(|(wanted, _)| *wanted)
            .try_for_each(|(_, path)| check_file(path))
    }

    /// Writes the encoded contact sheet of the pictures from `seed` on:
    /// `NAME-grid.EXT`, or, never replacing a file, `calotype-SEED-grid.png`.
    pub fn write_grid(&self, seed: u64, bytes: &[u8]) -> Result<PathBuf> {
        if self.out.is_none() {
            return write_new(&format!("calotype-{seed}-grid"), bytes);
        }
        let path = self.beside("-grid");
        write_file(&path, bytes)?;
        Ok(path)
    }

    /// Where the preview of the pictures from `seed` on lies: `NAME-preview.png` or
    /// `calotype-SEED-preview.png`.
    pub fn preview_path(&self, seed: u64) -> PathBuf {
        match self.out {
            Some(_) => self.beside("-preview").with_extension("png"),
            None => PathBuf::from(format!("calotype-{seed}-preview.png")),
        }
    }

    /// Writes a preview, an encoded PNG, in the place of the one before: a reader
    /// sees the old one or the new one, whole.
    pub fn write_preview(&self, seed: u64, png: &[u8]) -> Result<PathBuf> {
        let path = self.preview_path(seed);
        write_file(&path, png)?;
        Ok(path)
    }

    /// The file of picture `index`, where a name was given.
    fn named(&self, index: usize) -> PathBuf {
        match self.samples {
            1 => self.out.clone().unwrap_or_default(),
            _ => self.beside(&format!("-{index}")),
        }
    }

    /// The name that was given, with `ending` before its extension.
    fn beside(&self, ending: &str) -> PathBuf {
        let path = self.out.clone().unwrap_or_default();
        let mut name = path.file_stem().unwrap_or_default().to_os_string();
        name.push(ending);
        if let Some(extension) = path.extension() {
            name.push(".");
            name.push(extension);
        }
        path.with_file_name(name)
    }
}

fn format_of(path: &Path) -> Result<Format> {
    if path.is_dir() {
        return Err(is_a_folder(path));
    }
    Format::of_path(path)
}

fn is_a_folder(path: &Path) -> Error {
    Error::file(
        path,
        "is a folder",
        "name a file in it, such as picture.png",
    )
}

/// Checks that [`write_file`] can write `path`: its folder exists and takes
/// files, and what is there already, if anything, is a plain file.
pub fn check_file(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(is_a_folder(path)),
        Ok(found) if !found.is_file() => Err(Error::file(
            path,
            "is not a plain file",
            "choose another name",
        )),
        _ => probe(folder_of(path)),
    }
}

/// Writes `bytes` to `path`, replacing a file that is there; on an error `path`
/// is as it was.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = filled(folder_of(path), bytes).map_err(|e| failed(path, &e))?;
    file.persist(path).map_err(|e| failed(path, &e.error))?;
    Ok(())
}

/// Writes to the first of `stem.png`, `stem-1.png`, ... that is free in the working
/// folder, also when another process looks for one at the same time.
fn write_new(stem: &str, bytes: &[u8]) -> Result<PathBuf> {
    let first = PathBuf::from(format!("{stem}.png"));
    let mut file = filled(Path::new("."), bytes).map_err(|e| failed(&first, &e))?;
    for n in 0..MOST_NAMES {
        let path = match n {
            0 => first.clone(),
            _ => PathBuf::from(format!("{stem}-{n}.png")),
        };
        match file.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => file = taken.file,
            Err(other) => return Err(failed(&path, &other.error)),
        }
    }
    let problem = format!("it and {MOST_NAMES} names after it are taken");
    Err(Error::file(&first, problem, "name another file"))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// A temporary file that goes away when it is dropped.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".calotype-").suffix(".tmp");
    #[cfg(unix)]
    {
        // Not the private mode of temporary files: this one becomes a picture.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

fn filled(folder: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = temporary(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Whether `folder` exists and takes files.
fn probe(folder: &Path) -> Result<()> {
    match folder.metadata() {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Error::file(folder, "is not a folder", "choose a folder")),
        Err(error) => {
            let remedy = "make the folder first, or choose another";
            return Err(no_folder(folder, &error, remedy));
        }
    }
    match temporary(folder) {
        Ok(_) => Ok(()),
        Err(error) => Err(no_folder(folder, &error, CHOOSE)),
    }
}

fn no_folder(folder: &Path, error: &io::Error, remedy: &str) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull => FULL,
        _ => remedy,
    };
    let problem = format!("cannot write to this folder: {}", plain(error));
    Error::file(folder, problem, remedy)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL,
        io::ErrorKind::FileTooLarge => "raise the limit on file sizes, such as with ulimit -f",
        _ => CHOOSE,
    };
    Error::file(path, format!("cannot be written: {}", plain(error)), remedy)
}

/// The system's message, without the temporary name that the library adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_named_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        for text in ["one", "two"] {
            let destination = Destination::check(Some(&path), 1).unwrap();
            assert_eq!(destination.write(0, 7, text.as_bytes()).unwrap(), path);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["x.png"]);
    }

    #[test]
    fn several_pictures_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::check(Some(&folder.path().join("x.jpg")), 2).unwrap();
        for i in 0..2 {
            destination.write(i, 7, b"x").unwrap();
        }
        assert_eq!(names(folder.path()), ["x-0.jpg", "x-1.jpg"]);
    }

    #[test]
    fn sheets_and_previews_lie_beside_the_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.y.jpg");
        let destination = Destination::check(Some(&path), 2).unwrap();
        destination.check_beside(true, true).unwrap();
        for text in ["one", "two"] {
            let grid = destination.write_grid(7, text.as_bytes()).unwrap();
            let preview = destination.write_preview(7, text.as_bytes()).unwrap();
            assert_eq!(preview, destination.preview_path(7));
            for path in [grid, preview] {
                assert_eq!(fs::read_to_string(path).unwrap(), text);
            }
        }
        assert_eq!(names(folder.path()), ["x.y-grid.jpg", "x.y-preview.png"]);
        let unnamed = Destination::check(None, 2).unwrap().preview_path(7);
        assert_eq!(unnamed, Path::new("calotype-7-preview.png"));

        fs::create_dir(folder.path().join("z-grid.png")).unwrap();
        let other = Destination::check(Some(&folder.path().join("z.png")), 2).unwrap();
        assert!(other.check_beside(false, true).is_ok());
        assert!(other.check_beside(true, false).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_said_before() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let message = |name: &str| {
            let path = folder.path().join(name);
            Destination::check(Some(&path), 1).unwrap_err().to_string()
        };
        assert!(message("").contains("is a folder; name a file"));
        assert!(message("none/x.png").contains("none: cannot write to this folder: No such"));
        assert!(message("file/x.png").contains("is not a folder"));
        assert!(message("x.gif").contains("must be a file name that ends in"));
        assert_eq!(names(folder.path()), ["file"]);
    }
}
