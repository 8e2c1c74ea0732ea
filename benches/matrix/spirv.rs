//! naga 30 declares the Vulkan memory model for modules with cooperative matrices,
//! but leaves accesses of workgroup memory private and barriers without
//! availability and visibility (gfx-rs/wgpu#8805), so a driver may move an access
//! across a barrier. This writes the SPIR-V of a shader with both in place.

use anyhow::{Context, Result, anyhow};
use std::collections::{HashMap, HashSet};

const NON_PRIVATE: u32 = 0x20;
const AVAILABLE_AND_VISIBLE: u32 = 0x6000;

const OP_TYPE_POINTER: u32 = 32;
const OP_CONSTANT: u32 = 43;
const OP_VARIABLE: u32 = 59;
const OP_LOAD: u32 = 61;
const OP_STORE: u32 = 62;
const OP_ACCESS_CHAIN: u32 = 65;
const OP_CONTROL_BARRIER: u32 = 224;
const OP_MATRIX_LOAD: u32 = 4457;
const OP_MATRIX_STORE: u32 = 4458;
const WORKGROUP: u32 = 4;

/// A shader as naga reads it.
pub struct Module {
    pub module: naga::Module,
    info: naga::valid::ModuleInfo,
}

impl Module {
    pub fn parse(wgsl: &str) -> Result<Self> {
        let module = naga::front::wgsl::parse_str(wgsl)
            .map_err(|e| anyhow!("{}", e.emit_to_string(wgsl)))?;
        let capabilities = naga::back::spv::supported_capabilities();
        let flags = naga::valid::ValidationFlags::all();
        let info = naga::valid::Validator::new(flags, capabilities)
            .subgroup_stages(naga::valid::ShaderStages::all())
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|e| anyhow!("{}", e.emit_to_string(wgsl)))?;
        Ok(Self { module, info })
    }

    /// SPIR-V 1.6 without run-time checks, ordered.
    pub fn ordered(&self) -> Result<Vec<u32>> {
        let options = naga::back::spv::Options {
            lang_version: (1, 6),
            zero_initialize_workgroup_memory:
                naga::back::spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            ..Default::default()
        };
        let words = naga::back::spv::write_vec(&self.module, &self.info, &options, None)?;
        order(&words)
    }
}

/// Makes workgroup accesses non-private and barriers available and visible.
fn order(words: &[u32]) -> Result<Vec<u32>> {
    let mut pointer_types = HashSet::new();
    let mut shared = HashSet::new();
    let mut constants = HashMap::new();
    let mut semantics = HashSet::new();
    for op in instructions(words) {
        match op[0] & 0xffff {
            OP_TYPE_POINTER if op[2] == WORKGROUP => {
                pointer_types.insert(op[1]);
            }
            OP_CONSTANT if op.len() == 4 => {
                constants.insert(op[2], (op[1], op[3]));
            }
            OP_VARIABLE | OP_ACCESS_CHAIN if pointer_types.contains(&op[1]) => {
                shared.insert(op[2]);
            }
            OP_CONTROL_BARRIER => {
                semantics.insert(op[3]);
            }
            _ => {}
        }
    }
    let mut bound = words[3];
    let mut replaced = HashMap::new();
    let mut out = words[..5].to_vec();
    for op in instructions(words) {
        let mut op = op.to_vec();
        let access = |op: &mut Vec<u32>, at: usize| match op.get_mut(at) {
            Some(operand) => *operand |= NON_PRIVATE,
            None => op.push(NON_PRIVATE),
        };
        match op[0] & 0xffff {
            OP_LOAD if shared.contains(&op[3]) => access(&mut op, 4),
            OP_STORE if shared.contains(&op[1]) => access(&mut op, 3),
            OP_MATRIX_LOAD if shared.contains(&op[3]) => access(&mut op, 6),
            OP_MATRIX_STORE if shared.contains(&op[1]) => access(&mut op, 5),
            OP_CONTROL_BARRIER => {
                op[3] = *replaced
                    .get(&op[3])
                    .context("a barrier's semantics are no constant")?;
            }
            _ => {}
        }
        op[0] = (op[0] & 0xffff) | (op.len() as u32) << 16;
        out.extend_from_slice(&op);
        if op[0] & 0xffff == OP_CONSTANT && semantics.contains(&op[2]) {
            let (kind, value) = constants[&op[2]];
            out.extend([
                OP_CONSTANT | 4 << 16,
                kind,
                bound,
                value | AVAILABLE_AND_VISIBLE,
            ]);
            replaced.insert(op[2], bound);
            bound += 1;
        }
    }
    out[3] = bound;
    Ok(out)
}

fn instructions(words: &[u32]) -> impl Iterator<Item = &[u32]> {
    let mut rest = &words[5..];
    std::iter::from_fn(move || {
        let count = (*rest.first()? >> 16) as usize;
        let (op, after) = rest.split_at_checked(count.max(1))?;
        rest = after;
        Some(op)
    })
}
