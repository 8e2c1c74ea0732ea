//! The files inside a zip archive, by name (PKWARE's APPNOTE 6.3, with its zip64
//! records). Only files that are stored as they are, as PyTorch stores them: they are
//! ranges of the archive's own bytes. Nothing is allocated by a count that the archive
//! claims.

use super::Problem;
use crate::checkpoint::file::bytes::Cursor;
use std::collections::HashMap;
use std::ops::Range;

/// The end of the directory, without its comment, and the longest comment.
const END: usize = 22;
const LONGEST_COMMENT: usize = 0xffff;
const LOCATOR: usize = 20;

/// More are no model's: each tensor has one.
const MOST_FILES: u64 = 1 << 16;

/// Names and places.
pub(super) struct Archive {
    files: HashMap<String, Range<usize>>,
}

/// Where the directory is.
struct Directory {
    files: u64,
    start: u64,
}

impl Archive {
    pub fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let directory = directory(bytes)
            .ok_or_else(|| Problem::damaged("truncated: a zip archive without its directory"))?;
        if directory.files > MOST_FILES {
            let what = format!("a zip archive that claims {} files", directory.files);
            return Err(Problem::damaged(what));
        }
        let start = usize::try_from(directory.start).ok();
        let rest = start.and_then(|start| bytes.get(start..));
        let mut at = Cursor::new(rest.unwrap_or_default());
        let mut files = HashMap::new();
        for _ in 0..directory.files {
            let file = File::read(&mut at)
                .ok_or_else(|| Problem::damaged("truncated in its zip directory"))?;
            let name = String::from_utf8_lossy(file.name).into_owned();
            if file.is_encrypted || file.method != 0 {
                let how = if file.is_encrypted {
                    "encrypted"
                } else {
                    "compressed"
                };
                let what = format!("a zip archive whose {name} is {how}, which PyTorch's are not");
                return Err(Problem::other(what));
            }
            let place = file.place(bytes).ok_or_else(|| {
                Problem::damaged(format!("truncated: {name} lies beyond its end"))
            })?;
            files.insert(name, place);
        }
        Ok(Self { files })
    }

    /// The folder of PyTorch's files, `archive/`, and the pickle in it.
    pub fn pickle(&self) -> Option<(&str, &Range<usize>)> {
        let mut pickles = self.files.iter().filter_map(|(name, place)| {
            let folder = name.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.ends_with('/')).then_some((folder, place))
        });
        // The outermost, should there be several.
        let first = pickles.next()?;
        Some(pickles.fold(first, |a, b| {
            if (b.0.len(), b.0) < (a.0.len(), a.0) {
                b
            } else {
                a
            }
        }))
    }

    pub fn file(&self, name: &str) -> Option<Range<usize>> {
        self.files.get(name).cloned()
    }
}

/// Finds the directory by the record at the archive's end.
fn directory(bytes: &[u8]) -> Option<Directory> {
    let first = bytes.len().saturating_sub(END + LONGEST_COMMENT);
    let last = bytes.len().checked_sub(END)?;
    let end = (first..=last)
        .rev()
        .find(|at| bytes[*at..].starts_with(b"PK\x05\x06"))?;
    let mut at = Cursor::new(&bytes[end..]);
    at.take(10)?;
    let files = at.u16()?;
    at.take(4)?;
    let start = at.u32()?;
    if files != u16::MAX && start != u32::MAX {
        return Some(Directory {
            files: files.into(),
            start: start.into(),
        });
    }
    let locator = bytes.get(end.checked_sub(LOCATOR)?..)?;
    let mut at = Cursor::new(locator.strip_prefix(b"PK\x06\x07")?);
    at.take(4)?;
    let end = bytes.get(at.size()?..)?;
    let mut at = Cursor::new(end.strip_prefix(b"PK\x06\x06")?);
    at.take(28)?;
    let files = at.u64()?;
    at.take(8)?;
    Some(Directory {
        files,
        start: at.u64()?,
    })
}

/// A row of the directory.
struct File<'a> {
    name: &'a [u8],
    is_encrypted: bool,
    method: u16,
    size: u64,
    start: u64,
}

impl<'a> File<'a> {
    fn read(at: &mut Cursor<'a>) -> Option<Self> {
        if at.take(4)? != b"PK\x01\x02" {
            return None;
        }
        at.take(4)?;
        let (flags, method) = (at.u16()?, at.u16()?);
        at.take(8)?;
        let (packed, size) = (at.u32()?, at.u32()?);
        let (name, extra, comment) = (at.u16()?, at.u16()?, at.u16()?);
        at.take(8)?;
        let start = at.u32()?;
        let name = at.take(name.into())?;
        let extra = at.take(extra.into())?;
        at.take(comment.into())?;
        let mut file = Self {
            name,
            is_encrypted: flags & 1 != 0,
            method,
            size: size.into(),
            start: start.into(),
        };
        // Sizes that 32 bits cannot hold follow, in this order.
        let mut large = Cursor::new(large(extra).unwrap_or_default());
        if size == u32::MAX {
            file.size = large.u64()?;
        }
        if packed == u32::MAX {
            large.u64()?;
        }
        if start == u32::MAX {
            file.start = large.u64()?;
        }
        Some(file)
    }

    /// Where its bytes are: after a header of its own.
    fn place(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let start = usize::try_from(self.start).ok()?;
        let mut at = Cursor::new(bytes.get(start..)?);
        if at.take(4)? != MAGIC {
            return None;
        }
        at.take(22)?;
        let (name, extra) = (at.u16()?, at.u16()?);
        at.take(name.into())?;
        at.take(extra.into())?;
        let from = start + at.position();
        let to = from.checked_add(usize::try_from(self.size).ok()?)?;
        (to <= bytes.len()).then_some(from..to)
    }
}

const MAGIC: &[u8] = super::MAGIC;

/// The zip64 record among a file's extra fields.
fn large(extra: &[u8]) -> Option<&[u8]> {
    let mut at = Cursor::new(extra);
    loop {
        let (kind, length) = (at.u16()?, at.u16()?);
        let field = at.take(length.into())?;
        if kind == 1 {
            return Some(field);
        }
    }
}
