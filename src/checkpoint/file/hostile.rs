//! Files made to do harm: errors, no panic, no code that is run, and no more memory than
//! the file itself gives reason for.

use super::*;
use arbtest::arbitrary::{Result as Chosen, Unstructured};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts what each thread has and had at most.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every request is the system allocator's; only numbers are kept beside it, in
// places that need no allocation.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait asks; the layout is handed on.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().wrapping_add(layout.size());
        LIVE.set(live);
        // Frees of another thread's memory wrap below zero.
        if live < usize::MAX / 2 {
            PEAK.set(PEAK.get().max(live));
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait asks; pointer and layout are handed on.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `run` makes, and the most that it had at a time beyond what there was.
fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LIVE.set(0);
    PEAK.set(0);
    let made = run();
    (made, PEAK.get())
}

/// Opens bytes as a file would be, and reads some of every tensor.
fn open(bytes: &[u8]) -> Result<usize> {
    let (opened, peak) = peak(|| {
        TensorFile::new("file".into(), Bytes::Owned(bytes.to_vec())).map(|file| {
            for name in file.names() {
                if let Some(entry) = file.entry(&name) {
                    entry.numbers(4);
                    if let Some(view) = entry.view(entry.shape) {
                        let count = view.count().min(300);
                        view.values(0..count);
                        view.extent();
                    }
                }
            }
            file.names().len()
        })
    });
    // A row of a table takes more room than its bytes in the file, but not without end.
    let most = (96 * bytes.len() + (256 << 10)).min(bytes.len() + (32 << 20));
    assert!(peak <= most, "{peak} bytes for a file of {}", bytes.len());
    opened
}

fn message(bytes: &[u8]) -> String {
    match open(bytes) {
        Ok(tensors) => format!("taken, with {tensors} tensors"),
        Err(error) => error.to_string(),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/files");
    std::fs::read(folder.join(name)).unwrap()
}

/// Changes a good file in a few places, or makes one up.
fn mutated(u: &mut Unstructured<'_>, seeds: &[Vec<u8>]) -> Chosen<Vec<u8>> {
    let mut bytes = u.choose(seeds)?.clone();
    for _ in 0..u.int_in_range(0..=6)? {
        if bytes.is_empty() {
            break;
        }
        let at = u.choose_index(bytes.len())?;
        // Headers are at the beginning, a zip's directory is at the end.
        let at = match u.int_in_range(0..=3)? {
            0 => at,
            1 => bytes.len() - 1 - at % bytes.len().min(400),
            _ => at % bytes.len().min(400),
        };
        match u.int_in_range(0..=5)? {
            0 => bytes[at] = u.arbitrary()?,
            1 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
            2 => bytes.truncate(at),
            3 => {
                let number = *u.choose(&[0u64, 1, 0xffff, 1 << 31, 1 << 40, u64::MAX])?;
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            4 => {
                let from = u.choose_index(bytes.len())?;
                let piece = bytes[from..(from + 16).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = (at + u.int_in_range(1..=40)?).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    Ok(bytes)
}

/// Makes a file, from good ones or without them.
type Make = fn(&mut Unstructured<'_>, &[Vec<u8>]) -> Chosen<Vec<u8>>;

/// Runs of a fuzz target; `CALOTYPE_FUZZ_RUNS` asks for more.
fn fuzz(seeds: Vec<Vec<u8>>, make: Make) {
    let runs = std::env::var("CALOTYPE_FUZZ_RUNS").ok();
    let runs: u64 = runs.and_then(|runs| runs.parse().ok()).unwrap_or(2000);
    let (done, taken) = (Cell::new(0u64), Cell::new(0u64));
    while done.get() < runs {
        arbtest::arbtest(|u| {
            let bytes = make(u, &seeds)?;
            done.set(done.get() + 1);
            taken.set(taken.get() + u64::from(open(&bytes).is_ok()));
            Ok(())
        })
        .size_min(64)
        .budget_ms(200)
        .run();
    }
    let (done, taken) = (done.get(), taken.get());
    println!("{done} files, {taken} of them taken");
    // Otherwise none came as far as the tensors.
    assert!(taken > 0);
}

#[test]
fn no_safetensors_file_does_harm() {
    // The values add nothing: fuzzing is of headers.
    fuzz(
        vec![fixture("fp8.safetensors"), fixture("pickle.safetensors")],
        mutated,
    );
}

#[test]
fn no_gguf_file_does_harm() {
    let mut small = Gguf::default();
    small.text("general.architecture", "sdxl");
    small.number("general.alignment", 8);
    small.tensor("a", &[4, 2], 0, 0);
    small.tensor("b", &[32], 8, 32);
    fuzz(
        vec![fixture("types.gguf"), small.bytes(32 + 34 + 6)],
        mutated,
    );
}

#[test]
fn no_pickle_does_harm() {
    let seeds = ["pickle.ckpt", "protocol3.pt", "protocol4.pt", "turned.bin"];
    fuzz(seeds.map(fixture).to_vec(), mutated);
}

/// Instructions at random, within a good archive.
#[test]
fn no_instructions_do_harm() {
    const CODES: &[u8] = b"(.0123}])tdlaesucQRbqrhjNJKMXUTCBG\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x93\x94\x95io\x82P";
    fuzz(vec![fixture("pickle.ckpt")], |u, seeds| {
        let mut program = b"\x80\x02".to_vec();
        for _ in 0..u.int_in_range(1..=80)? {
            match u.int_in_range(0..=9)? {
                0 => program.extend(b"ctorch._utils\n_rebuild_tensor_v2\n"),
                1 => program.extend(b"ccollections\nOrderedDict\n"),
                2 => program.extend(b"X\x01\0\0\0a"),
                3 => program.extend(u.bytes(3)?),
                _ => program.push(*u.choose(CODES)?),
            }
        }
        program.push(b'.');
        // One that is taken, so that the seeds count.
        if u.ratio(1, 50)? {
            return Ok(seeds[0].clone());
        }
        Ok(torch_file(&program))
    });
}

/// A GGUF file by hand.
#[derive(Default)]
struct Gguf {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
}

impl Gguf {
    fn name(to: &mut Vec<u8>, name: &str) {
        to.extend((name.len() as u64).to_le_bytes());
        to.extend(name.as_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        Self::name(&mut self.keys, key);
        self.keys.extend(8u32.to_le_bytes());
        Self::name(&mut self.keys, value);
        self.key_count += 1;
    }

    fn number(&mut self, key: &str, value: u32) {
        Self::name(&mut self.keys, key);
        self.keys.extend(4u32.to_le_bytes());
        self.keys.extend(value.to_le_bytes());
        self.key_count += 1;
    }

    fn array(&mut self, key: &str, kind: u32, count: u64) {
        Self::name(&mut self.keys, key);
        self.keys.extend(9u32.to_le_bytes());
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(count.to_le_bytes());
        self.key_count += 1;
    }

    fn tensor(&mut self, name: &str, sizes: &[u64], kind: u32, offset: u64) {
        Self::name(&mut self.tensors, name);
        self.tensors.extend((sizes.len() as u32).to_le_bytes());
        sizes
            .iter()
            .for_each(|n| self.tensors.extend(n.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
    }

    fn bytes(&self, values: usize) -> Vec<u8> {
        let mut all = b"GGUF\x03\0\0\0".to_vec();
        all.extend(self.tensor_count.to_le_bytes());
        all.extend(self.key_count.to_le_bytes());
        all.extend(&self.keys);
        all.extend(&self.tensors);
        all.resize(all.len().next_multiple_of(32) + values, 0);
        all
    }
}

#[test]
fn gguf_that_lies_is_refused() {
    let made = |change: &dyn Fn(&mut Gguf)| {
        let mut file = Gguf::default();
        change(&mut file);
        message(&file.bytes(256))
    };
    let tensor = |sizes: &'static [u64], kind, offset| {
        move |file: &mut Gguf| file.tensor("a", sizes, kind, offset)
    };
    assert_eq!(made(&tensor(&[4, 2], 0, 0)), "taken, with 1 tensors");
    let cases: Vec<(String, &str)> = vec![
        (
            made(&|f| f.tensor_count = u64::MAX),
            "claims 18446744073709551615 tensors",
        ),
        (made(&|f| f.tensor_count = 60_000), "1 to 8 are allowed"),
        (
            made(&|f| f.key_count = u64::MAX),
            "claims 18446744073709551615 keys",
        ),
        (made(&|f| f.key_count = 60_000), "GGUF"),
        (made(&|f| f.array("x", 4, u64::MAX)), "truncated"),
        (made(&|f| f.array("x", 8, u64::MAX)), "truncated"),
        (made(&|f| f.array("x", 9, 3)), "unknown type 9"),
        (
            made(&|f| f.array("comfy.gguf.orig_shape.a", 5, u64::MAX)),
            "truncated",
        ),
        (
            made(&|f| f.number("general.alignment", 0)),
            "alignment is 0",
        ),
        (
            made(&|f| f.number("general.alignment", 24)),
            "alignment is 24",
        ),
        (
            made(&|f| f.number("general.alignment", 1 << 31)),
            "alignment is 2147483648",
        ),
        (made(&tensor(&[], 0, 0)), "has 0 sizes"),
        (made(&tensor(&[1; 9], 0, 0)), "has 9 sizes"),
        (made(&tensor(&[1 << 40, 1 << 40], 0, 0)), "overflow"),
        (made(&tensor(&[u64::MAX], 8, 0)), "no whole blocks"),
        (made(&tensor(&[33], 8, 0)), "no whole blocks"),
        (made(&tensor(&[4], 0, 7)), "no multiple"),
        (made(&tensor(&[4], 0, 1 << 62)), "beyond the file's end"),
        (
            made(&tensor(&[4], 0, u64::MAX - 31)),
            "beyond the file's end",
        ),
        (made(&tensor(&[1 << 20], 0, 0)), "beyond the file's end"),
        (
            made(&|f| {
                f.tensor("a", &[4], 0, 0);
                f.tensor("a", &[4], 0, 32);
            }),
            "twice",
        ),
        (message(b"GGUF\0\0\0\x03"), "big-endian"),
        (message(b"GGUF\x01\0\0\0"), "version 1"),
        (message(b"GGUF\x03\0\0\0"), "truncated"),
        (message(b"GGUF"), "truncated"),
    ];
    for (message, want) in cases {
        assert!(message.contains(want), "{message:?} has no {want:?}");
    }
}

/// A zip archive of stored files, as PyTorch writes it.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut all, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let start = all.len() as u32;
        let size = (bytes.len() as u32).to_le_bytes();
        let mut sizes = vec![0; 4];
        sizes.extend(size);
        sizes.extend(size);
        sizes.extend((name.len() as u16).to_le_bytes());
        sizes.extend([0, 0]);
        all.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0");
        all.extend(&sizes);
        all.extend(name.as_bytes());
        all.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0");
        directory.extend(&sizes);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (all.len() as u32, files.len() as u16);
    all.extend(&directory);
    all.extend(b"PK\x05\x06\0\0\0\0");
    all.extend(count.to_le_bytes());
    all.extend(count.to_le_bytes());
    all.extend((directory.len() as u32).to_le_bytes());
    all.extend(start.to_le_bytes());
    all.extend([0, 0]);
    all
}

/// A file with this pickle and one storage of 16 bytes.
fn torch_file(program: &[u8]) -> Vec<u8> {
    zip(&[
        ("archive/data.pkl", program),
        ("archive/byteorder", b"little"),
        ("archive/data/0", &[0; 16]),
    ])
}

/// `{"a": TENSOR}`, whose storage claims `count` values, offset, sizes and strides given.
fn tensor(offset: &[u8], sizes: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut program =
        b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage\
        ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
            .to_vec();
    program.extend(offset);
    program.extend(sizes);
    program.extend(strides);
    program.extend(b"\x89}tRs.");
    torch_file(&program)
}

#[test]
fn pickles_that_call_something_are_refused_and_not_run() {
    let mark = std::env::temp_dir().join(format!("calotype-was-run-{}", std::process::id()));
    let command = format!("touch {}", mark.display());
    let argument = |code: &str| {
        let mut program = b"\x80\x02".to_vec();
        program.extend(code.as_bytes());
        program.push(b'X');
        program.extend((command.len() as u32).to_le_bytes());
        program.extend(command.as_bytes());
        program.extend(b"\x85R.");
        torch_file(&program)
    };
    for code in [
        "cposix\nsystem\n",
        "cos\nsystem\n",
        "cbuiltins\neval\n",
        "c__builtin__\nexec\n",
        "csubprocess\nPopen\n",
        "cbuiltins\ngetattr\n",
        "ctorch\nload\n",
        "ctorch.hub\nload\n",
        "cnumpy\nload\n",
    ] {
        let message = message(&argument(code));
        let name = code[1..].trim().replace('\n', ".");
        assert!(message.contains(&format!("asks for {name}")), "{message}");
        assert!(message.contains("nothing was run"), "{message}");
    }
    // What a call gives is no function; nor are text and numbers.
    for program in [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R)R."[..],
        b"\x80\x02X\x06\0\0\0system)R.",
        b"\x80\x02K\x05)R.",
    ] {
        let message = message(&torch_file(program));
        assert!(message.contains("calls what is no function"), "{message}");
    }
    // Instructions that find classes in other ways.
    for program in [
        &b"(S'ls'\nios\nsystem\n."[..],
        b"\x80\x02(cos\nsystem\no.",
        b"\x80\x02\x82\x01.",
        b"Pname\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    ] {
        let message = message(&torch_file(program));
        assert!(message.contains("nothing was run"), "{message}");
    }
    assert!(!mark.exists());
}

#[test]
fn pickles_that_lie_are_refused() {
    let deep: Vec<u8> = [&b"\x80\x02)"[..], &b"\x85".repeat(200_000), b"."].concat();
    let marks: Vec<u8> = [&b"\x80\x02"[..], &b"(".repeat(200_000), b"."].concat();
    let many: Vec<u8> = [&b"\x80\x02"[..], &b"N".repeat(2_000_000), b"."].concat();
    // Sixty lists, each of which holds the one before twice.
    let bomb: Vec<u8> = [
        &b"\x80\x02]"[..],
        &b"2]2".repeat(0),
        &b"q\0h\0h\0\x86".repeat(60),
        b".",
    ]
    .concat();
    let itself = b"\x80\x02}q\0X\x0a\0\0\0state_dicth\0s.";
    assert_eq!(
        message(&tensor(b"K\0", b"K\x02K\x02\x86", b"K\x02K\x01\x86")),
        "taken, with 1 tensors"
    );
    let cases: Vec<(String, &str)> = vec![
        (message(&torch_file(&deep)), "without a dictionary"),
        (message(&torch_file(&marks)), "nested too deeply"),
        (message(&torch_file(&many)), "more than 262144 objects"),
        (message(&torch_file(&bomb)), "without a dictionary"),
        (message(&torch_file(itself)), "holds no tensors"),
        (
            message(&torch_file(b"\x80\x02X\xff\xff\xff\xffa.")),
            "truncated in its pickle",
        ),
        (
            message(&torch_file(b"\x80\x02h\x07.")),
            "takes what is not there",
        ),
        (
            message(&torch_file(b"\x80\x02u.")),
            "takes what is not there",
        ),
        (
            message(&torch_file(b"\x80\x02}(K\x01u.")),
            "key without a value",
        ),
        (message(&torch_file(b"\x80\x02")), "truncated in its pickle"),
        (message(&torch_file(b"")), "truncated in its pickle"),
        (
            message(&tensor(b"K\x03", b"K\x02\x85", b"K\x01\x85")),
            "beyond its storage",
        ),
        (
            message(&tensor(b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85")),
            "shape is damaged",
        ),
        (
            message(&tensor(b"K\0", b"J\xff\xff\xff\x7f\x85", b"K\x01\x85")),
            "beyond its storage",
        ),
        (
            message(&tensor(
                b"K\0",
                b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft",
                b"(K\x01K\x01K\x01t",
            )),
            "overflow",
        ),
        (
            message(&tensor(b"K\0", b"K\x02K\x02\x86", b"K\x01\x85")),
            "shape is damaged",
        ),
        (message(&zip(&[("a.txt", b"x")])), "holds no data.pkl"),
        (message(b"PK\x03\x04"), "without its directory"),
    ];
    for (message, want) in cases {
        assert!(message.contains(want), "{message:?} has no {want:?}");
    }
}

#[test]
fn archives_that_lie_are_refused() {
    let good = tensor(b"K\0", b"K\x04\x85", b"K\x01\x85");
    let end = good.len() - 22;
    let start = u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap()) as usize;
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        message(&file)
    };
    let cases = [
        (with(end + 10, &[9, 0]), "truncated in its zip directory"),
        (with(end + 10, &[0xff, 0xff]), "without its directory"),
        (
            with(end + 16, &[0xf0, 0xff, 0xff, 0x7f]),
            "truncated in its zip directory",
        ),
        (with(start + 8, &[1]), "encrypted"),
        (with(start + 10, &[8]), "compressed"),
        (
            with(start + 24, &[0xff, 0xff, 0xff, 0x7f]),
            "lies beyond its end",
        ),
        (
            with(start + 24, &[0xff, 0xff, 0xff, 0xff]),
            "truncated in its zip directory",
        ),
        (
            with(start + 42, &[0xff, 0xff, 0xff, 0x7f]),
            "lies beyond its end",
        ),
    ];
    for (message, want) in cases {
        assert!(message.contains(want), "{message:?} has no {want:?}");
    }
}
