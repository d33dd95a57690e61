//! Typed reads of plain addresses. `bpf_rdonly_cast` (Linux 6.2, kernel/bpf/helpers.c) gives an address a
//! type, after which reading it takes a load instead of a call. aya links no kernel functions into programs,
//! so the object calls a helper of a number that does not exist, and this puts the function in its place.

use floodmark_common::RDONLY_CAST;

use super::btf::Btf;

/// `BPF_JMP | BPF_CALL`; every instruction begins at a multiple of eight bytes.
const CALL: u8 = 0x85;
const INSTRUCTION: usize = 8;
/// Source register of a call of a kernel function (`BPF_PSEUDO_KFUNC_CALL`), in the upper half of its byte.
const KERNEL_FUNCTION: u8 = 2 << 4;

/// The function's type in the kernel's BTF, by which it is called; `None` before Linux 6.2.
pub fn function(btf: &Btf) -> Option<u32> {
    btf.function_id("bpf_rdonly_cast")
}

/// The object with `function` called wherever a cast is wanted. As it was before, it serves a kernel without
/// the function: the programs then make no cast, and the calls are taken out as dead code.
pub fn link(object: &[u8], function: u32) -> Vec<u8> {
    let wanted = call(0, RDONLY_CAST);
    let mut object = object.to_vec();
    for instruction in object.chunks_exact_mut(INSTRUCTION) {
        if *instruction == wanted {
            instruction.copy_from_slice(&call(KERNEL_FUNCTION, function));
        }
    }
    object
}

fn call(registers: u8, number: u32) -> [u8; INSTRUCTION] {
    let [a, b, c, d] = number.to_le_bytes();
    [CALL, registers, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::{super::loaded::OBJECT, *};

    fn calls(object: &[u8], wanted: [u8; INSTRUCTION]) -> usize {
        object.chunks_exact(INSTRUCTION).filter(|instruction| *instruction == wanted).count()
    }

    #[test]
    fn every_cast_calls_the_function() {
        let wanted = calls(OBJECT, call(0, RDONLY_CAST));
        assert!(wanted > 10, "{wanted}");
        let linked = link(OBJECT, 77_777);
        assert_eq!(calls(&linked, call(0, RDONLY_CAST)), 0);
        assert_eq!(calls(&linked, call(KERNEL_FUNCTION, 77_777)), wanted);
    }
}
