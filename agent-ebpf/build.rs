//! Tells the programs for which architecture they are, as `bpf_target_arch`: registers differ.

fn main() -> aya_build::Result<()> {
    aya_build::emit_bpf_target_arch_cfg()
}
