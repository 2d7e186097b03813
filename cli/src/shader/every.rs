//! Every variant that the host can ask for, seen by naga: valid, within WebGPU's default limits, and bound as the host binds it. Then
//! in every language: translated, described as it is bound, and without what Metal gets wrong.

// A test that cannot go on fails, and says why.
#![allow(clippy::panic, clippy::print_stdout)]

use std::collections::HashSet;

use double_routing::{
    Gpu, Variant,
    kernels::{ALL, Access, Kernel, Slot},
    wgpu,
};
use naga::{
    AddressSpace, Handle, ImageClass, ImageDimension, Module, ShaderStage, StorageAccess, StorageFormat, Type,
    TypeInner, proc::Layouter,
};

use super::{
    describe::{Description, access_name},
    metal::{GROUP_MEMORY, lint},
    select::Named,
    translate::{Language, Shader, Target},
};

#[test]
fn every_variant_in_every_language() {
    for kernel in ALL {
        let variants: Vec<Named> = kernel.variants().into_iter().map(Named::from).collect();
        println!("{}: {} variants", kernel.name(), variants.len());
        let different: HashSet<&str> = variants.iter().map(|variant| variant.text.as_str()).collect();
        assert_eq!(different.len(), variants.len(), "{}: a variant is listed twice", kernel.name());
        std::thread::scope(|threads| {
            for part in variants.chunks(variants.len().div_ceil(2)) {
                threads.spawn(|| part.iter().for_each(|variant| examine(kernel, variant)));
            }
        });
    }
}

fn examine(kernel: &'static Kernel, variant: &Named) {
    let about = format!("{} {}", kernel.name(), variant.text);
    // Only a variant that names subgroups, words of 64 bits or matrix units may use them; nothing else goes beyond what every
    // device has.
    let shader = Shader::new(kernel, &variant.variant).unwrap_or_else(|error| panic!("{about}: {error:#}"));
    bindings(&about, kernel, &variant.variant, &shader.module);
    parameters(&about, kernel, &shader.module);
    limits(&about, &shader);
    for target in Target::ALL {
        let language = Language::new(*target, None, false).unwrap_or_else(|error| panic!("{about}: {error:#}"));
        let translated = shader.translate(language);
        if target.lacks(shader.features).is_some() {
            assert!(translated.is_err(), "{about}: {target:?}");
            continue;
        }
        let mut translation = translated.unwrap_or_else(|error| panic!("{about}: {target:?}: {error:#}"));
        let code = std::mem::take(&mut translation.code);
        if *target == Target::Msl {
            let text = String::from_utf8_lossy(&code);
            let memory = shader.workgroup_memory().unwrap_or_else(|error| panic!("{about}: {error:#}"));
            // A tile that takes more is for devices that have it.
            let most = GROUP_MEMORY.max(shader.features.workgroup_bytes);
            let problems = lint(&text, shader.workgroup_size().iter().product(), memory, most);
            assert!(problems.is_empty(), "{about}: {problems:#?}");
        }
        let description = Description::new(kernel, variant, language, &shader, translation)
            .and_then(|description| Ok(serde_json::to_value(description)?))
            .unwrap_or_else(|error| panic!("{about}: {target:?}: {error:#}"));
        interface(&about, kernel, variant, *target, &description);
        places(&about, *target, &description, &code);
    }
}

/// What is said of the bindings and parameters is what the library binds.
fn interface(about: &str, kernel: &Kernel, variant: &Named, target: Target, description: &serde_json::Value) {
    let said: Vec<_> = list(&description["bindings"])
        .iter()
        .map(|binding| format!("{} {} {}", binding["binding"], binding["name"], binding["access"]))
        .collect();
    let slots = kernel.slots(&variant.variant).unwrap_or_else(|error| panic!("{about}: {error}"));
    let mut bound: Vec<_> = slots.iter().collect();
    bound.sort_by_key(|slot| slot.binding);
    let bound: Vec<_> =
        bound.iter().map(|slot| format!("{} {:?} {:?}", slot.binding, slot.name, access_name(slot.access))).collect();
    assert_eq!(said, bound, "{about}: {target:?}");

    let fields = list(&description["parameters"]["fields"]);
    let said: Vec<_> = fields.iter().map(|field| format!("{} {}", field["name"], field["offset"])).collect();
    let params = kernel.params();
    let bound: Vec<_> = params.iter().map(|(name, offset)| format!("{name:?} {offset}")).collect();
    assert_eq!(said, bound, "{about}: {target:?}");
    let end = params.iter().map(|(_, offset)| offset + 4).max().unwrap_or_default() as u64;
    assert_eq!(description["parameters"]["bytes"].as_u64(), Some(end.next_multiple_of(16)), "{about}: {target:?}");
}

/// What is declared is what the library binds.
fn bindings(about: &str, kernel: &Kernel, variant: &Variant, module: &Module) {
    let mut declared: Vec<(u32, String, AddressSpace)> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let binding = variable.binding.as_ref()?;
            assert_eq!(binding.group, 0, "{about}");
            Some((binding.binding, variable.name.clone().unwrap_or_default(), variable.space))
        })
        .collect();
    declared.sort_by_key(|(binding, ..)| *binding);
    let mut expected = vec![(0, "params".to_string(), AddressSpace::Uniform)];
    for slot in kernel.slots(variant).unwrap_or_else(|error| panic!("{about}: {error}")) {
        let access = match slot.access {
            Access::Read => StorageAccess::LOAD,
            Access::Write => StorageAccess::LOAD | StorageAccess::STORE,
            Access::ReadTexels | Access::WriteTexels => {
                texels(about, &slot, module);
                expected.push((slot.binding, slot.name.to_string(), AddressSpace::Handle));
                continue;
            }
        };
        expected.push((slot.binding, slot.name.to_string(), AddressSpace::Storage { access }));
    }
    assert_eq!(declared, expected, "{about}");
}

/// The texture is of the format that the host makes, and used as the slot says.
fn texels(about: &str, slot: &Slot, module: &Module) {
    let (_, variable) = module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.name.as_deref() == Some(slot.name))
        .unwrap_or_else(|| panic!("{about}: no {}", slot.name));
    let access = if slot.access == Access::ReadTexels { StorageAccess::LOAD } else { StorageAccess::STORE };
    let expected = TypeInner::Image {
        dim: ImageDimension::D2,
        arrayed: false,
        class: ImageClass::Storage { format: StorageFormat::Rgba32Float, access },
    };
    assert_eq!(module.types[variable.ty].inner, expected, "{about}");
}

/// The struct in the shader is the one of the library.
fn parameters(about: &str, kernel: &Kernel, module: &Module) {
    let (_, params) = module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.space == AddressSpace::Uniform)
        .unwrap_or_else(|| panic!("{about}: no parameters"));
    let mut fields = Vec::new();
    flatten(module, params.ty, "", 0, &mut fields);
    assert_eq!(fields, kernel.params(), "{about}");
}

fn flatten(module: &Module, ty: Handle<Type>, prefix: &str, start: usize, fields: &mut Vec<(String, usize)>) {
    match &module.types[ty].inner {
        TypeInner::Struct { members, .. } => {
            for member in members {
                let name = member.name.clone().unwrap_or_default();
                let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(module, member.ty, &name, start + member.offset as usize, fields);
            }
        }
        TypeInner::Scalar(naga::Scalar { kind: naga::ScalarKind::Uint, width: 4 }) => {
            fields.push((prefix.into(), start))
        }
        other => panic!("{prefix} is {other:?}, expected u32"),
    }
}

/// Those that every device with WebGPU has.
fn limits(about: &str, shader: &Shader) {
    let (module, limits) = (&shader.module, wgpu::Limits::default());
    let entry = &module.entry_points[0];
    assert_eq!(
        (module.entry_points.len(), entry.name.as_str(), entry.stage),
        (1, "main", ShaderStage::Compute),
        "{about}"
    );
    let [x, y, z] = shader.workgroup_size();
    assert!(x * y * z <= limits.max_compute_invocations_per_workgroup, "{about}: {x} x {y} x {z} invocations");
    assert!(x <= limits.max_compute_workgroup_size_x && y <= limits.max_compute_workgroup_size_y && z == 1, "{about}");
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).unwrap_or_else(|error| panic!("{about}: {error}"));
    let shared: u32 = module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
        .map(|(_, variable)| layouter[variable.ty].size)
        .sum();
    // A tile that takes more than every device has says so, and is for those that have it.
    let most = limits.max_compute_workgroup_storage_size.max(shader.features.workgroup_bytes);
    assert!(shared <= most, "{about}: {shared} bytes of workgroup memory");
    let storage =
        module.global_variables.iter().filter(|(_, v)| matches!(v.space, AddressSpace::Storage { .. })).count();
    assert!(storage as u32 <= Gpu::required_limits().max_storage_buffers_per_shader_stage, "{about}");
}

/// Where the description says that a buffer is bound, there is one in the code.
fn places(about: &str, target: Target, description: &serde_json::Value, code: &[u8]) {
    let text = String::from_utf8_lossy(code);
    let buffers = list(&description["bindings"]).iter().chain([&description["parameters"]]);
    for buffer in buffers {
        let place = &buffer["place"];
        let text_of = |name: &str| place[name].as_str().unwrap_or_default().to_owned();
        let texture = buffer["word"] == "rgba32float";
        let written = match target {
            Target::Wgsl => {
                let space = if texture { " " } else { "<" };
                format!("@group({}) @binding({}) var{space}", place["group"], place["binding"])
            }
            Target::Msl if texture => format!("[[texture({})]]", place["texture"]),
            Target::Msl => format!("[[buffer({})]]", place["buffer"]),
            Target::Hlsl => format!(": register({})", text_of("register")),
            Target::Glsl => format!("binding = {}) ", place["binding"]),
            Target::Spirv => {
                let bindings = decorations(code, 33);
                let number = place["binding"].as_u64().unwrap_or(u64::MAX);
                assert_eq!(bindings.iter().filter(|binding| u64::from(**binding) == number).count(), 1, "{about}");
                continue;
            }
        };
        assert!(text.contains(&written), "{about}: {target:?} has no {written}");
        if target == Target::Glsl && texture {
            assert!(text.contains(&format!(" {};", text_of("image"))), "{about}: no image {}", text_of("image"));
        } else if target == Target::Glsl {
            assert!(text.contains(&format!("{} {{", text_of("block"))), "{about}: no block {}", text_of("block"));
        }
    }
    let entry = description["entry_point"].as_str().unwrap_or_default();
    if target != Target::Spirv {
        assert!(text.contains(&format!("{entry}(")), "{about}: {target:?} has no {entry}");
    }
}

/// The operands of SPIR-V's decorations of one kind.
fn decorations(code: &[u8], kind: u32) -> Vec<u32> {
    const OP_DECORATE: u32 = 71;
    let words: Vec<u32> =
        code.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
    let mut found = Vec::new();
    let mut rest = words.get(5..).unwrap_or_default();
    while let Some(first) = rest.first() {
        let (instruction, after) = rest.split_at(((first >> 16).max(1) as usize).min(rest.len()));
        if let [first, _, decoration, operand] = instruction
            && first & 0xffff == OP_DECORATE
            && *decoration == kind
        {
            found.push(*operand);
        }
        rest = after;
    }
    found
}

fn list(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
