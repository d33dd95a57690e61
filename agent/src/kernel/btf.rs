//! The part of BTF the agent needs: where a member lies, what a function takes, what an enumerator
//! is worth. Format: Documentation/bpf/btf.rst.
//!
//! aya keeps its own BTF parser private as far as members go, so this reads
//! `/sys/kernel/btf/vmlinux` once, answers from the raw bytes, and is dropped after loading.

use std::{collections::HashMap, fs, path::Path};

use thiserror::Error;

/// Why BTF could not be read.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file cannot be read; without CONFIG_DEBUG_INFO_BTF it does not exist.
    #[error("{path}: {error} (kernel built without CONFIG_DEBUG_INFO_BTF?)")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The bytes are no BTF.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
}

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u8 = 1;
const KIND_PTR: u8 = 2;
const KIND_ARRAY: u8 = 3;
const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_TYPEDEF: u8 = 8;
const KIND_VOLATILE: u8 = 9;
const KIND_CONST: u8 = 10;
const KIND_RESTRICT: u8 = 11;
const KIND_FUNC: u8 = 12;
const KIND_FUNC_PROTO: u8 = 13;
const KIND_VAR: u8 = 14;
const KIND_DATASEC: u8 = 15;
const KIND_DECL_TAG: u8 = 17;
const KIND_TYPE_TAG: u8 = 18;
const KIND_ENUM64: u8 = 19;

/// Longest chain of types followed: a longer one is a loop in a damaged file.
const NESTING: u32 = 32;

/// A type record: its place in the type section and its decoded head.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u8,
    /// Whether member offsets carry a bit-field size (`kind_flag`).
    flag: bool,
    count: usize,
    size_or_type: u32,
    /// Offset of what follows the head, from the start of the type section.
    body: usize,
}

/// Place and width of a structure's member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost structure.
    pub offset: u64,
    /// Bytes of the member's type; 0 where it has none (a flexible array).
    pub size: u64,
    /// For a bit field, its lowest bit within the byte at `offset`; else 0.
    pub bit: u64,
}

/// The kernel's BTF.
pub struct Btf {
    types: Vec<Type>,
    section: Vec<u8>,
    strings: Vec<u8>,
    by_name: HashMap<(u8, String), u32>,
    enumerators: HashMap<String, u64>,
}

impl Btf {
    /// Where the running kernel keeps its BTF.
    pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

    /// Reads BTF from a file.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes = fs::read(path)
            .map_err(|error| BtfError::Unreadable { path: path.display().to_string(), error })?;
        Self::parse(&bytes)
    }

    /// Parses little-endian BTF.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let word = |at| read_u32(bytes, at).ok_or(BtfError::Malformed("header cut short"));
        if word(0)? as u16 != MAGIC {
            return Err(BtfError::Malformed("wrong magic number or byte order"));
        }
        let header = word(4)? as usize;
        let part = |offset: u32, length: u32| {
            let from = header + offset as usize;
            bytes.get(from..from + length as usize).ok_or(BtfError::Malformed("section cut short"))
        };
        let section = part(word(8)?, word(12)?)?.to_vec();
        let strings = part(word(16)?, word(20)?)?.to_vec();
        let mut btf = Self {
            types: Vec::new(),
            section,
            strings,
            by_name: HashMap::new(),
            enumerators: HashMap::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    /// Finds a member by a dotted path through structures, looking into anonymous ones on the way:
    /// `member("sock", "__sk_common.skc_net")`.
    pub fn member(&self, structure: &str, path: &str) -> Option<Member> {
        let mut id = *self.by_name.get(&(KIND_STRUCT, structure.to_owned()))?;
        let mut bits = 0;
        for name in path.split('.') {
            let (further, kind) = self.find_member(self.resolve(id)?, name, NESTING)?;
            bits += further;
            id = kind;
        }
        Some(Member { offset: bits / 8, size: self.size_of(id).unwrap_or(0), bit: bits % 8 })
    }

    /// The value of an enumerator, in whichever enum it stands.
    pub fn enumerator(&self, name: &str) -> Option<u64> {
        self.enumerators.get(name).copied()
    }

    /// Parameters of a kernel function, in order: name, and the name of the type (what a pointer
    /// points to).
    pub fn function(&self, name: &str) -> Option<Vec<(String, String)>> {
        let func = self.get(*self.by_name.get(&(KIND_FUNC, name.to_owned()))?)?;
        self.params(func.size_or_type)
    }

    /// Number of a kernel function's type.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        self.by_name.get(&(KIND_FUNC, name.to_owned())).copied()
    }

    /// Number of a structure's type.
    pub fn structure_id(&self, name: &str) -> Option<u32> {
        self.by_name.get(&(KIND_STRUCT, name.to_owned())).copied()
    }

    /// Arguments of a tracepoint as `tp_btf` programs see them, from `typedef btf_trace_NAME`.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        let typedef = format!("btf_trace_{name}");
        let pointer = self.get(*self.by_name.get(&(KIND_TYPEDEF, typedef))?)?.size_or_type;
        let proto = self.get(pointer)?.size_or_type;
        let params = self.params(proto)?;
        // The first parameter is the probe's private data, which programs do not get.
        Some(params.into_iter().skip(1).map(|(_, kind)| kind).collect())
    }

    /// Walks the type section once: heads into `types`, names into the indices.
    fn index(&mut self) -> Result<(), BtfError> {
        const CUT: BtfError = BtfError::Malformed("type section cut short");
        // Type 0 is void.
        self.types.push(Type { name: 0, kind: 0, flag: false, count: 0, size_or_type: 0, body: 0 });
        let mut at = 0;
        while at < self.section.len() {
            let info = self.word(at + 4).ok_or(CUT)?;
            let head = Type {
                name: self.word(at).ok_or(CUT)?,
                kind: (info >> 24 & 0x1f) as u8,
                flag: info >> 31 == 1,
                count: (info & 0xffff) as usize,
                size_or_type: self.word(at + 8).ok_or(CUT)?,
                body: at + 12,
            };
            let length = body_length(&head).ok_or(BtfError::Malformed("unknown type kind"))?;
            if self.section.len() < head.body + length {
                return Err(CUT);
            }
            at = head.body + length;
            self.note_names(&head);
            self.types.push(head);
        }
        Ok(())
    }

    fn note_names(&mut self, head: &Type) {
        let id = self.types.len() as u32;
        if let KIND_STRUCT | KIND_FUNC | KIND_TYPEDEF = head.kind {
            let name = self.string(head.name);
            self.by_name.entry((head.kind, name)).or_insert(id);
        }
        let step = match head.kind {
            KIND_ENUM => 8,
            KIND_ENUM64 => 12,
            _ => return,
        };
        for entry in (0..head.count).map(|i| head.body + i * step) {
            let (Some(name), Some(value)) = (self.word(entry), self.word(entry + 4)) else {
                return;
            };
            let name = self.string(name);
            self.enumerators.entry(name).or_insert(u64::from(value));
        }
    }

    /// Looks a member up by name, also inside anonymous structures and unions down to `depth`; its
    /// offset is in bits.
    fn find_member(&self, outer: &Type, name: &str, depth: u32) -> Option<(u64, u32)> {
        if depth == 0 || !matches!(outer.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for entry in (0..outer.count).map(|i| outer.body + i * 12) {
            let (member, id) = (self.word(entry)?, self.word(entry + 4)?);
            let raw = self.word(entry + 8)?;
            let bits = u64::from(if outer.flag { raw & 0xff_ffff } else { raw });
            let found = self.string(member);
            if found == name {
                return Some((bits, id));
            }
            if found.is_empty()
                && let Some((inner, id)) = self.find_member(self.resolve(id)?, name, depth - 1)
            {
                return Some((bits + inner, id));
            }
        }
        None
    }

    fn params(&self, proto: u32) -> Option<Vec<(String, String)>> {
        let proto = self.get(proto)?;
        (proto.kind == KIND_FUNC_PROTO).then_some(())?;
        (0..proto.count)
            .map(|i| proto.body + i * 8)
            .map(|entry| {
                let kind = self.type_name(self.word(entry + 4)?);
                Some((self.string(self.word(entry)?), kind))
            })
            .collect()
    }

    /// Name of a type, or of what it points to.
    fn type_name(&self, mut id: u32) -> String {
        for _ in 0..NESTING {
            match self.get(id) {
                Some(head) if head.name != 0 => return self.string(head.name),
                Some(head) if is_wrapper(head.kind) || head.kind == KIND_PTR => {
                    id = head.size_or_type;
                }
                _ => break,
            }
        }
        String::new()
    }

    fn size_of(&self, id: u32) -> Option<u64> {
        let head = self.resolve(id)?;
        match head.kind {
            KIND_PTR => Some(8),
            KIND_ARRAY => {
                // Arrays of arrays are not among the members asked for.
                let element = self.resolve(self.word(head.body)?)?;
                let size = if element.kind == KIND_PTR { 8 } else { element.size_or_type };
                Some(u64::from(size) * u64::from(self.word(head.body + 8)?))
            }
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => {
                Some(u64::from(head.size_or_type))
            }
            _ => None,
        }
    }

    /// The type behind typedefs, qualifiers and tags.
    fn resolve(&self, mut id: u32) -> Option<&Type> {
        for _ in 0..NESTING {
            let head = self.get(id)?;
            if !is_wrapper(head.kind) {
                return Some(head);
            }
            id = head.size_or_type;
        }
        None
    }

    fn get(&self, id: u32) -> Option<&Type> {
        self.types.get(id as usize)
    }

    fn word(&self, at: usize) -> Option<u32> {
        read_u32(&self.section, at)
    }

    fn string(&self, offset: u32) -> String {
        let tail = self.strings.get(offset as usize..).unwrap_or_default();
        let end = tail.iter().position(|byte| *byte == 0).unwrap_or(tail.len());
        String::from_utf8_lossy(&tail[..end]).into_owned()
    }
}

fn is_wrapper(kind: u8) -> bool {
    matches!(kind, KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG)
}

/// Bytes after a type's head.
fn body_length(head: &Type) -> Option<usize> {
    Some(match head.kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => head.count * 12,
        KIND_ENUM | KIND_FUNC_PROTO => head.count * 8,
        // Pointer, forward declaration, typedef, qualifiers, function, float, type tag.
        KIND_PTR | 7 | KIND_TYPEDEF..=KIND_FUNC | 16 | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds tiny BTF: words of the type section, and strings by name.
    struct Builder {
        section: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn new() -> Self {
            Self { section: Vec::new(), strings: vec![0] }
        }

        fn name(&mut self, text: &str) -> u32 {
            let at = self.strings.len() as u32;
            self.strings.extend(text.bytes().chain([0]));
            at
        }

        fn words(&mut self, words: &[u32]) {
            self.section.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }

        fn head(&mut self, name: &str, kind: u8, count: u32, size: u32) {
            let name = if name.is_empty() { 0 } else { self.name(name) };
            self.words(&[name, u32::from(kind) << 24 | count, size]);
        }

        fn finish(self) -> Vec<u8> {
            let (types, strings) = (self.section.len() as u32, self.strings.len() as u32);
            let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types, types, strings];
            let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend(self.section);
            bytes.extend(self.strings);
            bytes
        }
    }

    /// `struct outer { int a; union { struct inner { int b; int c; } in; }; const int d; }`, an enum
    /// and a function.
    fn sample() -> Vec<u8> {
        let mut b = Builder::new();
        b.head("int", KIND_INT, 0, 4); // 1
        b.words(&[32]);
        b.head("inner", KIND_STRUCT, 2, 8); // 2
        let (name_b, name_c) = (b.name("b"), b.name("c"));
        b.words(&[name_b, 1, 0, name_c, 1, 32]);
        b.head("", KIND_UNION, 1, 8); // 3
        let name_in = b.name("in");
        b.words(&[name_in, 2, 0]);
        b.head("", KIND_CONST, 0, 1); // 4
        b.head("outer", KIND_STRUCT, 3, 16); // 5
        let (name_a, name_d) = (b.name("a"), b.name("d"));
        b.words(&[name_a, 1, 0, 0, 3, 32, name_d, 4, 96]);
        b.head("colour", KIND_ENUM, 2, 4); // 6
        let (red, blue) = (b.name("RED"), b.name("BLUE"));
        b.words(&[red, 0, blue, 7]);
        b.head("", KIND_PTR, 0, 5); // 7
        b.head("", KIND_FUNC_PROTO, 2, 1); // 8
        let (sk, flag) = (b.name("sk"), b.name("flag"));
        b.words(&[sk, 7, flag, 1]);
        b.head("do_it", KIND_FUNC, 1, 8); // 9
        b.finish()
    }

    #[test]
    fn finds_members_through_anonymous_unions_and_qualifiers() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.member("outer", "a"), Some(Member { offset: 0, size: 4, bit: 0 }));
        assert_eq!(btf.member("outer", "in.c"), Some(Member { offset: 8, size: 4, bit: 0 }));
        assert_eq!(btf.member("outer", "d"), Some(Member { offset: 12, size: 4, bit: 0 }));
        assert_eq!(btf.member("outer", "missing"), None);
        assert_eq!(btf.member("nothing", "a"), None);
        assert_eq!(btf.member("outer", "a.b"), None);
    }

    #[test]
    fn finds_enumerators_and_prototypes() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.enumerator("BLUE"), Some(7));
        assert_eq!(btf.enumerator("GREEN"), None);
        let params = btf.function("do_it").unwrap();
        let expected = [("sk", "outer"), ("flag", "int")];
        assert_eq!(params, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
        assert!(btf.function("undone").is_none());
    }

    #[test]
    fn refuses_damaged_input_without_panicking() {
        let whole = sample();
        assert!(matches!(Btf::parse(b"no BTF here, surely"), Err(BtfError::Malformed(_))));
        for length in 0..whole.len() {
            assert!(Btf::parse(&whole[..length]).is_err(), "cut to {length} bytes");
        }
        for at in 24..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            // Any answer will do, so long as there is one.
            if let Ok(btf) = Btf::parse(&damaged) {
                let _ = (btf.member("outer", "in.c"), btf.function("do_it"));
            }
        }
    }
}
