//! One file's bytes: gone on with where they were cut off, and believed by their hash alone.

use super::api::{Hub, Trouble};
use super::{File, Hash, Progress};
use crate::{Error, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::StatusCode;

/// Tries without a byte, after which a download is given up.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
const CHUNK: usize = 1 << 18;

fn part_of(blobs: &Path, file: &File) -> PathBuf {
    blobs.join(format!("{}.incomplete", file.hash.digits()))
}

/// How many of a file's bytes are there.
pub(super) fn there(blobs: &Path, file: &File) -> u64 {
    let size = |path: PathBuf| fs::metadata(path).ok().map(|data| data.len());
    let whole = size(blobs.join(file.hash.digits()));
    let part = || size(part_of(blobs, file)).filter(|bytes| *bytes <= file.size);
    whole.or_else(part).unwrap_or(0)
}

/// Downloads a file to its blob, if it is not there.
///
/// # Errors
/// As [`super::pull`].
pub(super) fn fetch(
    hub: &Hub,
    base: &str,
    file: &File,
    blobs: &Path,
    told: &mut dyn FnMut(Progress<'_>) -> Result<()>,
) -> Result<()> {
    let (blob, path) = (blobs.join(file.hash.digits()), part_of(blobs, file));
    if blob.exists() {
        return Ok(());
    }
    told(Progress::File(file))?;
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).read(true).write(true);
    let mut part = options
        .open(&path)
        .map_err(|e| unwritten(&path, file, &e))?;
    if part.try_lock().is_err() {
        let remedy = "wait until it has ended";
        return Err(Error::file(&path, "another process downloads it", remedy));
    }
    let mut tries = 0;
    loop {
        let length = part
            .seek(SeekFrom::End(0))
            .map_err(|e| unwritten(&path, file, &e))?;
        if length >= file.size {
            break;
        }
        let why = match stream(hub, base, file, length, (&path, &mut part), told) {
            Ok(()) => "the connection was cut".to_owned(),
            Err(Trouble::Passing(why)) => why,
            Err(Trouble::Lasting(error)) => return Err(error),
        };
        let grown = part
            .seek(SeekFrom::End(0))
            .map_err(|e| unwritten(&path, file, &e))?;
        if grown >= file.size {
            break;
        }
        tries = if grown > length { 1 } else { tries + 1 };
        if tries >= TRIES {
            let problem = format!("{grown} of {} bytes came, then: {why}", file.size);
            let remedy = "look at the connection, and run it again: it goes on from there";
            return Err(Error::file(&file.path, problem, remedy));
        }
        told(Progress::Again(&why))?;
        std::thread::sleep(PAUSE * tries);
    }
    check(&path, &mut part, file)?;
    drop(part);
    fs::rename(&path, &blob).map_err(|e| unwritten(&blob, file, &e))
}

/// Appends what the hub sends from `length` on, until it ends.
fn stream(
    hub: &Hub,
    base: &str,
    file: &File,
    length: u64,
    (path, part): (&Path, &mut fs::File),
    told: &mut dyn FnMut(Progress<'_>) -> Result<()>,
) -> Result<(), Trouble> {
    let unwritten = |e: io::Error| Trouble::Lasting(unwritten(path, file, &e));
    let mut answer = hub.ask(&format!("{base}/{}", encoded(&file.path)), length)?;
    let mut left = file.size - length;
    let starts = format!("bytes {length}-");
    let range = answer.headers().get("content-range");
    let goes_on = range.is_some_and(|range| range.as_bytes().starts_with(starts.as_bytes()));
    if length > 0 && !(answer.status() == StatusCode::PARTIAL_CONTENT && goes_on) {
        // It sends all, or nothing.
        part.set_len(0)
            .and_then(|()| part.rewind())
            .map_err(unwritten)?;
        if answer.status() != StatusCode::OK {
            return Err(Trouble::Passing("the hub does not go on from there".into()));
        }
        left = file.size;
    }
    let mut body = answer.body_mut().as_reader();
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let most = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        let count = match body.read(&mut chunk[..most]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) => return Err(Trouble::Passing(e.to_string())),
        };
        part.write_all(&chunk[..count]).map_err(unwritten)?;
        left -= count as u64;
        told(Progress::Bytes(count as u64)).map_err(Trouble::Lasting)?;
    }
    Ok(())
}

/// Compares a whole file's hash; one that differs is removed.
fn check(path: &Path, part: &mut fs::File, file: &File) -> Result<()> {
    let unread = |e: io::Error| unwritten(path, file, &e);
    part.rewind().map_err(unread)?;
    let found = match &file.hash {
        Hash::Sha256(_) => digest(Sha256::new(), part).map_err(unread)?,
        Hash::Git(_) => {
            let start = format!("blob {}\0", file.size);
            digest(Sha1::new_with_prefix(start), part).map_err(unread)?
        }
    };
    if found.eq_ignore_ascii_case(file.hash.digits()) {
        return Ok(());
    }
    fs::remove_file(path).map_err(unread)?;
    let expected = file.hash.digits();
    let problem = format!("what came has the hash {found}, the hub says {expected}");
    let remedy = "run it again; a proxy between may change what passes";
    Err(Error::file(&file.path, problem, remedy))
}

fn digest(mut hash: impl Digest, from: &mut fs::File) -> io::Result<String> {
    let mut from = BufReader::with_capacity(CHUNK, from);
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk)? {
            0 => break,
            count => hash.update(&chunk[..count]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A path's parts as a URL has them.
fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

fn unwritten(path: &Path, file: &File, error: &io::Error) -> Error {
    let problem = format!(
        "{} ({} bytes) cannot be kept: {error}",
        file.path, file.size
    );
    let remedy = "make room, or choose another cache by HF_HOME; run it again, and it goes on";
    Error::file(path, problem, remedy)
}
