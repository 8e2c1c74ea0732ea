//! Pictures that others made, against Pillow (`tools/make_picture_fixture.py`), and
//! the settings inside pictures.

use calotype::picture::{Fit, Format, Mask, Parameters, Picture};
use image::{DynamicImage, ImageFormat};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/pictures")
        .join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

fn opened(name: &str) -> Picture {
    Picture::open(fixture(name)).unwrap()
}

fn message(bytes: &[u8]) -> String {
    Picture::from_bytes("image", bytes).unwrap_err().to_string()
}

/// A small picture that compresses badly.
fn noise(width: usize, height: usize) -> Picture {
    let mut rng = StdRng::seed_from_u64(1);
    Picture {
        width,
        height,
        rgb: (0..width * height * 3).map(|_| rng.random()).collect(),
    }
}

#[test]
fn resizing_is_pillows() {
    let source = opened("source.png");
    let sizes = [
        "16x16", "61x50", "8x40", "37x9", "24x23", "1x1", "5x3", "61x12", "30x4",
    ];
    let stretched = sizes.map(|size| (format!("resize-{size}.png"), Fit::Stretch));
    let cut = ["16x16", "50x20", "7x40", "9x17"].map(|size| (format!("fit-{size}.png"), Fit::Crop));
    for (name, fit) in stretched.iter().chain(&cut) {
        let expected = opened(name);
        let found = source.resized(expected.width, expected.height, *fit);
        assert_eq!(found.unwrap(), expected, "{name}");
    }
    let same = source.resized(source.width, source.height, Fit::Stretch);
    assert_eq!(same.unwrap(), source);
}

#[test]
fn masks_are_diffusers() {
    let mask = Mask::open(fixture("mask.png")).unwrap();
    let expected = Mask::open(fixture("mask-64x48.png")).unwrap();
    let found = mask.resized(64, 48, Fit::Stretch).unwrap();
    let pairs = found.to_planar().into_iter().zip(expected.to_planar());
    let apart = pairs.filter(|(a, b)| a != b).count();
    println!("{apart} of {} differ", 64 * 48);
    assert_eq!(apart, 0);
    assert!(found.painted() > 64 * 48 / 8 && found.inverted().painted() > 64 * 48 / 8);
}

#[test]
fn pictures_are_turned_as_exif_says() {
    const RED: [u8; 3] = [255, 0, 0];
    const GREEN: [u8; 3] = [0, 255, 0];
    const BLUE: [u8; 3] = [0, 0, 255];
    const WHITE: [u8; 3] = [255; 3];
    // Top left, top right, bottom left, bottom right, as Pillow's exif_transpose.
    let corners = [
        [RED, GREEN, BLUE, WHITE],
        [GREEN, RED, WHITE, BLUE],
        [WHITE, BLUE, GREEN, RED],
        [BLUE, WHITE, RED, GREEN],
        [RED, BLUE, GREEN, WHITE],
        [BLUE, RED, WHITE, GREEN],
        [WHITE, GREEN, BLUE, RED],
        [GREEN, WHITE, RED, BLUE],
    ];
    let jpeg = bytes("turned.jpg");
    let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6];
    let at = jpeg.windows(10).position(|part| part == entry).unwrap() + 9;
    for (orientation, expected) in (1..).zip(corners) {
        let mut turned = jpeg.clone();
        turned[at] = orientation;
        let picture = Picture::from_bytes("image", &turned).unwrap();
        let (right, bottom) = (picture.width - 1, picture.height - 1);
        let size = if orientation < 5 { (32, 16) } else { (16, 32) };
        assert_eq!((picture.width, picture.height), size, "{orientation}");
        for ((x, y), expected) in [(0, 0), (right, 0), (0, bottom), (right, bottom)]
            .into_iter()
            .zip(expected)
        {
            let start = 3 * (y * picture.width + x);
            let found = &picture.rgb[start..start + 3];
            let near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) < 16);
            assert!(near, "{orientation}: {x} {y}: {found:?}");
        }
    }
}

/// A file of every format that is read.
fn every_format() -> Vec<(&'static str, Vec<u8>)> {
    let picture = noise(24, 20);
    let mut bmp = Cursor::new(Vec::new());
    let image = image::RgbImage::from_raw(24, 20, picture.rgb.clone()).unwrap();
    DynamicImage::from(image)
        .write_to(&mut bmp, ImageFormat::Bmp)
        .unwrap();
    vec![
        ("png", Format::Png.encode(&picture, None).unwrap()),
        ("webp", Format::Webp.encode(&picture, None).unwrap()),
        ("lossy webp", bytes("a1111.webp")),
        ("jpeg", Format::Jpeg.encode(&picture, None).unwrap()),
        ("baseline", bytes("baseline.jpg")),
        ("progressive", bytes("progressive.jpg")),
        ("bmp", bmp.into_inner()),
    ]
}

#[test]
fn a_file_is_known_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    for (format, bytes) in every_format() {
        let path = folder.path().join("misnamed.txt");
        fs::write(&path, bytes).unwrap();
        let picture = Picture::open(&path).unwrap();
        assert!(picture.width >= 16 && picture.height >= 8, "{format}");
    }
}

#[test]
fn what_is_cut_short_is_an_error() {
    for (format, whole) in every_format() {
        let decoded = Picture::from_bytes("image", &whole).unwrap();
        let mut longest = 0;
        for end in 0..whole.len() {
            match Picture::from_bytes("image", &whole[..end]) {
                // What is missing may be an end mark alone, and no pixel.
                Ok(picture) => assert_eq!(picture, decoded, "{format}: {end}"),
                Err(error) => {
                    longest = end;
                    assert!(error.is_usage() && error.to_string().lines().count() == 1);
                }
            }
        }
        println!("{format}: refused to {longest} of {}", whole.len());
        assert!(longest + 24 >= whole.len(), "{format}: {longest}");
    }
}

/// A picture from a damaged file, and what is said of it.
fn repaired(bytes: &[u8]) -> (Picture, String) {
    let mut notes = Vec::new();
    let picture = Picture::from_bytes_noting("image", bytes, &mut notes).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    (picture, notes.remove(0))
}

/// `bytes` with `more` before `at`.
fn with(bytes: &[u8], at: usize, more: &[u8]) -> Vec<u8> {
    [&bytes[..at], more, &bytes[at..]].concat()
}

#[test]
fn damage_that_costs_no_pixel_is_read_and_said() {
    for name in ["baseline.jpg", "progressive.jpg", "turned.jpg"] {
        let whole = bytes(name);
        let mut notes = Vec::new();
        let decoded = Picture::from_bytes_noting("image", &whole, &mut notes).unwrap();
        assert_eq!(notes, [""; 0], "{name}");
        let scan = whole
            .windows(2)
            .position(|pair| pair == [0xff, 0xda])
            .unwrap();
        let tables = whole
            .windows(2)
            .position(|pair| pair == [0xff, 0xdb])
            .unwrap();
        let end = whole.len() - 2;
        for (damaged, what) in [
            (
                with(&whole, scan, &[0, 0]),
                "2 stray bytes between its parts",
            ),
            (with(&whole, tables, b"stray bytes"), "11 stray bytes"),
            (with(&whole, tables, &[0, 0xff, 0xd0, 7]), "4 stray bytes"),
            (whole[..end].to_vec(), "its end mark is missing"),
            (whole[..end + 1].to_vec(), "its end mark is missing"),
            (with(&whole, end + 2, b"a letter"), "8 bytes after its end"),
        ] {
            let (picture, note) = repaired(&damaged);
            assert_eq!(picture, decoded, "{name}: {what}");
            assert!(note.contains(what), "{name}: {note}");
            assert!(
                note.starts_with("image is damaged, but no pixel is lost"),
                "{note}"
            );
            let size = Picture::size_of("image", &damaged).unwrap();
            let turned = [
                (decoded.width, decoded.height),
                (decoded.height, decoded.width),
            ];
            assert!(turned.contains(&size), "{name}: {size:?}");
        }
        // What cameras put there is no damage.
        for trailer in [&[0; 16][..], &whole, b"\0\0\0\x18ftypmp42"] {
            notes.clear();
            let with = with(&whole, end + 2, trailer);
            let picture = Picture::from_bytes_noting("image", &with, &mut notes).unwrap();
            assert_eq!((picture, notes.len()), (decoded.clone(), 0), "{name}");
        }
    }

    let picture = noise(24, 20);
    let settings = Parameters::new("a", None).with("Steps", 1);
    let whole = Format::Png.encode(&picture, Some(&settings)).unwrap();
    let chunk = |name: &[u8]| whole.windows(4).position(|part| part == name).unwrap();
    let text = chunk(b"tEXt");
    let pixels = chunk(b"IDAT");
    let length = u32::from_be_bytes(whole[pixels - 4..pixels].try_into().unwrap()) as usize;
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let end = whole.len() - 12;
    for (damaged, what) in [
        (changed(text + 6), "a damaged part tEXt"),
        // The check sum of the pixels' part, not the one over all of them.
        (changed(pixels + 4 + length), "a wrong check sum"),
        (whole[..end].to_vec(), "its end is missing"),
        (whole[..end + 6].to_vec(), "its end is missing"),
        (whole[..end - 3].to_vec(), "its end is missing"),
        (
            with(&whole, whole.len(), b"a letter"),
            "8 bytes after its end",
        ),
    ] {
        let (found, note) = repaired(&damaged);
        assert_eq!(found, picture, "{what}");
        assert!(note.contains(what), "{what}: {note}");
    }
    for lost in [pixels + 4 + length / 2, chunk(b"IHDR") + 6] {
        let error = message(&changed(lost));
        assert!(error.starts_with("image is a damaged "), "{error}");
    }
}

#[test]
fn damaged_files_never_panic() {
    let mut rng = StdRng::seed_from_u64(2);
    for (format, whole) in every_format() {
        let mut refused = 0;
        for _ in 0..400 {
            let mut damaged = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..damaged.len());
                damaged[at] ^= 1 << rng.random_range(0..8);
            }
            refused += usize::from(Picture::from_bytes("image", &damaged).is_err());
            let _ = Parameters::read("image", &damaged);
        }
        println!("{format}: {refused} of 400 refused");
    }
    // A marker that does not belong among the pixels.
    let mut jpeg = bytes("baseline.jpg");
    let at = jpeg.len() - 60;
    jpeg[at..at + 2].copy_from_slice(&[0xff, 0xc4]);
    let error = message(&jpeg);
    assert!(
        error.starts_with("image is a damaged JPEG file ("),
        "{error}"
    );
    assert!(error.contains("save or download it again"), "{error}");
}

/// A PNG that ends where its pixels begin.
fn begin(encoder: png::Encoder<'_, &mut Vec<u8>>) {
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78]).unwrap();
}

#[test]
fn giant_pictures_are_refused_by_their_size() {
    let mut png = Vec::new();
    let encoder = png::Encoder::new(&mut png, 20_000, 20_000);
    begin(encoder);
    let mut jpeg = bytes("baseline.jpg");
    let frame = jpeg
        .windows(2)
        .position(|mark| mark == [0xff, 0xc0])
        .unwrap();
    let side = 20_000u16.to_be_bytes();
    jpeg[frame + 5..frame + 7].copy_from_slice(&side);
    jpeg[frame + 7..frame + 9].copy_from_slice(&side);
    let mut bmp = every_format().pop().unwrap().1;
    bmp[18..22].copy_from_slice(&20_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&20_000u32.to_le_bytes());
    for file in [png, jpeg, bmp] {
        let error = message(&file);
        let expected = "image is 20000x20000 pixels: a side may have at most 16384; scale";
        assert!(error.starts_with(expected), "{error}");
    }
    // 16 bits of four channels at the largest sides.
    let mut deep = Vec::new();
    let mut encoder = png::Encoder::new(&mut deep, 16_384, 16_384);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    begin(encoder);
    let error = message(&deep);
    assert!(error.contains("2147483648 bytes when decoded"), "{error}");
}

#[test]
fn settings_of_another_program_are_found() {
    let files = [
        "a1111-text.png",
        "a1111-ztxt.png",
        "a1111-itxt.png",
        "a1111-itxt-z.png",
        "a1111.jpg",
        "a1111.webp",
        "little.jpg",
        "little.webp",
    ];
    for name in files {
        let found = Parameters::open(fixture(name)).unwrap();
        let found = found.unwrap_or_else(|| panic!("{name} has settings"));
        let begins = "a cat, (red:1.2)\nin Zürich";
        assert!(found.prompt.starts_with(begins), "{name}: {found:?}");
        assert_eq!(found.negative_prompt.as_deref(), Some("dog"), "{name}");
        assert_eq!(found.get("Schedule type"), Some("Karras"), "{name}");
        assert_eq!(found.get("Lora hashes"), Some("a: 1f, b: 2e"), "{name}");
        assert_eq!(found.pairs.len(), 10, "{name}");
        assert!(found.settings.is_none(), "{name}");
    }
    for name in ["source.png", "baseline.jpg", "turned.jpg"] {
        assert_eq!(Parameters::open(fixture(name)).unwrap(), None, "{name}");
    }
    assert!(
        Parameters::read("image", b"nothing")
            .unwrap_err()
            .is_usage()
    );
}

/// Words that the text form has a meaning for, and characters that it has none for.
const HOSTILE: [&str; 16] = [
    "Negative prompt: x",
    "Steps: 5, Seed: 3, Size: 8x8",
    "\n",
    "\r\n",
    "\0",
    "\"",
    "\\",
    ", ",
    ": ",
    "日本🎨",
    "naïve",
    "\u{1b}[2J",
    "\u{feff}",
    " ",
    "calotype",
    "",
];

#[test]
fn settings_come_back_whatever_the_prompt() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut words = |most: usize| -> String {
        let count = rng.random_range(0..=most);
        (0..count)
            .map(|_| HOSTILE[rng.random_range(0..HOSTILE.len())])
            .collect()
    };
    let picture = noise(8, 8);
    for round in 0..100 {
        let negative = (round % 3 > 0).then(|| words(4));
        let prompt = words(8);
        let settings = serde_json::json!({
            "prompt": &prompt, "negative_prompt": &negative, "seed": 7, "odd": words(3),
        });
        let made = Parameters::new(&prompt, negative.as_deref())
            .with("Steps", 20)
            .with("Seed", 7)
            .with("Model", words(3))
            .with("Version", Parameters::VERSION)
            .with_settings(&settings);
        for format in [Format::Png, Format::Jpeg, Format::Webp] {
            let file = format.encode(&picture, Some(&made)).unwrap();
            let found = Parameters::read("image", &file).unwrap();
            assert_eq!(found.as_ref(), Some(&made), "{format:?}");
            let decoded = Picture::from_bytes("image", &file).unwrap();
            assert_eq!((decoded.width, decoded.height), (8, 8));
            assert!(format == Format::Jpeg || decoded == picture);
        }
    }
}

#[test]
fn a_jpeg_keeps_what_fits() {
    let picture = noise(8, 8);
    for (length, text, settings) in [
        (10, true, true),
        (30_000, false, true),
        (70_000, false, false),
    ] {
        let prompt = "x".repeat(length);
        let made = Parameters::new(&prompt, None)
            .with("Steps", 1)
            .with("Seed", 2)
            .with("Size", "8x8")
            .with_settings(&serde_json::json!({ "prompt": &prompt }));
        let file = Format::Jpeg.encode(&picture, Some(&made)).unwrap();
        assert!(Picture::from_bytes("image", &file).is_ok(), "{length}");
        let found = Parameters::read("image", &file).unwrap();
        assert_eq!(found.is_some(), settings, "{length}");
        if let Some(found) = found {
            assert_eq!(found.prompt, prompt);
            assert_eq!(found.get("Seed").is_some(), text, "{length}");
        }
        let file = Format::Webp.encode(&picture, Some(&made)).unwrap();
        assert_eq!(Parameters::read("image", &file).unwrap(), Some(made));
    }
}
