//! Every shader permutation through naga's validator and its SPIR-V, MSL and
//! HLSL writers: proof of portability as far as it goes without the hardware.

use calotype::gpu::PipelineKey;
use calotype::kernel::permutations;
use naga::back::{hlsl, msl, pipeline_constants, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn constants(key: &PipelineKey) -> naga::back::PipelineConstants {
    key.constants
        .iter()
        .map(|(name, value)| (name.to_string(), f64::from(*value)))
        .collect()
}

fn with_overrides(
    key: &PipelineKey,
    capabilities: Capabilities,
) -> (naga::Module, naga::valid::ModuleInfo) {
    let label = key.label();
    let wgsl = key.wgsl().unwrap_or_else(|e| panic!("{label}: {e}"));
    let module = naga::front::wgsl::parse_str(&wgsl)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(&wgsl)));
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(&wgsl)));
    let entry = (naga::ShaderStage::Compute, "main");
    let (module, info) =
        pipeline_constants::process_overrides(&module, &info, Some(entry), &constants(key))
            .unwrap_or_else(|e| panic!("{label}: {e}"));
    (module.into_owned(), info.into_owned())
}

#[test]
fn every_permutation_is_emitted_for_vulkan_metal_and_dx12() {
    let keys = permutations();
    assert!(keys.len() > 40, "only {} permutations", keys.len());
    for key in &keys {
        let label = key.label();
        let options = naga::back::spv::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: "main".into(),
        };
        let (module, info) = with_overrides(key, spv::supported_capabilities());
        let words = spv::write_vec(&module, &info, &spv::Options::default(), Some(&options))
            .unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
        assert!(words.len() > 100, "{label}");

        let (module, info) = with_overrides(key, msl::supported_capabilities());
        let options = msl::Options {
            fake_missing_bindings: true,
            lang_version: (2, 4),
            ..Default::default()
        };
        let (text, _) = msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
        assert!(text.contains("kernel"), "{label}");

        let (module, info) = with_overrides(key, hlsl::supported_capabilities());
        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V6_2,
            fake_missing_bindings: true,
            ..Default::default()
        };
        let mut text = String::new();
        let pipeline = hlsl::PipelineOptions::default();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
        assert!(text.contains("numthreads"), "{label}");
    }
}

#[test]
fn every_shader_file_is_listed_and_has_a_header() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let listed = calotype::shaders::SHADERS.iter().find(|s| s.0 == name);
        let (_, text) = listed.unwrap_or_else(|| panic!("{name} is not listed"));
        assert!(text.starts_with("// "), "{name} has no header");
    }
}
