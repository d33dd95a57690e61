//! The hooks: which program goes where, what it needs of the kernel, and which prototype it was
//! written for. A prototype that differs in the running kernel's BTF refuses the hook: better a
//! lower rung than a wrong argument.

mod connection;
mod handshake;
mod watch;

pub use connection::*;
pub use handshake::*;
pub use watch::*;

use super::{btf::Btf, layout::Layout};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// At a function's entry, by BPF trampoline (fentry).
    Entry,
    /// At a function's exit, by BPF trampoline (fexit).
    Exit,
    /// At a function's entry, by breakpoint or ftrace (kprobe).
    KprobeEntry,
    /// At a function's exit (kretprobe).
    KprobeExit,
    /// At a tracepoint, with typed arguments (`tp_btf`).
    Tracepoint,
}

impl Attach {
    /// The kernel's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entry => "fentry",
            Self::Exit => "fexit",
            Self::KprobeEntry => "kprobe",
            Self::KprobeExit => "kretprobe",
            Self::Tracepoint => "tp_btf",
        }
    }
}

/// One program and its place.
#[derive(Debug)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// The attach type, such as fexit or kretprobe.
    pub attach: Attach,
    /// Kernel function or tracepoint.
    pub target: &'static str,
    /// The leading arguments the program relies on: type names, pointers by what they point to.
    args: &'static [&'static str],
    /// Exact number of arguments, where the program reads the return value behind them.
    arg_count: Option<usize>,
    /// Load-time constants the program cannot do without.
    needs: &'static [&'static [&'static str]],
}

const fn hook(
    program: &'static str,
    attach: Attach,
    target: &'static str,
    args: &'static [&'static str],
    needs: &'static [&'static [&'static str]],
) -> Hook {
    Hook { program, attach, target, args, arg_count: None, needs }
}

/// The tracepoint that makes every system call of the host take the slow way out
/// (kernel: SYSCALL_WORK_SYSCALL_TRACEPOINT).
const SYSTEM_CALLS: &str = "sys_exit";

impl Hook {
    /// Where the program goes, as `fexit on tcp_conn_request`.
    pub fn place(&self) -> String {
        format!("{} on {}", self.attach.name(), self.target)
    }

    /// Whether every system call of the host takes longer for it.
    pub fn slows_system_calls(&self) -> bool {
        self.target == SYSTEM_CALLS
    }

    /// Why this hook cannot serve on the kernel that `btf` and `layout` describe; `None` if it can,
    /// as far as can be told without trying.
    pub fn objection(&self, btf: &Btf, layout: &Layout) -> Option<String> {
        let Self { target, attach, .. } = self;
        let actual = match attach {
            Attach::Tracepoint => btf.tracepoint(target),
            _ => btf.function(target).map(|params| params.into_iter().map(|(_, t)| t).collect()),
        };
        let Some(actual) = actual else {
            return Some(format!("this kernel has no {target}"));
        };
        let alike = actual.len() >= self.args.len()
            && self.args.iter().zip(&actual).all(|(want, have)| want.is_empty() || want == have);
        if !alike || self.arg_count.is_some_and(|count| count != actual.len()) {
            return Some(format!(
                "{target} has different arguments in this kernel: ({})",
                actual.join(", ")
            ));
        }
        self.needs.iter().find_map(|constants| layout.missing(constants))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection(hook: &Hook) -> Option<String> {
        let btf = Btf::read(Btf::VMLINUX.as_ref()).ok()?;
        let layout = Layout::resolve(&btf);
        hook.objection(&btf, &layout)
    }

    #[test]
    fn a_kernel_that_is_not_what_a_hook_was_written_for_is_refused() {
        if !std::path::Path::new(Btf::VMLINUX).exists() {
            println!("skipped: this kernel has no BTF");
            return;
        }
        let args = &["request_sock_ops", "tcp_request_sock_ops", "sock", "sk_buff"];
        let known = || hook("p", Attach::Entry, "tcp_conn_request", args, &[]);
        assert_eq!(objection(&known()), None);
        let unknown = Hook { target: "tcp_no_such_function", ..known() };
        assert_eq!(objection(&unknown).unwrap(), "this kernel has no tcp_no_such_function");
        let other = Hook { args: &["sock"], ..known() };
        assert!(objection(&other).unwrap().contains("has different arguments"));
        let more = Hook { arg_count: Some(9), ..known() };
        assert!(objection(&more).unwrap().contains("has different arguments"));
    }
}
