//! Every shader permutation through naga's validator and its SPIR-V, MSL and
//! HLSL writers: proof of portability as far as it goes without the hardware.

use calotype::bench::peaks;
use calotype::gpu::{Access, HostShareable, Layout, PipelineKey, STORAGE_BUFFERS};
use calotype::kernel::latent::StepValues;
use calotype::kernel::norm::STATS_LANES;
use calotype::kernel::product::EPILOGUE_FLAGS;
use calotype::kernel::{Activation, permutations};
use naga::back::{hlsl, msl, pipeline_constants, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::collections::{BTreeMap, BTreeSet};

/// The kernels' permutations, and those that peaks are measured with.
fn all() -> Vec<PipelineKey> {
    let mut all = permutations();
    all.extend(peaks::permutations());
    all
}

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
    let keys = all();
    assert!(keys.len() > 40, "only {} permutations", keys.len());
    let mut matrices = [0, 0];
    for key in &keys {
        let storage = key.bindings.iter().filter(|b| **b != Access::Uniform);
        assert!(
            storage.count() <= STORAGE_BUFFERS as usize,
            "{}",
            key.label()
        );
        let has = |name: &str| key.defines.iter().any(|(define, _)| define == name);
        match (has("COOP"), has("FLAT")) {
            (false, _) => {
                write_spirv(key);
                write_msl(key);
                write_hlsl(key);
            }
            // DX12 has no matrices; Metal's are loaded from scalars, and only there.
            (true, false) => {
                write_spirv(key);
                matrices[0] += 1;
                // Peaks load their matrices from scalars everywhere.
                if key.shader == "peak_matrix" && !key.label().contains("F=16") {
                    lint_matrices(key, &write_msl(key));
                }
            }
            (true, true) => {
                let text = write_msl(key);
                lint_matrices(key, &text);
                matrices[1] += 1;
            }
        }
    }
    assert!(matrices.iter().all(|count| *count > 10), "{matrices:?}");
}

fn write_spirv(key: &PipelineKey) {
    let label = key.label();
    let options = naga::back::spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".into(),
    };
    let (module, info) = with_overrides(key, spv::supported_capabilities());
    let target = spv::Options {
        lang_version: (1, 4),
        ..Default::default()
    };
    let words = spv::write_vec(&module, &info, &target, Some(&options))
        .unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
    assert!(words.len() > 100, "{label}");
    if let Some(folder) = std::env::var_os("CALOTYPE_SPIRV") {
        let path = std::path::Path::new(&folder).join(label.replace(' ', "_") + ".spv");
        std::fs::write(path, bytemuck::cast_slice(&words)).unwrap();
    }
}

fn write_msl(key: &PipelineKey) -> String {
    let label = key.label();
    let (module, info) = with_overrides(key, msl::supported_capabilities());
    let options = msl::Options {
        fake_missing_bindings: true,
        lang_version: (2, 4),
        ..Default::default()
    };
    let (text, _) = msl::write_string(&module, &info, &options, &Default::default())
        .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
    assert!(text.contains("kernel"), "{label}");
    text
}

fn write_hlsl(key: &PipelineKey) {
    let label = key.label();
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

/// What naga writes for Metal without a word and no compiler there takes: matrices of
/// 16x16, and loads through a pointer to a vector.
fn lint_matrices(key: &PipelineKey, text: &str) {
    let label = key.label();
    assert!(!text.contains("16x16"), "{label}: a matrix of 16x16");
    let (module, _) = with_overrides(key, msl::supported_capabilities());
    let mut loads = 0;
    for function in module.entry_points.iter().map(|entry| &entry.function) {
        for (_, expression) in function.expressions.iter() {
            let naga::Expression::CooperativeLoad { data, .. } = expression else {
                continue;
            };
            loads += 1;
            assert!(
                is_scalar(&module, function, data.pointer),
                "{label}: {data:?}"
            );
        }
    }
    assert!(loads > 0, "{label}: no matrices");
}

/// Whether `pointer` is to an element of an array of scalars.
fn is_scalar(
    module: &naga::Module,
    function: &naga::Function,
    pointer: naga::Handle<naga::Expression>,
) -> bool {
    let array = match function.expressions[pointer] {
        naga::Expression::Access { base, .. } | naga::Expression::AccessIndex { base, .. } => base,
        _ => return false,
    };
    let naga::Expression::GlobalVariable(variable) = function.expressions[array] else {
        return false;
    };
    let of = &module.types[module.global_variables[variable].ty].inner;
    let naga::TypeInner::Array { base, .. } = of else {
        return false;
    };
    matches!(module.types[*base].inner, naga::TypeInner::Scalar(_))
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

/// Fails unless `ty` lies in memory as Rust's `layout` does.
fn compare(module: &naga::Module, ty: naga::Handle<naga::Type>, layout: &Layout, at: &str) {
    use naga::{ArraySize, Scalar, TypeInner};
    let word = |scalar: &Scalar| match *scalar {
        Scalar::U32 => Layout::U32,
        Scalar::F32 => Layout::F32,
        other => panic!("{at}: {other:?} is not known here"),
    };
    match (&module.types[ty].inner, layout) {
        (TypeInner::Scalar(scalar), layout) => assert_eq!(word(scalar), *layout, "{at}"),
        (TypeInner::Vector { size, scalar }, Layout::Array(element, count)) => {
            assert_eq!((*size as usize, word(scalar)), (*count, **element), "{at}");
        }
        (TypeInner::Array { base, size, stride }, Layout::Array(element, count)) => {
            let ArraySize::Constant(found) = size else {
                panic!("{at}: {size:?}");
            };
            assert_eq!(found.get() as usize, *count, "{at}: elements");
            assert_eq!(
                *stride as usize,
                bytes(element),
                "{at}: bytes of an element"
            );
            compare(module, *base, element, &format!("{at}[]"));
        }
        (TypeInner::Struct { members, .. }, Layout::Struct(expected)) => {
            let found = members
                .iter()
                .map(|m| (m.name.as_deref().unwrap(), m.offset as usize));
            let wanted = expected.iter().map(|m| (m.name, m.offset));
            assert_eq!(
                found.collect::<Vec<_>>(),
                wanted.collect::<Vec<_>>(),
                "{at}"
            );
            for (member, expected) in members.iter().zip(*expected) {
                let at = format!("{at}.{}", expected.name);
                compare(module, member.ty, &expected.layout, &at);
            }
        }
        (inner, layout) => panic!("{at}: {inner:?} is {layout:?} in Rust"),
    }
}

/// Bytes of a type without padding at its end.
fn bytes(layout: &Layout) -> usize {
    match layout {
        Layout::U32 | Layout::F32 => 4,
        Layout::Array(element, count) => bytes(element) * count,
        Layout::Struct(members) => members
            .last()
            .map_or(0, |last| last.offset + bytes(&last.layout)),
    }
}

/// The structs that Rust writes and shaders read, of every permutation: the uniform, and
/// the step's numbers, which is the only other. And how each binding is used.
#[test]
fn structs_are_the_same_in_rust_and_wgsl() {
    let (mut uniforms, mut steps) = (BTreeSet::new(), BTreeSet::new());
    for key in all() {
        let label = key.label();
        let module = naga::front::wgsl::parse_str(&key.wgsl().unwrap()).unwrap();
        let mut bindings = BTreeMap::new();
        for (_, global) in module.global_variables.iter() {
            let name = global.name.as_deref().unwrap();
            let at = format!("{label}: {name}");
            let is_struct = matches!(
                module.types[global.ty].inner,
                naga::TypeInner::Struct { .. }
            );
            let access = match global.space {
                naga::AddressSpace::Uniform => {
                    compare(&module, global.ty, &key.uniform, &at);
                    uniforms.insert(key.shader);
                    Access::Uniform
                }
                naga::AddressSpace::Storage { access } => {
                    if is_struct {
                        compare(&module, global.ty, &StepValues::LAYOUT, &at);
                        steps.insert(key.shader);
                    }
                    match access.contains(naga::StorageAccess::STORE) {
                        true => Access::Write,
                        false => Access::Read,
                    }
                }
                _ => continue,
            };
            let binding = global.binding.unwrap();
            assert_eq!(binding.group, 0, "{at}");
            assert_eq!(bindings.insert(binding.binding, access), None, "{at}");
        }
        let expected = (0..).zip(key.bindings.iter().copied());
        assert_eq!(bindings, expected.collect(), "{label}");
    }
    let shaders: BTreeSet<_> = all().iter().map(|key| key.shader).collect();
    assert_eq!(uniforms, shaders, "a shader without a uniform");
    assert_eq!(steps.len(), 7, "{steps:?}");
}

/// Numbers that are written down on both sides.
#[test]
fn constants_are_the_same_in_rust_and_wgsl() {
    let mut found = BTreeMap::new();
    for key in all() {
        let module = naga::front::wgsl::parse_str(&key.wgsl().unwrap()).unwrap();
        for (_, constant) in module.constants.iter() {
            let value = &module.global_expressions[constant.init];
            if let naga::Expression::Literal(naga::Literal::U32(value)) = value {
                found.insert(constant.name.clone().unwrap(), *value);
            }
        }
    }
    let mut expected: Vec<(&str, u32)> = [
        ("NONE", Activation::None),
        ("SILU", Activation::Silu),
        ("GELU", Activation::Gelu),
        ("QUICK_GELU", Activation::QuickGelu),
        ("RELU", Activation::Relu),
        ("SOFT_CLAMP", Activation::SoftClamp),
    ]
    .map(|(name, kind)| (name, kind as u32))
    .to_vec();
    expected.extend(EPILOGUE_FLAGS);
    expected.push(("STATS_LANES", STATS_LANES as u32));
    for (name, value) in expected {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
}
