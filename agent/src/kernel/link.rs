//! What the programs leave open, filled in: offsets and numbers of the running kernel
//! ([`floodmark_common::constants`]), and calls of its functions. aya links neither into instructions; in
//! C the compiler leaves relocations for the first (CO-RE), which Rust's does not.

use anyhow::{Context, Result, bail};
use floodmark_common::{
    ABSENT,
    constants::{NAMES, OPEN_NUMBER, OPEN_OFFSET, OPEN_STEP, RDONLY_CAST},
};
use object::{File, Object, ObjectSection, SectionKind};

use super::{btf::Btf, layout::Layout};

/// Every instruction begins at a multiple of eight bytes.
const INSTRUCTION: usize = 8;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// Source register of a call of a kernel function (`BPF_PSEUDO_KFUNC_CALL`), in the upper half of its byte.
const KERNEL_FUNCTION: u8 = 2 << 4;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE: u8 = 0xb7;
/// `BPF_LDX | BPF_MEM` of 4, 2, 1 and 8 bytes.
const LOADS: [u8; 4] = [0x61, 0x69, 0x71, 0x79];

/// `bpf_rdonly_cast` (Linux 6.2, kernel/bpf/helpers.c), which gives an address a type, after which reading it
/// takes a load instead of a call; by the function's type in the kernel's BTF. `None` before Linux 6.2.
pub fn cast(btf: &Btf) -> Option<u32> {
    btf.function_id("bpf_rdonly_cast")
}

/// The object with everything filled in that `layout` knows, and with the function `cast` called wherever
/// a cast is wanted. Without one the programs must be given no types either: they then make no cast, and
/// the calls are taken out as dead code. What this kernel lacks stays open; no program that needs it is
/// loaded.
///
/// # Errors
///
/// When it is no object, or an offset is too large for an instruction.
pub fn link(object: &[u8], layout: &Layout, cast: Option<u32>) -> Result<Vec<u8>> {
    let sections: Vec<(u64, u64)> = File::parse(object)
        .context("reading the object's sections")?
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.file_range())
        .collect();
    let mut object = object.to_vec();
    for (start, size) in sections {
        let (start, end) = (start as usize, (start + size) as usize);
        let code = object.get_mut(start..end).context("a section beyond the object's end")?;
        for instruction in code.as_chunks_mut::<INSTRUCTION>().0 {
            fill_in(instruction, layout, cast)?;
        }
    }
    Ok(object)
}

fn fill_in(instruction: &mut [u8; INSTRUCTION], layout: &Layout, cast: Option<u32>) -> Result<()> {
    let [code, registers, low, high, operand @ ..] = *instruction;
    let (offset, operand) = (i16::from_le_bytes([low, high]), i32::from_le_bytes(operand));
    if LOADS.contains(&code) && offset >= OPEN_OFFSET {
        let (number, further) =
            ((offset - OPEN_OFFSET) / OPEN_STEP, (offset - OPEN_OFFSET) % OPEN_STEP);
        if let Some(member) = value(layout, usize::from(number.cast_unsigned()))? {
            let Ok(offset) = i16::try_from(member + u64::from(further.cast_unsigned())) else {
                bail!("the offset of {member} is too large for an instruction");
            };
            instruction[2..4].copy_from_slice(&offset.to_le_bytes());
        }
    } else if code == MOVE && is_open(operand) {
        let value = value(layout, (operand - OPEN_NUMBER).cast_unsigned() as usize)?;
        // Sign-extended by the instruction, as it must be for what is absent.
        let Ok(value) = i32::try_from(value.unwrap_or(ABSENT).cast_signed()) else {
            bail!("a constant of this kernel is too large for an instruction");
        };
        instruction[4..].copy_from_slice(&value.to_le_bytes());
    } else if let (CALL, 0, RDONLY_CAST, Some(function)) =
        (code, registers, operand.cast_unsigned(), cast)
    {
        instruction[1] = KERNEL_FUNCTION;
        instruction[4..].copy_from_slice(&function.to_le_bytes());
    }
    Ok(())
}

fn is_open(operand: i32) -> bool {
    (OPEN_NUMBER..OPEN_NUMBER + NAMES.len() as i32).contains(&operand)
}

/// The value of the constant of that number; `None` where this kernel has no such thing.
fn value(layout: &Layout, number: usize) -> Result<Option<u64>> {
    let name = NAMES.get(number).with_context(|| format!("no constant has the number {number}"))?;
    Ok(layout.value(name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use aya_obj::generated::bpf_insn;

    use super::{super::loaded::OBJECT, *};

    fn instructions(object: &[u8]) -> Vec<bpf_insn> {
        let object = aya_obj::Object::parse(object).unwrap();
        object.functions.into_values().flat_map(|program| program.instructions).collect()
    }

    fn count(object: &[u8], is_wanted: impl Fn(&bpf_insn) -> bool) -> usize {
        instructions(object).iter().filter(|instruction| is_wanted(instruction)).count()
    }

    fn is_open_load(it: &bpf_insn) -> bool {
        LOADS.contains(&it.code) && it.off >= OPEN_OFFSET
    }

    fn is_open_number(it: &bpf_insn) -> bool {
        it.code == MOVE && is_open(it.imm)
    }

    #[test]
    fn every_cast_calls_the_function() {
        let asks = |it: &bpf_insn| it.code == CALL && it.imm.cast_unsigned() == RDONLY_CAST;
        let calls = |it: &bpf_insn| it.code == CALL && it.src_reg() == 2 && it.imm == 77_777;
        let wanted = count(OBJECT, asks);
        assert!(wanted > 10, "{wanted}");
        let linked = link(OBJECT, &Layout::default(), Some(77_777)).unwrap();
        assert_eq!((count(&linked, asks), count(&linked, calls)), (0, wanted));
        let unlinked = link(OBJECT, &Layout::default(), None).unwrap();
        assert_eq!(count(&unlinked, asks), wanted, "without the function they stay as they are");
    }

    #[test]
    fn an_offset_takes_the_place_of_its_constant() {
        let at = |name: &str| {
            let number = NAMES.iter().position(|known| *known == name).unwrap() as i16;
            OPEN_OFFSET + OPEN_STEP * number
        };
        let layout = Layout::of(&[("OFF_SK_NET", 48), ("OFF_NET_SOMAXCONN", 1 << 15)]);
        let filled_in = |offset: i16| {
            let [low, high] = offset.to_le_bytes();
            let mut load = [0x79, 0x12, low, high, 0, 0, 0, 0];
            fill_in(&mut load, &layout, None).map(|()| i16::from_le_bytes([load[2], load[3]]))
        };
        assert_eq!(filled_in(at("OFF_SK_NET")).unwrap(), 48);
        assert_eq!(filled_in(at("OFF_SK_NET") + 8).unwrap(), 56);
        assert_eq!(filled_in(at("OFF_SK_NUM")).unwrap(), at("OFF_SK_NUM"), "not in this kernel");
        assert_eq!(filled_in(2000).unwrap(), 2000, "nothing that was left open");
        assert!(filled_in(at("OFF_NET_SOMAXCONN")).is_err(), "beyond an instruction's reach");
        assert!(filled_in(i16::MAX).is_err(), "no such constant");
    }

    /// On whatever kernel the tests run.
    #[test]
    fn nothing_stays_open_but_what_the_kernel_lacks() {
        let Ok(btf) = Btf::read(Path::new(Btf::VMLINUX)) else {
            println!("skipped: this kernel has no BTF");
            return;
        };
        let layout = Layout::resolve(&btf).with_types(&btf);
        assert!(count(OBJECT, is_open_load) > 100 && count(OBJECT, is_open_number) > 20);
        let linked = link(OBJECT, &layout, None).unwrap();
        let left: Vec<&str> = instructions(&linked)
            .iter()
            .filter(|instruction| is_open_load(instruction))
            .map(|load| NAMES[usize::from(((load.off - OPEN_OFFSET) / OPEN_STEP).cast_unsigned())])
            .filter(|name| layout.value(name).is_some())
            .collect();
        assert_eq!(left, Vec::<&str>::new());
        assert_eq!(count(&linked, is_open_number), 0);
    }
}
