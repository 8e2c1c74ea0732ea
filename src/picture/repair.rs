//! Files whose container is damaged but whose pixels are all there: the container is
//! written again around them, for decoders that are strict about both.

use std::borrow::Cow;
use std::collections::HashMap;

/// A file that a strict decoder takes, and what had to be done for that.
pub(super) struct Repaired<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// What is wrong with the file; empty for a sound one.
    pub damage: Vec<String>,
}

/// A JPEG's parts (ITU-T T.81, annex B).
pub(super) struct Jpeg<'a> {
    pub repaired: Repaired<'a>,
    /// Whether its end mark is there.
    pub ended: bool,
    scans: Scans,
}

mod mark {
    pub const START_OF_IMAGE: u8 = 0xd8;
    pub const END_OF_IMAGE: u8 = 0xd9;
    pub const START_OF_SCAN: u8 = 0xda;
    pub const TEMPORARY: u8 = 0x01;

    /// Those that stand alone among pixels: `RST0` to `RST7`.
    pub fn is_restart(kind: u8) -> bool {
        (0xd0..=0xd7).contains(&kind)
    }

    /// Those of a frame: `SOF0` to `SOF15`, without the tables in between.
    pub fn is_frame(kind: u8) -> bool {
        (0xc0..=0xcf).contains(&kind) && ![0xc4, 0xc8, 0xcc].contains(&kind)
    }
}

impl<'a> Jpeg<'a> {
    /// Steps over the parts of `bytes`; an error says why that cannot be done.
    pub fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut whole = vec![0xff, mark::START_OF_IMAGE];
        let mut scans = Scans::default();
        let (mut at, mut stray, mut ended) = (2, 0, false);
        let mut damage = Vec::new();
        let mut has_others = false;
        while let Some(rest @ [first, next, ..]) = bytes.get(at..) {
            let kind = match (first, *next) {
                // A fill byte.
                (0xff, 0xff) => {
                    at += 1;
                    continue;
                }
                (0xff, kind) if !is_misplaced(kind) => kind,
                _ => {
                    (at, stray) = (at + 1, stray + 1);
                    continue;
                }
            };
            if kind == mark::END_OF_IMAGE {
                ended = true;
                let trailer = &rest[2..];
                if is_garbage(trailer) && !has_others {
                    damage.push(format!("{} bytes after its end", trailer.len()));
                }
                break;
            }
            let length = match rest {
                [_, _, high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
                _ => rest.len() + 1,
            };
            let Some(segment) = rest.get(..length).filter(|segment| segment.len() >= 4) else {
                // Cut off.
                break;
            };
            has_others |= segment.get(4..8) == Some(b"MPF\0");
            scans.note(kind, &segment[4..]);
            whole.extend_from_slice(segment);
            at += length;
            if kind == mark::START_OF_SCAN {
                let pixels = scan(&bytes[at..]);
                whole.extend_from_slice(pixels);
                at += pixels.len();
            }
        }
        if !scans.begun {
            return Err("its pixels are missing");
        }
        if stray > 0 {
            damage.insert(0, format!("{stray} stray bytes between its parts"));
        }
        match ended {
            true => whole.extend_from_slice(&[0xff, mark::END_OF_IMAGE]),
            false => damage.push("its end mark is missing".to_owned()),
        }
        Ok(Self {
            repaired: Repaired {
                bytes: match damage.is_empty() {
                    true => Cow::Borrowed(bytes),
                    false => Cow::Owned(whole),
                },
                damage,
            },
            ended,
            scans,
        })
    }

    /// The file without its end mark, once for each of several continuations; pixels
    /// that come out the same from all of them need none. None where a whole scan is
    /// missing.
    pub fn continued(&self) -> Vec<Vec<u8>> {
        /// Bits that begin in every way two bits can.
        const PADDING: [u8; 4] = [0x00, 0x55, 0xaa, 0xfe];
        const LENGTH: usize = 256;
        if !self.scans.are_complete() {
            return Vec::new();
        }
        // Half a mark is no part of the pixels.
        let bytes = self.repaired.bytes.strip_suffix(&[0xff]);
        let bytes = bytes.unwrap_or(&self.repaired.bytes);
        let end = [0xff, mark::END_OF_IMAGE];
        PADDING
            .iter()
            .map(|padding| [bytes, &[*padding; LENGTH], &end].concat())
            .collect()
    }
}

/// Marks that have no place between the parts of a file.
fn is_misplaced(kind: u8) -> bool {
    matches!(kind, 0 | mark::TEMPORARY | mark::START_OF_IMAGE) || mark::is_restart(kind)
}

/// Pixels, up to the next mark that is none of theirs.
fn scan(bytes: &[u8]) -> &[u8] {
    let ends =
        |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff) && !mark::is_restart(pair[1]);
    let end = bytes.windows(2).position(ends).unwrap_or(bytes.len());
    &bytes[..end]
}

/// Whether bytes after the end are nothing that cameras put there: padding, another
/// picture, a film.
fn is_garbage(trailer: &[u8]) -> bool {
    let start = trailer.iter().position(|byte| *byte != 0);
    let padding = start.unwrap_or(trailer.len());
    let rest = &trailer[padding..];
    let film = trailer.get(4..8) == Some(b"ftyp") || rest.get(1..5) == Some(b"ftyp");
    !rest.is_empty() && !rest.starts_with(&[0xff, mark::START_OF_IMAGE]) && !film
}

/// Which coefficients of which component the scans bring.
#[derive(Default)]
struct Scans {
    begun: bool,
    /// Of every component, the lowest bit that is there of each coefficient.
    lowest: HashMap<u8, [u8; 64]>,
}

impl Scans {
    /// Notes what a segment, without mark and length, says of them.
    fn note(&mut self, kind: u8, segment: &[u8]) {
        const MISSING: u8 = u8::MAX;
        if mark::is_frame(kind) {
            let components = segment.get(6..).unwrap_or_default().chunks_exact(3);
            self.lowest = components.map(|c| (c[0], [MISSING; 64])).collect();
        }
        if kind != mark::START_OF_SCAN {
            return;
        }
        self.begun = true;
        let count = usize::from(segment.first().copied().unwrap_or(0));
        let Some([first, last, bits]) = segment.get(1 + 2 * count..4 + 2 * count) else {
            return;
        };
        for component in segment[1..].chunks_exact(2).take(count) {
            let known = self.lowest.get_mut(&component[0]);
            let span = usize::from(*first)..=usize::from(*last);
            if let Some(band) = known.and_then(|known| known.get_mut(span)) {
                band.fill(bits & 15);
            }
        }
    }

    fn are_complete(&self) -> bool {
        let mut all = self.lowest.values().flatten();
        !self.lowest.is_empty() && all.all(|lowest| *lowest == 0)
    }
}

const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A PNG's pixels and what they need, in a container that is sound.
pub(super) struct Png {
    whole: Vec<u8>,
    /// What is wrong with the file's own; empty for a sound one.
    pub damage: Vec<String>,
    /// The file ends among the pixels.
    cut: bool,
}

impl Png {
    /// The file in its new container, if every pixel is there: the check sum over all
    /// of them fits, or the file ends with the last one (PNG specification, 5 and 10).
    pub fn repaired(&self) -> Option<&[u8]> {
        has_all_pixels(&self.whole, !self.cut).then_some(&self.whole)
    }
}

/// Steps over the parts of `bytes`; an error says what is damaged that the pixels
/// cannot do without.
pub(super) fn png(bytes: &[u8]) -> Result<Png, String> {
    let rest = bytes.strip_prefix(PNG_START);
    let mut rest = rest.ok_or("its start is missing")?;
    let (mut whole, mut damage) = (PNG_START.to_vec(), Vec::new());
    let (mut cut, mut ended) = (false, false);
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let (length, name) = head.split_at(4);
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if name == b"IEND" {
            ended = true;
            let trailer = body.get(4..).unwrap_or_default();
            if trailer.iter().any(|byte| *byte != 0) {
                damage.push(format!("{} bytes after its end", trailer.len()));
            }
            break;
        }
        let data = body.get(..length);
        let sum = body.get(length..).and_then(|rest| rest.first_chunk::<4>());
        let sound = data
            .zip(sum)
            .is_some_and(|(data, sum)| u32::from_be_bytes(*sum) == check_sum(name, data));
        match (name, data) {
            (b"IHDR" | b"PLTE" | b"tRNS", Some(data)) if sound => put(&mut whole, name, data),
            // Without these the pixels are others.
            (b"IHDR" | b"PLTE" | b"tRNS", _) => {
                let name = String::from_utf8_lossy(name);
                return Err(format!("its part {name} has a wrong check sum"));
            }
            (b"IDAT", Some(data)) => {
                if !sound && sum.is_some() {
                    damage.push("a wrong check sum".to_owned());
                }
                put(&mut whole, name, data);
            }
            (b"IDAT", None) => {
                cut = true;
                put(&mut whole, name, body);
            }
            (b"eXIf", Some(data)) if sound => put(&mut whole, name, data),
            (_, Some(_)) if sound => {}
            (_, _) if name.iter().all(u8::is_ascii_alphabetic) => {
                let name = String::from_utf8_lossy(name);
                damage.push(format!("a damaged part {name}"));
            }
            _ => break,
        }
        match body.get(length + 4..) {
            Some(next) => rest = next,
            None => break,
        }
    }
    if !ended {
        damage.push("its end is missing".to_owned());
    }
    put(&mut whole, b"IEND", &[]);
    damage.dedup();
    Ok(Png { whole, damage, cut })
}

/// Writes a chunk.
fn put(whole: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    whole.extend_from_slice(&(data.len() as u32).to_be_bytes());
    whole.extend_from_slice(name);
    whole.extend_from_slice(data);
    whole.extend_from_slice(&check_sum(name, data).to_be_bytes());
}

fn check_sum(name: &[u8], data: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(name);
    sum.update(data);
    sum.finalize()
}

/// Whether every row can be decoded, and with `checked` the sum over them fits too.
fn has_all_pixels(png: &[u8], checked: bool) -> bool {
    let mut options = png::DecodeOptions::default();
    options.set_ignore_adler32(!checked);
    let decoder = png::Decoder::new_with_options(std::io::Cursor::new(png), options);
    let Ok(mut reader) = decoder.read_info() else {
        return false;
    };
    loop {
        match reader.next_row() {
            Ok(Some(_)) => {}
            Ok(None) => return !checked || reader.finish().is_ok(),
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_are_complete_when_every_bit_of_every_coefficient_came() {
        let frame = [8, 0, 8, 0, 8, 2, 1, 0x11, 0, 2, 0x11, 0];
        let mut scans = Scans::default();
        scans.note(0xc2, &frame);
        let mut after = |segment: &[u8]| {
            scans.note(mark::START_OF_SCAN, segment);
            scans.are_complete()
        };
        assert!(!after(&[2, 1, 0, 2, 0, 0, 0, 0x01]));
        assert!(!after(&[1, 1, 0, 1, 63, 0x00]));
        assert!(!after(&[2, 1, 0, 2, 0, 0, 0, 0x10]));
        assert!(!after(&[1, 2, 0, 1, 63, 0x02]));
        assert!(after(&[1, 2, 0, 1, 63, 0x20]));
        assert!(!after(&[1, 9, 0, 60, 70, 0x20]) || scans.begun);
    }
}
