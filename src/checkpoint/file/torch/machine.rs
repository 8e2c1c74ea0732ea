//! The part of pickle's machine that builds dictionaries of tensors (CPython's
//! `pickletools.py` for what each instruction does). Nothing is called: a reduction of a
//! function of the list below is a note of its arguments, and everything else an error.
//!
//! Objects lie in one list and name each other by number, so that neither a copy nor
//! the end of a deep nest takes more than its own bytes.

use super::Problem;
use crate::checkpoint::file::bytes::Cursor;
use std::collections::HashMap;
use std::ops::Range;

/// An object's number.
pub(super) type Id = u32;

/// Objects of a pickle; SDXL's have about 50,000.
const MOST_OBJECTS: usize = 1 << 18;

/// Objects that are unfinished at a time.
const DEEPEST: usize = 1 << 16;

/// Characters of a name.
const LONGEST_TEXT: usize = 1 << 12;

/// What a pickle may build.
#[derive(Debug)]
pub(super) enum Object {
    /// Something that no tensor is made of.
    Inert,
    Whole(i64),
    /// A place in the pickle, of UTF-8.
    Text(Range<usize>),
    Sequence(Vec<Id>),
    Dictionary(Vec<(Id, Id)>),
    Known(Known),
    /// A reference to a storage: what it is told by.
    Stored(Id),
    /// A function and its arguments.
    Made(Known, Id),
}

/// A class or function of the list, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `collections.OrderedDict`.
    Dictionary,
    /// `torch._utils._rebuild_tensor_v2`, `_rebuild_tensor_v3`.
    Tensor,
    /// `torch._utils._rebuild_parameter`.
    Parameter,
    /// `torch.FloatStorage` and others, by the name of their values' type.
    Storage(&'static str),
    /// `torch.float32` and others.
    Type(&'static str),
    /// What may be there and says nothing about tensors.
    Inert,
}

/// All objects of a pickle.
pub(super) struct Objects<'a> {
    program: &'a [u8],
    all: Vec<Object>,
    pub root: Id,
}

impl Objects<'_> {
    pub fn get(&self, id: Id) -> &Object {
        self.all.get(id as usize).unwrap_or(&Object::Inert)
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Text(range) => std::str::from_utf8(self.program.get(range.clone())?).ok(),
            _ => None,
        }
    }

    pub fn whole(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Object::Whole(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Object::Sequence(ids) => Some(ids),
            _ => None,
        }
    }
}

/// Runs a pickle to its end.
pub(super) fn run(program: &[u8]) -> Result<Objects<'_>, Problem> {
    let mut machine = Machine {
        program,
        at: Cursor::new(program),
        all: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    match machine.stack.pop() {
        Some(root) => Ok(Objects {
            program,
            all: machine.all,
            root,
        }),
        None => Err(Problem::damaged("its pickle makes nothing")),
    }
}

struct Machine<'a> {
    program: &'a [u8],
    at: Cursor<'a>,
    all: Vec<Object>,
    stack: Vec<Id>,
    /// Where on the stack unfinished objects begin.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

fn short() -> Problem {
    Problem::damaged("truncated in its pickle")
}

fn empty() -> Problem {
    Problem::damaged("its pickle takes what is not there")
}

impl Machine<'_> {
    /// One instruction; false at the end.
    fn step(&mut self) -> Result<bool, Problem> {
        let place = self.at.position();
        let code = self.at.u8().ok_or_else(short)?;
        match code {
            b'.' => return Ok(false),
            0x80 => self.pass(1)?,
            0x95 => self.pass(8)?,
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'2' => {
                let top = *self.stack.last().ok_or_else(empty)?;
                self.push_id(top)?;
            }
            b'N' | 0x88 | 0x89 => self.push(Object::Inert)?,
            b'G' => {
                self.pass(8)?;
                self.push(Object::Inert)?;
            }
            b'J' | b'K' | b'M' | 0x8a => {
                let number = self.number(code)?;
                self.push(Object::Whole(number))?;
            }
            b'X' | 0x8c | b'U' | b'T' | b'C' | b'B' => self.text(code)?,
            b')' | b']' | 0x8f => self.push(Object::Sequence(Vec::new()))?,
            b'}' => self.push(Object::Dictionary(Vec::new()))?,
            b't' | b'l' => {
                let items = self.since_mark()?;
                self.push(Object::Sequence(items))?;
            }
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let from = self.stack.len().checked_sub(count).ok_or_else(empty)?;
                let items = self.stack.split_off(from);
                self.push(Object::Sequence(items))?;
            }
            b'd' => {
                let items = self.since_mark()?;
                self.push(Object::Dictionary(pairs(items)?))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(pairs(items)?)?;
            }
            b'c' | 0x93 => self.global(code)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Stored(id))?;
            }
            b'R' | 0x81 => self.reduce()?,
            // The state of an object; only attributes of dictionaries are there.
            b'b' => drop(self.pop()?),
            b'q' | b'r' | 0x94 => self.keep(code)?,
            b'h' | b'j' => self.recall(code)?,
            _ => {
                let what = format!(
                    "its pickle has the instruction {code:#04x} at byte {place}, which no file of tensors needs; nothing was run"
                );
                return Err(Problem::other(what));
            }
        }
        Ok(true)
    }

    fn pass(&mut self, bytes: usize) -> Result<(), Problem> {
        self.at.take(bytes).map(|_| ()).ok_or_else(short)
    }

    fn push(&mut self, object: Object) -> Result<(), Problem> {
        if self.all.len() >= MOST_OBJECTS {
            return Err(Problem::other(format!(
                "its pickle makes more than {MOST_OBJECTS} objects"
            )));
        }
        self.all.push(object);
        self.push_id((self.all.len() - 1) as Id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Problem> {
        if self.stack.len() >= MOST_OBJECTS {
            return Err(Problem::other("its pickle piles up too many objects"));
        }
        self.stack.push(id);
        Ok(())
    }

    /// The topmost object of the innermost that is unfinished.
    fn pop(&mut self) -> Result<Id, Problem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(empty),
            false => Err(empty()),
        }
    }

    fn mark(&mut self) -> Result<(), Problem> {
        if self.marks.len() >= DEEPEST {
            return Err(Problem::other("its pickle is nested too deeply"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Problem> {
        let from = self.marks.pop().ok_or_else(empty)?;
        Ok(self.stack.split_off(from.min(self.stack.len())))
    }

    fn number(&mut self, code: u8) -> Result<i64, Problem> {
        let number = match code {
            b'J' => self.at.u32().map(|n| i64::from(n as i32)),
            b'K' => self.at.u8().map(i64::from),
            b'M' => self.at.u16().map(i64::from),
            _ => {
                let length = self.at.u8().ok_or_else(short)?;
                let bytes = self.at.take(length.into()).ok_or_else(short)?;
                if bytes.len() > 8 {
                    return Ok(-1);
                }
                // Two's complement of as many bytes as it takes.
                let fill = bytes
                    .last()
                    .map_or(0, |b| if b >> 7 == 1 { 0xff } else { 0 });
                let mut whole = [fill; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                Some(i64::from_le_bytes(whole))
            }
        };
        number.ok_or_else(short)
    }

    fn text(&mut self, code: u8) -> Result<(), Problem> {
        let length = match code {
            0x8c | b'U' | b'C' => self.at.u8().map(usize::from),
            _ => self.at.u32().map(|n| n as usize),
        };
        let length = length.ok_or_else(short)?;
        let from = self.at.position();
        let bytes = self.at.take(length).ok_or_else(short)?;
        let is_text = length <= LONGEST_TEXT && std::str::from_utf8(bytes).is_ok();
        self.push(match is_text {
            true => Object::Text(from..from + length),
            // Bytes, or a long text: no tensor is called so.
            false => Object::Inert,
        })
    }

    fn top(&mut self) -> Result<&mut Object, Problem> {
        let id = *self.stack.last().ok_or_else(empty)?;
        self.all.get_mut(id as usize).ok_or_else(empty)
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), Problem> {
        match self.top()? {
            Object::Sequence(all) => all.extend(items),
            Object::Inert => {}
            _ => return Err(Problem::damaged("its pickle appends to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<(Id, Id)>) -> Result<(), Problem> {
        match self.top()? {
            Object::Dictionary(all) => all.extend(items),
            Object::Inert => {}
            _ => return Err(Problem::damaged("its pickle sets keys of no dictionary")),
        }
        Ok(())
    }

    fn global(&mut self, code: u8) -> Result<(), Problem> {
        let (module, name) = match code {
            b'c' => {
                let module = self.at.until(b'\n').ok_or_else(short)?;
                let name = self.at.until(b'\n').ok_or_else(short)?;
                (to_text(module), to_text(name))
            }
            _ => {
                let (name, module) = (self.pop()?, self.pop()?);
                (self.as_text(module)?, self.as_text(name)?)
            }
        };
        match known(&module, &name) {
            Some(known) => self.push(Object::Known(known)),
            None => {
                let what = format!(
                    "its pickle asks for {module}.{name}, which no file of tensors needs; nothing was run"
                );
                Err(Problem {
                    what,
                    remedy: "do not trust this file; use a .safetensors variant",
                })
            }
        }
    }

    fn as_text(&self, id: Id) -> Result<String, Problem> {
        match self.all.get(id as usize) {
            Some(Object::Text(range)) => Ok(to_text(&self.program[range.clone()])),
            _ => Err(Problem::damaged("its pickle has a class without a name")),
        }
    }

    /// A function of the list is noted with its arguments; a dictionary is made.
    fn reduce(&mut self) -> Result<(), Problem> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let function = match self.all.get(function as usize) {
            Some(Object::Known(known)) => *known,
            Some(Object::Inert) => Known::Inert,
            _ => return Err(Problem::other("its pickle calls what is no function")),
        };
        self.push(match function {
            Known::Dictionary => Object::Dictionary(Vec::new()),
            Known::Tensor | Known::Parameter => Object::Made(function, arguments),
            _ => Object::Inert,
        })
    }

    fn keep(&mut self, code: u8) -> Result<(), Problem> {
        let key = match code {
            b'q' => self.at.u8().map(u32::from),
            b'r' => self.at.u32(),
            _ => Some(self.memo.len() as u32),
        };
        let (key, top) = (key.ok_or_else(short)?, self.stack.last().copied());
        self.memo.insert(key, top.ok_or_else(empty)?);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<(), Problem> {
        let key = match code {
            b'h' => self.at.u8().map(u32::from),
            _ => self.at.u32(),
        };
        let id = self.memo.get(&key.ok_or_else(short)?).copied();
        self.push_id(id.ok_or_else(empty)?)
    }
}

fn pairs(items: Vec<Id>) -> Result<Vec<(Id, Id)>, Problem> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err(Problem::damaged("its pickle has a key without a value")),
    }
}

/// At most as much as a message shows.
fn to_text(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).into_owned()
}

/// Everything that a pickle may name.
fn known(module: &str, name: &str) -> Option<Known> {
    match (module, name) {
        ("collections", "OrderedDict") => Some(Known::Dictionary),
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => Some(Known::Tensor),
        ("torch._utils", "_rebuild_parameter") => Some(Known::Parameter),
        ("torch", name) => torch(name),
        ("torch.storage", "UntypedStorage" | "_UntypedStorage") => Some(Known::Storage("")),
        // Training states and versions, as Lightning and A1111 leave them.
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
        | ("numpy", "dtype")
        | ("_codecs", "encode")
        | ("__builtin__" | "builtins", "set")
        | ("torch.torch_version", "TorchVersion") => Some(Known::Inert),
        _ => None,
    }
}

/// Names of PyTorch's types, as this program's readers of files call them.
const TYPES: [(&str, &str, &str); 13] = [
    ("FloatStorage", "float32", "F32"),
    ("HalfStorage", "float16", "F16"),
    ("BFloat16Storage", "bfloat16", "BF16"),
    ("DoubleStorage", "float64", "F64"),
    ("LongStorage", "int64", "I64"),
    ("IntStorage", "int32", "I32"),
    ("ShortStorage", "int16", "I16"),
    ("CharStorage", "int8", "I8"),
    ("ByteStorage", "uint8", "U8"),
    ("BoolStorage", "bool", "BOOL"),
    ("Float8_e4m3fnStorage", "float8_e4m3fn", "F8_E4M3"),
    ("Float8_e5m2Storage", "float8_e5m2", "F8_E5M2"),
    ("ComplexFloatStorage", "complex64", "C64"),
];

fn torch(name: &str) -> Option<Known> {
    let find = |(storage, dtype, own): &(&str, &str, &'static str)| match name {
        _ if name == *storage => Some(Known::Storage(own)),
        _ if name == *dtype => Some(Known::Type(own)),
        _ => None,
    };
    let plain = match name {
        "Size" => Some(Known::Inert),
        "device" => Some(Known::Inert),
        _ => None,
    };
    TYPES.iter().find_map(find).or(plain)
}
