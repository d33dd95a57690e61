//! Reads of kernel structures. Where their members lie is left open in the programs' instructions; the
//! agent fills it in from the running kernel's BTF (`agent/src/kernel/layout.rs` names structs and
//! members).

use core::{
    arch::asm,
    mem::{MaybeUninit, transmute, transmute_copy},
};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel, generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw,
};
use floodmark_common::{
    ABSENT,
    constants::{OPEN_NUMBER, OPEN_OFFSET, OPEN_STEP, RDONLY_CAST},
    kernel_constants,
};

/// Something that the agent fills in.
pub trait Open: Copy {
    const ID: u16;

    /// Its value; [`ABSENT`] where this kernel has no such thing.
    #[inline(always)]
    fn load(self) -> u64 {
        let value: u64;
        // SAFETY: a move to a register.
        unsafe {
            asm!("{0} = {1}", out(reg) value, const OPEN_NUMBER + Self::ID as i32,
                options(pure, nomem, nostack));
        }
        value
    }
}

/// Constant number `ID` of [`kernel_constants`].
#[derive(Clone, Copy)]
pub struct Constant<const ID: u16>;

impl<const ID: u16> Open for Constant<ID> {
    const ID: u16 = ID;
}

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[allow(non_camel_case_types, reason = "they number constants")]
        #[repr(u16)]
        enum Id { $($name),* }

        $($(#[$doc])* pub const $name: Constant<{ Id::$name as u16 }> = Constant;)*
    };
}

kernel_constants!(constants);

/// Reads the member at `base` that lies `FURTHER` bytes beyond the one left open: one instruction.
///
/// # Safety
///
/// `base` must have a type for the verifier, with a member as wide as `T` there.
#[inline(always)]
unsafe fn load<T: Copy, O: Open, const FURTHER: i16>(base: *const u8, _: O) -> T {
    let value: u64;
    macro_rules! read {
        ($instruction:literal) => {
            // SAFETY: the caller's promise; the verifier checks type and bounds. A fault at run time (the
            // object went away) reads as zero (`PROBE_MEM`).
            unsafe {
                asm!($instruction, out(reg) value, in(reg) base,
                    const OPEN_OFFSET + OPEN_STEP * O::ID as i16 + FURTHER,
                    options(readonly, nostack));
            }
        };
    }
    match size_of::<T>() {
        1 => read!("{0} = *(u8 *)({1} + {2})"),
        2 => read!("{0} = *(u16 *)({1} + {2})"),
        4 => read!("{0} = *(u32 *)({1} + {2})"),
        _ => read!("{0} = *(u64 *)({1} + {2})"),
    }
    // SAFETY: an integer or a pointer, of which these are the low bytes.
    unsafe { transmute_copy(&value) }
}

/// How a program reads members of kernel structures.
pub trait Access {
    /// Reads the member of `base` at `offset`.
    ///
    /// # Safety
    ///
    /// `base` must point to a structure that has a member of this type there.
    unsafe fn field<T: Copy>(base: *const u8, offset: impl Open) -> T;
}

/// For programs whose arguments the verifier knows the types of (fentry, fexit, tp_btf): one load,
/// no helper call. A pointer read this way keeps its type for the next hop.
pub struct Typed;

impl Access for Typed {
    #[inline(always)]
    unsafe fn field<T: Copy>(base: *const u8, offset: impl Open) -> T {
        // SAFETY: the caller's promise.
        unsafe { load::<T, _, 0>(base, offset) }
    }
}

/// For programs whose arguments are plain numbers (kprobe, kretprobe), and for pointers that lost
/// their type: a helper call. A fault reads as zero.
pub struct Probed;

impl Access for Probed {
    #[inline(always)]
    unsafe fn field<T: Copy>(base: *const u8, offset: impl Open) -> T {
        read_or_zero((base as u64).wrapping_add(offset.load()))
    }
}

/// Reads kernel memory at a plain address; zeros where there is nothing to read. `T` is an integer,
/// an array of integers or a pointer.
#[inline(always)]
pub fn read_or_zero<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: zero is a value of T, and the helper fills with zeros what it cannot read. Its result
    // is not looked at: each branch on it would double the paths that the verifier walks.
    unsafe {
        bpf_probe_read_kernel_raw(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const core::ffi::c_void,
        );
        value.assume_init()
    }
}

/// Reads kernel memory at a plain address, as a helper call that fails instead of faulting.
#[inline(always)]
pub fn read_at<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel tolerates any address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// Whether this kernel has it.
#[inline(always)]
pub fn is_known(constant: impl Open) -> bool {
    constant.load() != ABSENT
}

/// Whether the kernel lends out `bpf_rdonly_cast` (Linux 6.2) to give a plain address the type `kind`.
#[inline(always)]
pub fn is_cast(kind: impl Open) -> bool {
    is_known(kind)
}

/// Gives the plain `address` the type `kind`, after which reading a member is a load; without
/// ([`is_cast`]) it is a helper call, which takes some ten times as long.
#[inline(always)]
fn cast(kind: impl Open, address: u64) -> Option<*const u8> {
    let kind = kind.load();
    if kind == ABSENT {
        return None;
    }
    // SAFETY: the agent puts a call of `bpf_rdonly_cast(obj, btf_id)` in this one's place, or hands out
    // no types.
    let cast: extern "C" fn(u64, u32) -> *const u8 = unsafe { transmute(RDONLY_CAST as usize) };
    Some(cast(address, kind as u32))
}

/// Reads a member of the structure `kind` at `address`.
#[inline(always)]
pub fn read_member<T: Copy>(kind: impl Open, address: u64, offset: impl Open) -> Option<T> {
    match cast(kind, address) {
        // SAFETY: the structure has a member of that width there.
        Some(base) => Some(unsafe { load::<T, _, 0>(base, offset) }),
        None => read_at(address + offset.load()),
    }
}

/// As [`read_member`], and zero where there is nothing to read: no branch on whether there was, behind
/// which verifiers before Linux 6.3 would find registers that nobody has written.
#[inline(always)]
pub fn member_or_zero<T: Copy>(kind: impl Open, address: u64, offset: impl Open) -> T {
    match cast(kind, address) {
        // SAFETY: the structure has a member of that width there.
        Some(base) => unsafe { load::<T, _, 0>(base, offset) },
        None => read_or_zero(address.wrapping_add(offset.load())),
    }
}

/// Reads two numbers of the structure `kind` at `address`, the first of which is left open.
#[inline(always)]
pub fn read_pair(kind: impl Open, address: u64, offset: impl Open) -> Option<[u64; 2]> {
    match cast(kind, address) {
        // SAFETY: as above.
        Some(base) => {
            Some(unsafe { [load::<_, _, 0>(base, offset), load::<_, _, 8>(base, offset)] })
        }
        None => read_at(address + offset.load()),
    }
}

/// Reads `N` numbers that lie in a row, from `offset` on, in the header `kind` at `address`.
#[inline(always)]
pub fn read_row<T: Copy + Default, const N: usize>(
    kind: impl Open,
    address: u64,
    offset: u64,
) -> Option<[T; N]> {
    let Some(base) = cast(kind, address) else { return read_at(address + offset) };
    let mut row = [T::default(); N];
    for (i, number) in row.iter_mut().enumerate() {
        // SAFETY: the verifier checks that the type has such members there; a fault at run time reads as
        // zero (`PROBE_MEM`). Volatile, because the kernel writes concurrently.
        *number = unsafe { base.add(offset as usize).cast::<T>().add(i).read_volatile() };
    }
    Some(row)
}
