//! What somebody who sees the program for the first time may want to know.

use calotype::checkpoint::hub::DOWNLOAD;

/// `demo`: no model was asked for. `adapter` is the device's name.
pub fn hints(demo: bool, adapter: &str) -> Vec<String> {
    let mut hints = Vec::new();
    if demo {
        let sdxl = "stabilityai/stable-diffusion-xl-base-1.0";
        hints.push(format!(
            "this is the small model inside the program; `{DOWNLOAD} {sdxl}` gets SDXL (7 GB), \
             and --model {sdxl} draws with it"
        ));
    }
    // One forward pass of SDXL took 98 s of processor time with Mesa 22.3 and LLVM 15, and 38 s
    // with Mesa 26.1 and LLVM 19 (one machine, 2026-11-26).
    let llvm = adapter.strip_prefix("llvmpipe (LLVM ");
    let major = llvm.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    if major.is_some_and(|major| major < 19) {
        hints.push(
            "this machine's processor plays the GPU, by an old version of Mesa: one with LLVM \
             19 is more than twice as fast"
                .into(),
        );
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::{DOWNLOAD, hints};

    #[test]
    fn hints_are_for_whom_they_help() {
        assert!(hints(false, "NVIDIA H200").is_empty());
        assert!(hints(true, "NVIDIA H200")[0].contains(DOWNLOAD));
        assert!(hints(false, "llvmpipe (LLVM 19.1.7, 256 bits)").is_empty());
        let old = hints(false, "llvmpipe (LLVM 15.0.6, 256 bits)");
        assert!(old.len() == 1 && old[0].contains("Mesa"), "{old:?}");
    }
}
